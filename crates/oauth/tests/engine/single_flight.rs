//! One fetch for all who wait, whoever leaves and however it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{LONG, Reply, World, spec};
use midward_core::Clock as _;
use midward_oauth::Origin;

const CALLERS: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_cause_one_read_and_one_request() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.token(LONG).await })
        })
        .collect();
    let mut fetched = 0;
    for call in calls {
        let granted = call.await.unwrap().expect("a token");
        assert_eq!(granted.token().expose(), "token-1");
        fetched += usize::from(granted.origin == Origin::Fetched);
    }
    assert_eq!((fetched, world.reads(), world.posts()), (1, 1, 1));
    let warm = handle.token(LONG).await.unwrap();
    assert_eq!(warm.origin, Origin::Cached);
    assert_eq!(warm.trace().0[0].what, "token from cache");
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_is_shared_and_does_not_let_each_waiter_try_in_turn() {
    let world = World::new();
    world.set(Reply::Unreachable);
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let began = world.clock.boot();
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.token(LONG).await.map(|granted| granted.origin) })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code, "token_endpoint_unreachable");
    }
    assert!(world.clock.boot().saturating_since(began) < Duration::from_secs(1));
    assert_eq!((world.reads(), world.posts()), (1, 1));

    // One attempt per back-off window from here on, however many ask.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let all = (0..20).map(|_| handle.token(LONG));
        for result in futures_util::future::join_all(all).await {
            assert_eq!(result.map(|_| ()).unwrap_err().code, "token_endpoint_unreachable");
        }
    }
    // Waits of 1, 2, 4, 8, 16, 30 s, each shortened by up to a half.
    assert!((5..=9).contains(&world.posts()), "{} requests in a minute", world.posts());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_does_not_cancel_the_fetch_of_the_others() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let first = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.token(LONG).await.map(|_| ()) })
    };
    tokio::task::yield_now().await;
    let second = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.token(LONG).await })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(second.await.unwrap().unwrap().origin, Origin::Waited);
    assert_eq!(world.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_deadline_ends_its_wait_and_not_the_fetch() {
    let world = World::new();
    *world.latency.lock().unwrap() = Duration::from_secs(5);
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let failure = handle.token(Duration::from_secs(1)).await.map(|_| ()).unwrap_err();
    assert_eq!(failure.code, "token_wait_timeout");
    assert_eq!(failure.hop, midward_core::Hop::AuthorizationServer);
    assert_eq!(handle.token(LONG).await.unwrap().origin, Origin::Waited);
    assert_eq!(world.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_ten_seconds() {
    let world = World::new();
    world.set(Reply::Never);
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let began = world.clock.boot();
    let failure = handle.token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!(failure.code, "token_endpoint_timeout");
    assert!(world.clock.boot().saturating_since(began) <= Duration::from_millis(10_100));
}

#[tokio::test(start_paused = true)]
async fn handles_with_one_key_share_one_token() {
    let world = World::new();
    let cache = world.cache();
    // Scopes have no order.
    let handles = (0..10).map(|n| world.handle(&cache, "i", "c", if n % 2 == 0 { "a b" } else { "b a" }));
    for handle in handles.collect::<Vec<_>>() {
        assert_eq!(handle.token(LONG).await.unwrap().token().expose(), "token-1");
    }
    assert_eq!(world.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_shapes_the_token_keeps_tokens_apart() {
    let world = World::new();
    let cache = world.cache();
    let base = spec("read");
    let mut keys = vec![
        crate::support::key("i", "c", &base),
        crate::support::key("j", "c", &base),
        crate::support::key("i", "d", &base),
    ];
    for change in 0..8 {
        let mut key = crate::support::key("i", "c", &base);
        let client = Arc::make_mut(&mut key.client);
        match change {
            0 => client.address = Some("host".into()),
            1 => client.resolver = "other".into(),
            2 => client.token_url = "https://other.example/token".into(),
            3 => client.client_auth = midward_oauth::ClientAuth::ClientSecretBasic,
            4 => key.audience = Some("a".into()),
            5 => drop(key.resource.insert("r".into())),
            6 => drop(key.extra_parameters.insert("k".into(), "v".into())),
            _ => key.dpop = true,
        }
        keys.push(key);
    }
    keys.push(crate::support::key("i", "c", &spec("read write")));
    let count = keys.len();
    for key in keys {
        cache.handle(key, world.fetcher("c", base.clone())).token(LONG).await.unwrap();
    }
    assert_eq!(world.posts(), count);
}

/// Random look-ups of one test run, each at a random point between the others.
const LOOKUPS: usize = 1_000_000;
/// Made one after the other by one task.
const RUN: usize = 50;

#[tokio::test(start_paused = true)]
async fn a_million_random_interleavings_mix_nothing_up() {
    use midward_core::Random as _;
    let world = World::new();
    world.set(Reply::Token("10"));
    let cache = world.cache();
    let seed = std::env::var("MIDWARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    println!("MIDWARD_SEED={seed}");
    let random = Arc::new(midward_core::SeededRandom::new(seed));
    // Three instances, four credentials, five profiles.
    let names = (0..60).map(|n| (format!("i{}", n % 3), format!("i{}-c{}", n % 3, n % 4), format!("s{}", n % 5)));
    let profiles: Arc<Vec<_>> =
        Arc::new(names.map(|(i, c, s)| (world.handle(&cache, &i, &c, &s), format!("{c} {s}"))).collect());
    let mut running = tokio::task::JoinSet::new();
    let mut granted = 0;
    for _ in 0..LOOKUPS / RUN {
        let (profiles, world, dice) = (Arc::clone(&profiles), Arc::clone(&world), Arc::clone(&random));
        running.spawn(async move {
            let mut granted = 0;
            for _ in 0..RUN {
                let choice = dice.next_u64();
                let (handle, shape) = &profiles[usize::try_from(choice % 60).unwrap()];
                let action = choice / 60 % 10_000;
                if let Ok(token) = handle.token(Duration::from_secs(2)).await {
                    granted += 1;
                    let text = token.token().expose();
                    assert!(world.is_good_for(text, shape), "another profile's token, or an expired one");
                    if action == 0 {
                        handle.reject(token.token());
                    }
                }
                if action % 20 == 1 {
                    tokio::task::yield_now().await;
                }
            }
            granted
        });
        match random.next_u64() % 100 {
            0..50 => tokio::time::sleep(Duration::from_millis(random.next_u64() % 40)).await,
            50 => drop(cache.flush(|key| *key.client.instance == *"i1")),
            _ => {}
        }
        while running.len() > 500 {
            granted += running.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = running.join_next().await {
        granted += done.unwrap();
    }
    assert!(granted > LOOKUPS * 9 / 10, "{granted}");
    assert!(world.posts() > 2000, "{}", world.posts());
}
