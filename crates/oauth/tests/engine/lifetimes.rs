//! Refresh, expiry, and clocks that jump.

use std::future::Future as _;
use std::task::Poll;
use std::time::Duration;

use midward_core::{Clock, WallTime};
use midward_oauth::{Origin, Rejected, TokenHandle};

use crate::support::{LONG, Reply, World};

/// Calls every `every` for `time`; every call must get a token that is alive by the server's own account.
async fn call(world: &World, handle: &TokenHandle, every: Duration, time: Duration) -> usize {
    let end = world.clock.start_elapsed() + time;
    let mut calls = 0;
    while world.clock.start_elapsed() < end {
        let granted = handle.token(LONG).await.unwrap_or_else(|failure| panic!("call {calls}: {failure}"));
        assert!(world.left(granted.token().expose()) > 0.0, "an expired token was given out");
        calls += 1;
        tokio::time::sleep(every).await;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn a_used_token_is_refreshed_in_the_background_and_nobody_waits() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    handle.token(LONG).await.unwrap();
    for _ in 0..10 * 60 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(handle.token(LONG).await.unwrap().origin, Origin::Cached);
    }
    // Ten hours of one-hour tokens, each refreshed at 70 to 85 % of its life.
    assert!((12..=15).contains(&world.posts()), "{}", world.posts());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_used_for_a_lifetime_is_not_refreshed() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    handle.token(LONG).await.unwrap();
    tokio::time::sleep(Duration::from_hours(48)).await;
    assert!(world.posts() <= 2, "{}", world.posts());
    let granted = handle.token(LONG).await.unwrap();
    assert_eq!(granted.origin, Origin::Fetched);
    assert!(world.left(granted.token().expose()) > 3000.0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_until_a_second_before_the_end_fails_no_call() {
    for seed_latency in [5, 50, 300] {
        let world = World::new();
        *world.latency.lock().unwrap() = Duration::from_millis(seed_latency);
        let cache = world.cache();
        let handle = world.handle(&cache, "i", "c", "read");
        handle.token(LONG).await.unwrap();
        world.set(Reply::Unreachable);
        let every = Duration::from_millis(250);
        call(&world, &handle, every, Duration::from_millis(3_599_000 - 2 * seed_latency)).await;
        assert!(world.posts() > 10, "it was tried all the time");
        world.set(Reply::Token("3600"));
        call(&world, &handle, every, Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_not_sent_while_the_server_is_down() {
    let world = World::new();
    world.set(Reply::Token("60"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    handle.token(LONG).await.unwrap();
    world.set(Reply::Unreachable);
    call(&world, &handle, Duration::from_millis(100), Duration::from_secs(59)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..100 {
        assert_eq!(handle.token(LONG).await.map(|_| ()).unwrap_err().code, "token_endpoint_unreachable");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // And it heals by itself.
    world.set(Reply::Token("60"));
    tokio::time::sleep(Duration::from_secs(31)).await;
    handle.token(LONG).await.expect("healed");
}

#[tokio::test(start_paused = true)]
async fn a_suspend_of_two_hours_sends_no_expired_token() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let old = handle.token(LONG).await.unwrap();
    world.clock.moved.advance(Duration::from_hours(2));
    assert!(handle.cached().is_none());
    let new = handle.token(LONG).await.unwrap();
    assert_ne!(old.token(), new.token());
    assert!(world.left(new.token().expose()) > 3000.0);
    assert_eq!(world.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_during_the_fetch_gives_nobody_the_token_that_ended_meanwhile() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.token(LONG).await.map(|_| ()) }
    });
    tokio::time::sleep(Duration::from_millis(40)).await;
    world.clock.moved.advance(Duration::from_hours(2));
    assert_eq!(waiting.await.unwrap().unwrap_err().code, "token_expired_on_arrival");
    tokio::time::sleep(Duration::from_secs(2)).await;
    handle.token(LONG).await.expect("healed");
}

#[tokio::test(start_paused = true)]
async fn a_suspend_after_the_fetch_gives_a_caller_who_still_waits_no_ended_token() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let mut waiting = std::pin::pin!(handle.token(LONG));
    let asked = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
    assert!(asked.await);
    // The token comes and is kept; the caller has not been woken when the machine is suspended.
    while cache.counts().mints == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.clock.moved.advance(Duration::from_hours(2));
    assert_eq!(waiting.await.map(|_| ()).unwrap_err().code, "token_expired_on_arrival");
    let granted = handle.token(LONG).await.expect("a new one");
    assert!(world.left(granted.token().expose()) > 3000.0);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ten_years_causes_at_most_one_early_refresh() {
    const TEN_YEARS: i64 = 10 * 365 * 86_400_000;
    for (jump, refreshes) in [(TEN_YEARS, 1), (-TEN_YEARS, 0)] {
        for server in [Reply::Token("3600"), Reply::Unreachable] {
            let world = World::new();
            let cache = world.cache();
            let handle = world.handle(&cache, "i", "c", "read");
            call(&world, &handle, Duration::from_secs(1), Duration::from_mins(1)).await;
            world.set(server.clone());
            let wall = world.clock.moved.wall();
            world.clock.moved.set_wall(WallTime::from_unix_millis(wall.unix_millis() + jump));
            call(&world, &handle, Duration::from_secs(1), Duration::from_secs(10)).await;
            if matches!(server, Reply::Token(_)) {
                call(&world, &handle, Duration::from_secs(1), Duration::from_mins(20)).await;
                assert_eq!(world.posts(), 1 + refreshes, "{jump} {server:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn five_second_tokens_for_ever_cost_at_most_one_request_a_second() {
    for (lifetime, most) in [("5", 40), ("1", 101), ("0", 101), ("-1", 101)] {
        let world = World::new();
        world.set(Reply::Token(lifetime));
        *world.latency.lock().unwrap() = Duration::from_millis(20);
        let cache = world.cache();
        let handle = world.handle(&cache, "i", "c", "read");
        let mut calls = 0;
        while world.clock.start_elapsed() < Duration::from_secs(100) {
            handle.token(LONG).await.expect("a token");
            calls += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(world.posts() <= most, "{} requests for tokens of {lifetime} s", world.posts());
        let posts = world.posts.lock().unwrap().clone();
        for pair in posts.windows(2) {
            // The secret is read first, so the requests are as far apart as the fetches.
            assert!(pair[1].saturating_since(pair[0]) >= Duration::from_millis(999), "{lifetime}: {pair:?}");
        }
        assert!(calls >= 95, "{lifetime}: {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_until_it_ends_is_used_until_it_ends() {
    // Marketo: the life that is left may be shorter than any margin.
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let mut calls = 0;
    for _ in 0..3 {
        let end = world.clock.boot() + Duration::from_secs(600);
        world.set(Reply::Same(end));
        while world.clock.boot() + Duration::from_secs(2) < end {
            let granted = handle.token(LONG).await.expect("a token");
            assert_eq!(granted.token().expose(), "the-same");
            assert!(world.left("the-same") > 0.0);
            calls += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // The server has another one when the last has ended.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    // Each reply covers at least 70 % of what is left, down to the spacing of a second.
    assert!(calls > 3500 && world.posts() < 45, "{calls} calls, {} requests", world.posts());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_dropped_only_if_it_is_the_cached_one() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let old = handle.token(LONG).await.unwrap().token().clone();
    assert_eq!(handle.reject(&old), Rejected::Dropped);
    assert_eq!(handle.reject(&old), Rejected::Replaced);
    let new = handle.token(LONG).await.unwrap().token().clone();
    assert_eq!(handle.reject(&old), Rejected::Replaced, "a late 401 of the old token must not drop the new one");
    assert_eq!(*handle.token(LONG).await.unwrap().token(), new);
    assert_eq!(world.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_refuses_every_token_causes_few_and_keeps_none_from_another_api() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let mut waited = 0;
    for _ in 0..6000 {
        let granted = handle.token(LONG).await.expect("a token");
        waited += usize::from(granted.origin != Origin::Cached);
        handle.reject(granted.token());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Ten minutes: the first few at once, then one each half minute.
    assert!((15..=30).contains(&world.posts()), "{}", world.posts());
    // Another API takes these tokens, and its callers waited for no more than those.
    assert_eq!(waited, world.posts());
    // An operator's flush, or a quiet minute, and a refused token is replaced at once again.
    cache.flush(|_| true);
    for _ in 0..3 {
        let refused = handle.token(LONG).await.expect("a token").token().clone();
        assert_eq!(handle.reject(&refused), Rejected::Dropped);
    }
    let refused = handle.token(LONG).await.expect("a token").token().clone();
    assert_eq!(handle.reject(&refused), Rejected::Kept);
    assert_eq!(handle.cached().expect("kept").token(), &refused);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(handle.reject(&refused), Rejected::Dropped);
}

#[tokio::test(start_paused = true)]
async fn a_flush_drops_what_it_picks_and_what_is_being_fetched() {
    let world = World::new();
    let cache = world.cache();
    let (a, b) = (world.handle(&cache, "i", "a", "read"), world.handle(&cache, "i", "b", "read"));
    let kept = b.token(LONG).await.unwrap().token().clone();
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.token(LONG).await.map(|granted| granted.token().clone()) }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(cache.flush(|key| *key.client.credential_id == *"a"), 1);
    let served_once = waiting.await.unwrap().expect("those who wait are served");
    assert_ne!(a.token(LONG).await.unwrap().token().clone(), served_once);
    assert_eq!(b.token(LONG).await.unwrap().token().clone(), kept);
}

#[tokio::test(start_paused = true)]
async fn a_dead_and_a_slow_server_delay_nobody_else() {
    let good = World::new();
    let (dead, slow) = (World::new(), World::new());
    dead.set(Reply::Never);
    *slow.vault_latency.lock().unwrap() = Duration::from_secs(30);
    let cache = good.cache();
    let bad = [dead.handle(&cache, "i", "dead", "read"), slow.handle(&cache, "i", "slow", "read")];
    let handles: Vec<_> = (0..98).map(|n| good.handle(&cache, "i", &format!("c{n}"), "read")).collect();
    for handle in &handles {
        handle.token(LONG).await.unwrap();
    }
    for _ in 0..200 {
        for handle in bad.clone() {
            tokio::spawn(async move { handle.token(Duration::from_secs(5)).await.map(|_| ()) });
        }
        for handle in &handles {
            assert_eq!(handle.token(LONG).await.expect("no failure").origin, Origin::Cached, "nobody waits");
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
}
