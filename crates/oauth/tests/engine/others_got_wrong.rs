//! What other clients of authorization servers got wrong, one test each. Also here by another name: no single flight
//! and failures in series (`single_flight`), latches and rotations (`rotation`), a `+` and `%` sent raw (the unit
//! tests of the request).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use midward_core::{Clock as _, Hop};
use midward_oauth::{BoxFuture, FetchContext, Fetched, Origin, TokenFetcher, TokenHandle};

use crate::support::{LONG, Reply, World, key, spec};

async fn call_for(world: &World, handle: &TokenHandle, time: Duration, every: Duration) {
    let end = world.clock.boot() + time;
    while world.clock.boot() < end {
        let granted = handle.token(LONG).await.expect("a token");
        assert!(world.left(granted.token().expose()) > 0.0);
        tokio::time::sleep(every).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fixed_margin_as_long_as_the_lifetime_mints_for_every_call() {
    // 300 s against 300 s tokens.
    let world = World::new();
    world.set(Reply::Token("300"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    call_for(&world, &handle, Duration::from_hours(1), Duration::from_secs(1)).await;
    assert!((13..=18).contains(&world.posts()), "{}", world.posts());
}

#[tokio::test(start_paused = true)]
async fn absent_expires_in_means_neither_never_nor_a_second() {
    // Go's client: never. Spring: a second, so a token for every call. Here: five minutes.
    let world = World::new();
    world.set(Reply::Token("null"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    call_for(&world, &handle, Duration::from_hours(1), Duration::from_secs(1)).await;
    assert!((13..=18).contains(&world.posts()), "{}", world.posts());
}

#[tokio::test(start_paused = true)]
async fn first_caller_cancels_and_everyones_fetch_is_cancelled() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let first = tokio::time::timeout(Duration::from_millis(1), handle.token(LONG)).await;
    assert!(first.is_err(), "the first caller is gone before the token came");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(handle.token(LONG).await.expect("a token").origin, Origin::Cached);
    assert_eq!(world.posts(), 1);
}

/// Panics at first, then works.
struct Panics(AtomicUsize, Arc<dyn TokenFetcher>);

impl TokenFetcher for Panics {
    fn fetch(&self, context: FetchContext) -> BoxFuture<'_, Fetched> {
        Box::pin(async move {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the fetch dies");
            self.1.fetch(context).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_that_fetches_dies_once_and_nobody_notices() {
    let world = World::new();
    let cache = world.cache();
    let fetcher = Panics(AtomicUsize::new(0), world.fetcher("c", spec("read")));
    let handle = cache.handle(key("i", "c", &spec("read")), Arc::new(fetcher));
    let failure = handle.token(LONG).await.map(|_| ()).unwrap_err();
    assert_eq!((failure.code.as_str(), failure.hop), ("token_fetch_ended", Hop::Mid));
    assert_eq!(cache.counts().failures, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.token(LONG).await.expect("the next fetch works");
    call_for(&world, &handle, Duration::from_hours(3), Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_sent_while_the_server_is_down() {
    let world = World::new();
    world.set(Reply::Token("120"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    call_for(&world, &handle, Duration::from_secs(10), Duration::from_secs(1)).await;
    world.set(Reply::Unreachable);
    let mut refused = 0;
    for _ in 0..600 {
        match handle.token(LONG).await {
            Ok(granted) => assert!(world.left(granted.token().expose()) > 0.0),
            Err(_) => refused += 1,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(refused > 450, "{refused}");
}

#[test]
fn a_runtime_that_shuts_down_leaves_nobody_waiting() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (cache, handle) = runtime.block_on(async {
        let world = World::new();
        world.set(Reply::Never);
        let cache = world.cache();
        let handle = world.handle(&cache, "i", "c", "read");
        let waited = handle.token(Duration::from_millis(1)).await.map(|_| ()).expect_err("it never answers");
        assert_eq!(waited.code, "token_wait_timeout");
        (cache, handle)
    });
    drop(runtime);
    assert_eq!(cache.explain(handle.key()).expect("known").last_failure.expect("ended").code, "token_fetch_ended");
}
