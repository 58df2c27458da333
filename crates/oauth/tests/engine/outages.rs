//! What happens at the edges of an outage: the last seconds of a token, a vault that changes its secret, refusals that
//! stay, and a log that tells all of it without a secret.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{BootTime, Clock, Failure, Hop, SeededRandom, WallTime};
use midward_oauth::{TokenCache, TokenCacheConfig, TokenHandle};

use crate::support::{LONG, Reply, TestClock, World};

/// Uses the token once a second. Returns how many calls got none.
async fn call(world: &World, handle: &TokenHandle, seconds: u32) -> usize {
    let mut failed = 0;
    for _ in 0..seconds {
        match handle.token(LONG).await {
            Ok(granted) => assert!(world.left(granted.token().expose()) > 0.0),
            Err(_) => failed += 1,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    failed
}

#[tokio::test(start_paused = true)]
async fn the_nearer_the_end_the_shorter_the_wait_between_tries() {
    let world = World::new();
    world.set(Reply::Token("120"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(call(&world, &handle, 60).await, 0);
    world.set(Reply::Unreachable);
    assert_eq!(call(&world, &handle, 59).await, 0);
    let (issued, lifetime, _) = world.issued.lock().unwrap()["token-1"].clone();
    let end = issued + lifetime;
    let posts = world.posts.lock().unwrap().clone();
    let tries: Vec<BootTime> = posts.into_iter().skip(1).collect();
    assert!(tries.len() >= 5, "{}", tries.len());
    for pair in tries.windows(2) {
        let left = end.saturating_since(pair[0]);
        let wait = pair[1].saturating_since(pair[0]);
        // A quarter of what is left, or the spacing of a second, and the vault's 20 ms and the server's 50 ms.
        assert!(wait <= (left / 4).max(Duration::from_secs(1)) + Duration::from_millis(150), "{wait:?} of {left:?}");
    }
    let last = tries.last().expect("at least five");
    assert!(end.saturating_since(*last) <= Duration::from_secs(3), "one try shortly before the end");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_the_vault_changes_the_secret_opens_no_circuit() {
    let world = World::new();
    world.vault.lock().unwrap().insert("c".into(), "half-changed".into());
    world.changing.store(true, Ordering::SeqCst);
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(handle.token(LONG).await.map(|_| ()).unwrap_err().code, "secret_changing");
    assert_eq!(cache.explain(handle.key()).expect("known").state, "failed");
    world.changing.store(false, Ordering::SeqCst);
    world.vault.lock().unwrap().insert("c".into(), "s3cret".into());
    tokio::time::sleep(Duration::from_secs(2)).await;
    handle.token(LONG).await.expect("the back-off is over, and the secret is right");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_fails_after_a_refusal_keeps_the_refused_secret_from_the_server() {
    let world = World::new();
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    *world.latency.lock().unwrap() = Duration::from_millis(500);
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { handle.token(LONG).await.map(|_| ()) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let down = Failure::transient(Hop::Vault, "vault_unreachable", "no answer", "Look at the vault.");
    *world.vault_failure.lock().unwrap() = Some(down);
    assert_eq!(waits.await.unwrap().unwrap_err().code, "vault_unreachable");
    *world.vault_failure.lock().unwrap() = None;
    let failed = call(&world, &handle, 25).await;
    assert_eq!((failed, world.posts()), (25, 1), "the refused secret is not sent again");
    world.vault.lock().unwrap().insert("c".into(), "s3cret".into());
    call(&world, &handle, 40).await;
    assert_eq!(call(&world, &handle, 10).await, 0, "it heals by itself");
}

#[tokio::test(start_paused = true)]
async fn an_unauthorized_client_that_stays_is_tried_rarely_and_heals() {
    let world = World::new();
    *world.refusal.lock().unwrap() = Reply::Status(401, r#"{"error":"unauthorized_client"}"#);
    world.vault.lock().unwrap().insert("c".into(), "wrong".into());
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(call(&world, &handle, 3600).await, 3600);
    assert!((20..=40).contains(&world.posts()), "{}", world.posts());
    *world.accepted.lock().unwrap() = vec!["wrong".into()];
    call(&world, &handle, 130).await;
    assert_eq!(call(&world, &handle, 10).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_refusal_during_a_refresh_is_tried_again_before_the_old_token_ends() {
    let world = World::new();
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(call(&world, &handle, 2400).await, 0);
    world.set(Reply::Status(400, r#"{"error":"invalid_scope"}"#));
    assert_eq!(call(&world, &handle, 900).await, 0, "the old token goes on being served");
    let tries = world.posts() - 1;
    assert!((3..=20).contains(&tries), "{tries}");
    world.set(Reply::Token("3600"));
    assert_eq!(call(&world, &handle, 600).await, 0, "healed before the old token's end: nobody noticed");
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_the_tokens_end_is_kept_to_and_no_expired_token_is_sent() {
    let world = World::new();
    world.set(Reply::Token("100"));
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(call(&world, &handle, 60).await, 0);
    world.set(Reply::Headers(503, &[("retry-after", "200")], ""));
    let failed = call(&world, &handle, 60).await;
    assert!((15..=25).contains(&failed), "the token ended at 100 s: {failed}");
    let sent = world.posts();
    assert_eq!(sent, 2);
    world.set(Reply::Token("100"));
    assert_eq!(call(&world, &handle, 60).await, 60);
    assert_eq!(world.posts(), sent, "the server asked for rest");
    call(&world, &handle, 120).await;
    assert_eq!(call(&world, &handle, 10).await, 0);
}

/// Panics once, when the scheduler asks it for the time.
struct Trips {
    clock: Arc<TestClock>,
    armed: AtomicBool,
}

impl Clock for Trips {
    fn boot(&self) -> BootTime {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "the scheduler dies");
        self.clock.boot()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Keeps everything that this thread logs while the guard lives.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_dies_is_started_again_and_that_is_logged() {
    let log = Log::default();
    let _guard = log.start();
    let world = World::new();
    let clock = Arc::new(Trips { clock: Arc::clone(&world.clock), armed: AtomicBool::new(false) });
    let cache = TokenCache::new(clock.clone(), Arc::new(SeededRandom::new(7)), TokenCacheConfig::default());
    let handle = world.handle(&cache, "i", "c", "read");
    assert_eq!(call(&world, &handle, 10).await, 0);
    // Nobody calls now, so that the scheduler is the next to ask for the time.
    clock.armed.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!clock.armed.load(Ordering::SeqCst));
    assert!(log.text().contains("the token scheduler panicked and is started again"), "{}", log.text());
    let waits = cache.counts().waits;
    assert_eq!(call(&world, &handle, 4 * 3600).await, 0);
    assert_eq!(cache.counts().waits, waits, "refreshed in the background as before");
}

#[tokio::test(start_paused = true)]
async fn the_log_tells_everything_but_secrets() {
    let log = Log::default();
    let _guard = log.start();
    let world = World::new();
    world.vault.lock().unwrap().insert("c".into(), "hunter2-wrong".into());
    let cache = world.cache();
    let handle = world.handle(&cache, "i", "c", "read");
    call(&world, &handle, 100).await;
    world.vault.lock().unwrap().insert("c".into(), "s3cret".into());
    call(&world, &handle, 4000).await;
    world.set(Reply::Status(500, "hunter2 in the body"));
    call(&world, &handle, 4000).await;
    tracing::info!(granted = ?handle.token(LONG).await, status = ?cache.explain(handle.key()), "as a caller may log it");
    let text = log.text();
    assert!(text.contains("invalid_client") && text.contains("token_endpoint_unavailable"), "{text}");
    for told in ["status=500", "body_len=19", "content_type=\"none\""] {
        assert!(text.contains(told), "{told} is missing: {text}");
    }
    for secret in ["hunter2", "s3cret", "token-"] {
        assert!(!text.contains(secret), "{secret} was logged");
    }
}
