//! Many profiles at one authorization server: what it is asked for, in which order, and what an idle profile costs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use midward_core::{BootTime, Clock as _, SeededRandom};
use midward_oauth::{BudgetRules, TokenCache, TokenCacheConfig, TokenHandle};

use crate::support::{LONG, Reply, World, key, spec};

fn cache(world: &World, budget: BudgetRules) -> TokenCache {
    let config = TokenCacheConfig { budget, ..TokenCacheConfig::default() };
    TokenCache::new(world.clock.clone(), Arc::new(SeededRandom::new(7)), config)
}

/// Everybody asks at once. Returns how many got a token.
async fn all(handles: &[TokenHandle]) -> usize {
    let asked: Vec<_> =
        handles.iter().cloned().map(|handle| tokio::spawn(async move { handle.token(LONG).await.is_ok() })).collect();
    let mut granted = 0;
    for task in asked {
        granted += usize::from(task.await.unwrap());
    }
    granted
}

/// Whether no stretch of time held more requests than the budget allows in it.
fn within(posts: &[BootTime], budget: &BudgetRules) -> bool {
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)].iter().all(
        |&window| {
            let most = u128::from(budget.burst) + window.as_nanos() / budget.spacing.as_nanos() + 1;
            let mut first = 0;
            posts.iter().enumerate().all(|(last, at)| {
                while at.saturating_since(posts[first]) > window {
                    first += 1;
                }
                (last - first + 1) as u128 <= most
            })
        },
    )
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_profiles_that_end_in_one_minute_are_refreshed_within_the_budget() {
    let world = World::new();
    let budget = BudgetRules { concurrent: 16, spacing: Duration::from_millis(5), burst: 20, ..BudgetRules::default() };
    let cache = cache(&world, budget.clone());
    let handles: Vec<_> =
        (0..10_000).map(|i| world.handle(&cache, "i", &format!("c-{}", i % 100), &format!("s-{i}"))).collect();
    assert_eq!(all(&handles).await, 10_000);
    let minted = world.clock.start_elapsed();
    assert!(minted < Duration::from_secs(70), "they end within a minute of each other: {minted:?}");
    // Every one is used now and then, past the end of the first tokens, and no call waits for a token.
    let waits = cache.counts().waits;
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(420)).await;
        for handle in &handles {
            let granted = handle.token(Duration::ZERO).await.expect("a token without waiting");
            assert!(world.left(granted.token().expose()) > 0.0);
        }
    }
    assert_eq!(cache.counts().waits, waits);
    assert_eq!(cache.counts().failures, 0);
    assert!(world.posts() >= 20_000, "{}", world.posts());
    assert!(world.most_running.load(Ordering::SeqCst) <= 16);
    assert!(within(&world.posts.lock().unwrap(), &budget), "a burst above the budget");
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_allowed_after_a_rest_and_earned_again_by_resting() {
    let world = World::new();
    *world.latency.lock().unwrap() = Duration::from_millis(1);
    let spacing = Duration::from_millis(100);
    let budget = BudgetRules { concurrent: 100, spacing, burst: 10, ..BudgetRules::default() };
    let cache = cache(&world, budget.clone());
    let began = world.clock.start_elapsed();
    let handles: Vec<_> = (0..20).map(|i| world.handle(&cache, "i", &format!("c-{i}"), "read")).collect();
    assert_eq!(all(&handles).await, 20);
    // Ten at once, ten more in a second.
    let took = world.clock.start_elapsed().saturating_sub(began);
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1200), "{took:?}");
    // Half a second of rest earns five.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = world.clock.start_elapsed();
    let handles: Vec<_> = (20..25).map(|i| world.handle(&cache, "i", &format!("c-{i}"), "read")).collect();
    assert_eq!(all(&handles).await, 5);
    assert!(world.clock.start_elapsed().saturating_sub(began) < Duration::from_millis(100));
    assert!(within(&world.posts.lock().unwrap(), &budget));
}

