//! What a monitoring system is told.

use std::time::Duration;

use midward_oauth::TokenMetrics;

use crate::support::{LONG, Reply, World};

fn survives(metrics: &TokenMetrics) -> Option<u64> {
    metrics.servers[0].survives.map(|time| time.as_secs())
}

#[tokio::test(start_paused = true)]
async fn the_survival_time_is_that_of_the_first_token_in_use_to_end() {
    let world = World::new();
    let cache = world.cache();
    assert!(cache.metrics(10).servers.is_empty());
    let (long, short) = (world.handle(&cache, "i", "long", "read"), world.handle(&cache, "i", "short", "read"));
    long.token(LONG).await.unwrap();
    world.set(Reply::Token("600"));
    short.token(LONG).await.unwrap();
    world.set(Reply::Unreachable);
    let metrics = cache.metrics(10);
    assert_eq!((survives(&metrics), metrics.servers[0].in_use), (Some(599), 2));
    assert_eq!(metrics.profiles[0].credential_id, "short");
    // And it is true: calls go on for just so long.
    for _ in 0..598 {
        long.token(LONG).await.unwrap();
        short.token(LONG).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(survives(&cache.metrics(10)), Some(1));
    tokio::time::sleep(Duration::from_secs(3)).await;
    short.token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!(survives(&cache.metrics(10)), Some(0), "one that is in use has no token");
    // What nobody uses any more does not count.
    tokio::time::sleep(Duration::from_mins(6)).await;
    long.token(LONG).await.unwrap();
    let metrics = cache.metrics(10);
    assert_eq!(metrics.servers[0].in_use, 1);
    assert!(survives(&metrics).unwrap() > 2000, "{:?}", survives(&metrics));
}

#[tokio::test(start_paused = true)]
async fn fetches_are_counted_by_result_and_circuits_by_credential() {
    let world = World::new();
    let cache = world.cache();
    world.handle(&cache, "i", "good", "read").token(LONG).await.unwrap();
    world.vault.lock().unwrap().insert("wrong".into(), "wrong".into());
    for scope in ["read", "write"] {
        world.handle(&cache, "i", "wrong", scope).token(LONG).await.map(|_| ()).unwrap_err();
    }
    world.set(Reply::Unreachable);
    world.handle(&cache, "i", "third", "read").token(LONG).await.map(|_| ()).unwrap_err();
    let metrics = cache.metrics(10);
    assert_eq!((metrics.counts.mints, metrics.counts.failures), (1, 3));
    assert_eq!((metrics.failures["invalid_client"], metrics.failures["token_endpoint_unreachable"]), (2, 1));
    assert_eq!(metrics.servers[0].circuits_open, 1);
    assert_eq!((metrics.states["valid"], metrics.states["circuit_open"], metrics.states["failed"]), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_profiles_is_bounded_and_every_one_has_a_name_of_its_own() {
    let world = World::new();
    let cache = world.cache();
    for n in 0..50 {
        world.handle(&cache, "i", "c", &format!("s{n}")).token(LONG).await.unwrap();
    }
    assert_eq!(cache.metrics(0).profiles.len(), 0);
    assert_eq!(cache.metrics(20).profiles.len(), 20);
    let metrics = cache.metrics(1000);
    let names: std::collections::HashSet<_> = metrics.profiles.iter().map(|profile| &profile.profile).collect();
    assert_eq!((metrics.profiles.len(), names.len()), (50, 50));
    let shown = format!("{metrics:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("token-1"), "{shown}");
}
