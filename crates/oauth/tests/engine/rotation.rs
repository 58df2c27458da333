//! Secrets that change, and secrets that are wrong.

use std::time::Duration;

use midward_core::{Failure, Hop};

use crate::support::{LONG, Reply, World};

fn rotate(world: &World, secret: &str) {
    world.vault.lock().unwrap().insert("c".into(), secret.into());
    *world.accepted.lock().unwrap() = vec![secret.into()];
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_read_past_the_vaults_cache_and_sent_once_more() {
    for refusal in [
        Reply::Status(401, r#"{"error":"invalid_client"}"#),
        Reply::Status(400, r#"{"error":"invalid_client"}"#),
        Reply::Status(401, ""),
        // Keycloak's answer to a wrong secret.
        Reply::Status(401, r#"{"error":"unauthorized_client"}"#),
        Reply::Status(200, r#"{"error":"invalid_client"}"#),
    ] {
        let world = World::new();
        *world.refusal.lock().unwrap() = refusal.clone();
        let cache = world.cache();
        let handle = world.handle(&cache, "i", "c", "read");
        rotate(&world, "new");
        world.stale.lock().unwrap().insert("c".into(), "s3cret".into());
        handle.token(LONG).await.unwrap_or_else(|failure| panic!("{refusal:?}: {failure}"));
        assert_eq!((world.reads(), world.posts()), (2, 2), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_opens_the_circuit_of_this_credential_only_and_a_new_one_closes_it() {
    let world = World::new();
    let cache = world.cache();
    let wrong = world.handle(&cache, "i", "c", "read");
    let same_client = world.handle(&cache, "i", "c", "write");
    let other = world.handle(&cache, "i", "other", "read");
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    let failure = wrong.token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!((failure.code.as_str(), failure.hop), ("invalid_client", Hop::AuthorizationServer));
    assert_eq!(world.posts(), 1);
    // Another profile of the same credential does not send it either.
    assert_eq!(same_client.token(LONG).await.map(|_| ()).unwrap_err().code, "invalid_client");
    assert_eq!(world.posts(), 1);
    other.token(LONG).await.expect("another credential is not affected");
    assert_eq!(world.posts(), 2);

    // Ten minutes of calls: the vault is read every 30 s, the secret sent every 2 min at most.
    let reads = world.reads();
    for _ in 0..600 {
        assert_eq!(wrong.token(LONG).await.map(|_| ()).unwrap_err().code, "invalid_client");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (read, sent) = (world.reads() - reads, world.posts() - 2);
    assert!((15..=25).contains(&read), "{read} reads");
    assert!((4..=8).contains(&sent), "{sent} requests");

    world.vault.lock().unwrap().insert("c".into(), "s3cret".into());
    tokio::time::sleep(Duration::from_secs(31)).await;
    wrong.token(LONG).await.expect("the vault was read again");
    same_client.token(LONG).await.expect("the circuit is closed for all");
}

#[tokio::test(start_paused = true)]
async fn a_refused_secret_is_remembered_when_its_connection_goes_and_comes_again() {
    // As when a configuration changes to and fro, among so many others that the cache looks for what it can forget.
    let world = World::new();
    let cache = world.cache();
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    world.handle(&cache, "i", "c", "read").token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!(world.posts(), 1);
    let fill = |from: usize| {
        for n in from..from + 1100 {
            drop(world.handle(&cache, "i", "other", &format!("s{n}")));
        }
    };
    fill(0);
    let again = world.handle(&cache, "i", "c", "read");
    assert_eq!(again.token(LONG).await.map(|_| ()).unwrap_err().code, "invalid_client");
    assert_eq!(world.posts(), 1, "the refused secret was sent again");
    // And forgotten when there is nothing left to remember.
    drop(again);
    tokio::time::sleep(Duration::from_mins(10)).await;
    fill(2000);
    assert!(cache.statuses().iter().all(|status| *status.key.client.credential_id == *"other"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_is_tried_at_once() {
    let world = World::new();
    let cache = world.cache();
    world.accepted.lock().unwrap().clear();
    let refused = world.handle(&cache, "i", "c", "read");
    refused.token(LONG).await.map(|_| ()).unwrap_err();
    world.accepted.lock().unwrap().push("s3cret".into());
    // The same secret at another URL: nobody has refused it there.
    let changed = world.handle_at(&cache, "https://as.example/right/token", "c", "read");
    changed.token(LONG).await.expect("tried at once");
    assert_eq!(world.posts(), 2);
    assert_eq!(refused.token(LONG).await.map(|_| ()).unwrap_err().code, "invalid_client");
}

#[tokio::test(start_paused = true)]
async fn an_operator_closes_the_circuit() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    handle.token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!(cache.statuses()[0].state, "circuit_open");
    world.vault.lock().unwrap().clear();
    cache.flush(|_| true);
    handle.token(LONG).await.expect("tried at once");
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_goes_on_being_served_while_the_secret_is_wrong() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    handle.token(LONG).await.unwrap();
    world.accepted.lock().unwrap().clear();
    for _ in 0..3590 {
        handle.token(LONG).await.expect("the old token until its end");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let status = &cache.statuses()[0];
    assert_eq!(status.last_failure.as_ref().unwrap().code, "invalid_client");
    assert!(world.posts() < 20, "{}", world.posts());
    rotate(&world, "new");
    tokio::time::sleep(Duration::from_secs(31)).await;
    handle.token(LONG).await.expect("the new secret");
}

#[tokio::test(start_paused = true)]
async fn a_rotation_with_two_valid_secrets_loses_no_call() {
    let world = World::new();
    world.set(Reply::Token("60"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    for second in 0..600 {
        match second {
            200 => world.accepted.lock().unwrap().push("new".into()),
            220 => drop(world.vault.lock().unwrap().insert("c".into(), "new".into())),
            300 => *world.accepted.lock().unwrap() = vec!["new".into()],
            _ => {}
        }
        handle.token(LONG).await.unwrap_or_else(|failure| panic!("second {second}: {failure}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_under_load_with_two_valid_secrets_loses_no_call() {
    // Twenty profiles, fifty callers of each, tokens of a minute; the vault's own cache goes on with the old secret for
    // a while after the new one is there.
    let world = World::new();
    world.set(Reply::Token("60"));
    let cache = world.cache();
    let mut callers = tokio::task::JoinSet::new();
    for profile in 0..20 {
        let handle = world.handle(&cache, "i", "c", &format!("s{profile}"));
        for caller in 0..50 {
            let (world, handle) = (std::sync::Arc::clone(&world), handle.clone());
            callers.spawn(async move {
                let mut calls = 0;
                tokio::time::sleep(Duration::from_millis(caller * 17)).await;
                while world.clock.start_elapsed() < Duration::from_secs(300) {
                    let at = world.clock.start_elapsed();
                    let granted = handle.token(LONG).await.unwrap_or_else(|failure| panic!("at {at:?}: {failure}"));
                    assert!(world.left(granted.token().expose()) > 0.0);
                    calls += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                calls
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    world.accepted.lock().unwrap().push("new".into());
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.stale.lock().unwrap().insert("c".into(), "s3cret".into());
    world.vault.lock().unwrap().insert("c".into(), "new".into());
    // The old one goes, while the vault's cache still returns it.
    tokio::time::sleep(Duration::from_secs(90)).await;
    *world.accepted.lock().unwrap() = vec!["new".into()];
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.stale.lock().unwrap().clear();
    let mut calls = 0;
    while let Some(caller) = callers.join_next().await {
        calls += caller.unwrap();
    }
    assert!(calls > 290_000, "{calls}");
    assert_eq!(cache.counts().refusals, 0);
}

#[tokio::test(start_paused = true)]
async fn a_vaults_failure_passes_through_and_nothing_is_sent() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let failure = Failure::transient(Hop::Vault, "APPAP282E", "the vault is not reachable", "Check the vault.");
    *world.vault_failure.lock().unwrap() = Some(failure.clone());
    assert_eq!(handle.token(LONG).await.map(|_| ()), Err(failure));
    assert_eq!(world.posts(), 0);
    *world.vault_failure.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.token(LONG).await.expect("healed within the first back-off");
}

#[tokio::test(start_paused = true)]
async fn an_empty_secret_is_never_sent() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    world.vault.lock().unwrap().insert("c".into(), String::new());
    assert_eq!(handle.token(LONG).await.map(|_| ()).unwrap_err().code, "empty_secret");
    assert_eq!(world.posts(), 0);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_to() {
    let world = World::new();
    world.set(Reply::Headers(429, &[("retry-after", "60")], ""));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    for _ in 0..59 {
        assert_eq!(handle.token(LONG).await.map(|_| ()).unwrap_err().code, "rate_limited");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_empty_reply_does_not_stop_the_refresh() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    handle.token(LONG).await.unwrap();
    world.set(Reply::Status(200, ""));
    let posts = world.posts();
    while world.posts() == posts {
        tokio::time::sleep(Duration::from_secs(10)).await;
        handle.token(LONG).await.expect("the old token");
    }
    world.set(Reply::Token("3600"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let granted = handle.token(LONG).await.unwrap();
    assert!(world.left(granted.token().expose()) > 3000.0);
}

#[tokio::test(start_paused = true)]
async fn a_boot_time_hiccup_taken_as_permanent_heals_within_seconds() {
    let world = World::new();
    world.set(Reply::Status(404, "starting"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(handle.token(LONG).await.map(|_| ()).unwrap_err().code, "token_endpoint_not_found");
    world.set(Reply::Token("3600"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    handle.token(LONG).await.expect("no latch of minutes");
}

#[tokio::test(start_paused = true)]
async fn an_explanation_tells_ages_and_hops_and_no_secret() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert!(cache.explain(handle.key()).unwrap().sentence.starts_with("there is no token because"));
    let granted = handle.token(LONG).await.unwrap();
    let hops: Vec<_> = granted.trace().0.iter().map(|step| (step.hop, step.micros / 1000)).collect();
    assert_eq!(hops, [(Hop::Vault, 20), (Hop::AuthorizationServer, 50)]);
    let status = cache.explain(handle.key()).unwrap();
    assert!(status.sentence.contains("which ends in 59 min"), "{}", status.sentence);
    let shown = format!("{status:?} {granted:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("token-1"), "{shown}");
    assert_eq!(cache.counts().mints, 1);
}