#[tokio::test(start_paused = true)]
async fn a_server_may_have_a_budget_of_its_own_and_its_queue_is_seen() {
    let world = World::new();
    let own = BudgetRules { concurrent: 1, ..BudgetRules::default() };
    let config =
        TokenCacheConfig { budgets: [("https://small.example".to_owned(), own)].into(), ..TokenCacheConfig::default() };
    let cache = TokenCache::new(world.clock.clone(), Arc::new(SeededRandom::new(7)), config);
    let handles: Vec<_> = (0..6)
        .map(|i| world.handle_at(&cache, "https://small.example/token", &format!("c-{}", i % 3), &format!("s-{i}")))
        .collect();
    let usual = world.handle(&cache, "i", "c", "read");
    let asked = tokio::spawn({
        let handles = handles.clone();
        async move { all(&handles).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    let servers = cache.servers();
    assert_eq!(servers[0].server, "https://as.example");
    assert_eq!(servers[0].running, 0);
    let small = &servers[1];
    assert_eq!((small.server.as_str(), small.running), ("https://small.example", 1));
    // Three credentials have a profile each in the queue or running; the second profile of each waits for the proof
    // that the secret is right.
    assert_eq!((small.waiting, small.clients_waiting, small.refreshes_waiting), (2, 2, 0));
    let sentences: Vec<String> = handles.iter().map(|handle| cache.explain(handle.key()).unwrap().sentence).collect();
    assert!(
        sentences
            .iter()
            .any(|sentence| sentence.contains("a turn at the authorization server, after 1 other credential")),
        "{sentences:?}"
    );
    usual.token(LONG).await.unwrap();
    assert_eq!(asked.await.unwrap(), 6);
    assert_eq!(world.posts(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_rate_keeps_requests_apart() {
    let world = World::new();
    let spacing = Duration::from_millis(100);
    let cache = cache(&world, BudgetRules { spacing, burst: 1, ..BudgetRules::default() });
    let handles: Vec<_> = (0..100).map(|i| world.handle(&cache, "i", &format!("c-{i}"), "read")).collect();
    assert_eq!(all(&handles).await, 100);
    let posts = world.posts.lock().unwrap();
    assert!(posts.windows(2).all(|pair| pair[1].saturating_since(pair[0]) >= spacing));
    assert!(world.clock.start_elapsed() < Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn one_credential_with_many_profiles_does_not_keep_another_waiting() {
    let world = World::new();
    let cache = cache(&world, BudgetRules::default());
    // The secret of both is known to be right, so that the queue alone decides.
    world.handle(&cache, "i", "many", "first").token(LONG).await.unwrap();
    world.handle(&cache, "i", "one", "first").token(LONG).await.unwrap();
    let many: Vec<_> = (0..1000).map(|i| world.handle(&cache, "i", "many", &format!("s-{i}"))).collect();
    let crowd = tokio::spawn(async move { all(&many).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = world.clock.boot();
    world.handle(&cache, "i", "one", "second").token(LONG).await.unwrap();
    let waited = world.clock.boot().saturating_since(asked);
    // Vault, at most one round of the others, its own request.
    assert!(waited <= Duration::from_millis(20 + 50 + 50 + 5), "{waited:?}");
    assert_eq!(crowd.await.unwrap(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_rest_gets_it() {
    let world = World::new();
    let cache = cache(&world, BudgetRules::default());
    let handles: Vec<_> = (0..20).map(|i| world.handle(&cache, "i", &format!("c-{i}"), "read")).collect();
    assert_eq!(all(&handles).await, 20);
    let limit = Reply::Headers(429, &[("auth0-client-quota-limit", "b=per_hour;q=10;r=0;t=240")], "");
    world.set(limit.clone());
    let named = world.handle(&cache, "i", "named", "first");
    assert_eq!(named.token(LONG).await.map(|_| ()).unwrap_err().code, "rate_limited");
    world.set(Reply::Token("3600"));
    let sent = world.posts();
    // Another profile of the client that was named is told at once, and nothing is sent for it.
    let other = world.handle(&cache, "i", "named", "second");
    assert_eq!(other.token(LONG).await.map(|_| ()).unwrap_err().code, "rate_limited");
    assert_eq!(world.posts(), sent);
    // Callers of other clients get through, one a second.
    let fresh: Vec<_> = (0..5).map(|i| world.handle(&cache, "i", &format!("n-{i}"), "read")).collect();
    assert_eq!(all(&fresh).await, 5);
    let posts = world.posts.lock().unwrap().clone();
    assert!(posts[sent - 1..].windows(2).all(|pair| pair[1].saturating_since(pair[0]) >= Duration::from_millis(950)));
    // It heals by itself.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(all(&[named, other]).await, 2);
}

#[tokio::test(start_paused = true)]
async fn refreshes_wait_until_the_server_has_rested() {
    let world = World::new();
    world.set(Reply::Token("1000"));
    let cache = cache(&world, BudgetRules::default());
    let handles: Vec<_> = (0..50).map(|i| world.handle(&cache, "i", &format!("c-{i}"), "read")).collect();
    assert_eq!(all(&handles).await, 50);
    tokio::time::sleep(Duration::from_secs(690)).await;
    assert_eq!(all(&handles).await, 50);
    world.set(Reply::Headers(429, &[("retry-after", "100")], ""));
    let named = world.handle(&cache, "i", "named", "read");
    assert_eq!(named.token(LONG).await.map(|_| ()).unwrap_err().code, "rate_limited");
    world.set(Reply::Token("1000"));
    let sent = world.posts();
    tokio::time::sleep(Duration::from_secs(95)).await;
    assert_eq!(world.posts(), sent, "a refresh was sent while the server rests");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(world.posts() >= sent + 50, "{}", world.posts() - sent);
    assert!(world.most_running.load(Ordering::SeqCst) <= 8);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_is_sent_once_however_many_profiles_use_it() {
    let world = World::new();
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    let cache = cache(&world, BudgetRules::default());
    let handles: Vec<_> = (0..100).map(|i| world.handle(&cache, "i", "c", &format!("s-{i}"))).collect();
    assert_eq!(all(&handles).await, 0);
    assert_eq!(world.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_becomes_wrong_is_not_sent_after_its_first_refusal() {
    let world = World::new();
    let cache = cache(&world, BudgetRules::default());
    let handles: Vec<_> = (0..100).map(|i| world.handle(&cache, "i", "c", &format!("s-{i}"))).collect();
    assert_eq!(all(&handles).await, 100);
    *world.accepted.lock().unwrap() = vec!["another".into()];
    cache.flush(|_| true);
    let sent = world.posts();
    assert_eq!(all(&handles).await, 0);
    // Those that were under way together when the first refusal came.
    assert!(world.posts() - sent <= 8, "{}", world.posts() - sent);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_not_tried_by_each_profile_in_turn() {
    let world = World::new();
    world.set(Reply::Never);
    let cache = cache(&world, BudgetRules::default());
    let handles: Vec<_> = (0..100).map(|i| world.handle(&cache, "i", "c", &format!("s-{i}"))).collect();
    assert_eq!(all(&handles).await, 0);
    assert!(world.clock.start_elapsed() < Duration::from_secs(11), "{:?}", world.clock.start_elapsed());
    assert_eq!(world.posts(), 1);
}

/// How often an hour with this many idle profiles, and one that is used, asks for the time.
async fn an_hour_with(idle: usize) -> usize {
    let world = World::new();
    let cache = cache(&world, BudgetRules::default());
    let spec = spec("read");
    let fetcher = world.fetcher("c", spec.clone());
    let handles: Vec<_> = (0..idle)
        .map(|i| {
            let mut key = key("i", "c", &spec);
            key.scopes = [format!("s-{i}").into()].into();
            cache.handle(key, fetcher.clone())
        })
        .collect();
    // Some had a token once.
    let some = handles.len().min(500);
    assert_eq!(all(&handles[..some]).await, some);
    tokio::time::sleep(Duration::from_hours(3)).await;
    let used = world.handle(&cache, "i", "c", "used");
    used.token(LONG).await.unwrap();
    let sent = world.posts();
    let before = world.clock.asked.load(Ordering::Relaxed);
    for _ in 0..3600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        used.token(LONG).await.unwrap();
    }
    assert_eq!(world.posts() - sent, 1, "the used one alone is refreshed");
    world.clock.asked.load(Ordering::Relaxed) - before
}

#[tokio::test(start_paused = true)]
async fn idle_profiles_cost_the_scheduler_nothing() {
    assert_eq!(an_hour_with(100_000).await, an_hour_with(0).await);
}

/// One at a time, and each takes nine seconds.
fn slow_and_narrow(world: &World) -> TokenCache {
    *world.latency.lock().unwrap() = Duration::from_secs(9);
    cache(world, BudgetRules { concurrent: 1, ..BudgetRules::default() })
}

fn asked(handle: TokenHandle) -> tokio::task::JoinHandle<bool> {
    tokio::spawn(async move { handle.token(LONG).await.is_ok() })
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_kept_for_half_a_minute_of_its_wait_and_then_read_again() {
    let world = World::new();
    let cache = slow_and_narrow(&world);
    let callers: Vec<_> = (0..6).map(|i| asked(world.handle(&cache, "i", &format!("c-{i}"), "read"))).collect();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.reads(), 6);
    // Whoever has a turn before half a minute is over sends what it read, the others what is there then.
    world.accepted.lock().unwrap().push("new".into());
    for i in 0..6 {
        world.vault.lock().unwrap().insert(format!("c-{i}"), "new".into());
    }
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    assert_eq!((world.reads(), world.posts()), (8, 6));
    let sent = world.secrets.lock().unwrap().clone();
    assert_eq!(sent, ["s3cret", "s3cret", "s3cret", "s3cret", "new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_not_kept_for_a_vault_that_has_become_slow() {
    let (world, slow) = (World::new(), World::new());
    let cache = slow_and_narrow(&world);
    let first: Vec<_> = (0..4).map(|i| asked(world.handle(&cache, "i", &format!("c-{i}"), "read"))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let late = asked(slow.handle(&cache, "i", "late", "read"));
    tokio::time::sleep(Duration::from_secs(9)).await;
    *slow.vault_latency.lock().unwrap() = Duration::from_secs(25);
    let next = asked(world.handle(&cache, "i", "next", "read"));
    for caller in first {
        assert!(caller.await.unwrap());
    }
    // The fifth has the turn now, and five seconds for its vault.
    assert!(next.await.unwrap());
    let waited = world.clock.start_elapsed();
    assert!(waited <= Duration::from_secs(4 * 9 + 5 + 9 + 1), "{waited:?}");
    assert_eq!(slow.posts(), 0);
    assert!(late.await.unwrap());
    assert_eq!((slow.reads(), slow.posts()), (2, 1));
}
