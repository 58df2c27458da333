//! Metadata of an issuer (RFC 8414): asked for once, kept for a while, and never the end of what already works.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{Hop, Persistence, Secret, SeededRandom};
use midward_oauth::{
    BoxFuture, ClientAuth, IssuerMetadata, MetadataTransport, TokenHttpReply, TransportFailure, TransportFailureKind,
};
use url::Url;

use crate::support::TestClock;

const ISSUER: &str = "https://as.example/t";
const METHOD: ClientAuth = ClientAuth::ClientSecretPost;

#[derive(Clone)]
enum Answer {
    Reply(u16, String),
    Unreachable,
    Never,
}

/// Answers the first place and the second as it is told.
struct Issuer {
    first: Mutex<Answer>,
    second: Mutex<Answer>,
    asked: Mutex<Vec<String>>,
    running: AtomicUsize,
}

impl Issuer {
    fn new(first: Answer, second: Answer) -> Arc<Self> {
        Arc::new(Self {
            first: Mutex::new(first),
            second: Mutex::new(second),
            asked: Mutex::default(),
            running: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct Transport(Arc<Issuer>);

impl MetadataTransport for Transport {
    fn get(&self, url: Url, _: Duration) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let issuer = &self.0;
            let is_first = url.path().contains("oauth-authorization-server");
            issuer.asked.lock().unwrap().push(url.to_string());
            issuer.running.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let answer = if is_first { &issuer.first } else { &issuer.second }.lock().unwrap().clone();
            match answer {
                Answer::Reply(status, body) => {
                    Ok(TokenHttpReply { status, headers: http::HeaderMap::new(), body: Secret::from(body) })
                }
                Answer::Unreachable => Err(TransportFailure {
                    kind: TransportFailureKind::Unreachable,
                    detail: "the connection was refused".to_owned(),
                }),
                Answer::Never => std::future::pending().await,
            }
        })
    }
}

fn document(token_endpoint: &str) -> Answer {
    Answer::Reply(200, format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"{token_endpoint}"}}"#))
}

fn nothing() -> Answer {
    Answer::Reply(404, String::new())
}

fn metadata(issuer: &Arc<Issuer>, clock: &Arc<TestClock>) -> Arc<IssuerMetadata> {
    let transport = Arc::new(Transport(Arc::clone(issuer)));
    IssuerMetadata::new(ISSUER, transport, Arc::clone(clock) as _, Arc::new(SeededRandom::new(1)))
}

async fn found(metadata: &Arc<IssuerMetadata>) -> Result<String, String> {
    let found = metadata.get().await;
    found.map(|metadata| metadata.token_endpoint(METHOD).to_string()).map_err(|failure| failure.code)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_cause_one_request_and_the_answer_is_kept_for_an_hour() {
    let clock = TestClock::new();
    let issuer = Issuer::new(document("https://as.example/token"), nothing());
    let metadata = metadata(&issuer, &clock);
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let metadata = Arc::clone(&metadata);
            tokio::spawn(async move { found(&metadata).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().as_deref(), Ok("https://as.example/token"));
    }
    tokio::time::sleep(IssuerMetadata::FRESH - Duration::from_secs(1)).await;
    found(&metadata).await.expect("kept");
    assert_eq!(*issuer.asked.lock().unwrap(), ["https://as.example/.well-known/oauth-authorization-server/t"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    *issuer.first.lock().unwrap() = document("https://as.example/token2");
    assert_eq!(found(&metadata).await.as_deref(), Ok("https://as.example/token2"));
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_place_of_openid_is_asked_where_the_first_has_no_document() {
    for first in [nothing(), Answer::Reply(200, "<html>".into()), Answer::Reply(302, String::new())] {
        let issuer = Issuer::new(first, document("https://as.example/token"));
        let metadata = metadata(&issuer, &TestClock::new());
        assert_eq!(found(&metadata).await.as_deref(), Ok("https://as.example/token"));
        assert_eq!(issuer.asked.lock().unwrap()[1], "https://as.example/t/.well-known/openid-configuration");
    }
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_name() {
    let another = r#"{"issuer":"https://as.example","token_endpoint":"https://as.example/token"}"#.to_owned();
    let lame = format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"/token"}}"#);
    for (first, second, code, persistence, asked) in [
        (nothing(), nothing(), "metadata_not_found", Persistence::Permanent, 2),
        (Answer::Reply(307, String::new()), nothing(), "metadata_not_found", Persistence::Permanent, 2),
        (Answer::Reply(503, String::new()), nothing(), "metadata_unavailable", Persistence::Transient, 1),
        (Answer::Unreachable, nothing(), "metadata_unavailable", Persistence::Transient, 1),
        (Answer::Never, nothing(), "metadata_unavailable", Persistence::Transient, 1),
        (nothing(), Answer::Never, "metadata_unavailable", Persistence::Transient, 2),
        (nothing(), Answer::Reply(200, "<html>".into()), "metadata_invalid", Persistence::Transient, 2),
        (Answer::Reply(200, lame), nothing(), "metadata_invalid", Persistence::Transient, 1),
        (Answer::Reply(200, another), nothing(), "metadata_issuer_mismatch", Persistence::Permanent, 1),
    ] {
        let issuer = Issuer::new(first, second);
        let clock = TestClock::new();
        let failure = metadata(&issuer, &clock).get().await.expect_err(code);
        assert_eq!(
            (failure.code.as_str(), failure.hop, failure.persistence),
            (code, Hop::AuthorizationServer, persistence)
        );
        assert_eq!(issuer.asked(), asked, "{code}");
        assert!(clock.start_elapsed() <= IssuerMetadata::DEADLINE, "{code}");
        assert!(!failure.to_string().contains("html"), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_while_it_backs_off_and_heals_by_itself() {
    let issuer = Issuer::new(Answer::Unreachable, nothing());
    let metadata = metadata(&issuer, &TestClock::new());
    for _ in 0..100 {
        assert_eq!(found(&metadata).await, Err("metadata_unavailable".to_owned()));
    }
    assert_eq!(issuer.asked(), 1);
    // An hour of calls: at most one request a minute once the pauses have grown.
    for _ in 0..3600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(found(&metadata).await.is_err());
    }
    assert!((50..130).contains(&issuer.asked()), "{}", issuer.asked());
    *issuer.first.lock().unwrap() = document("https://as.example/token");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(found(&metadata).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_serves_on_for_a_day_while_the_issuer_is_down() {
    let issuer = Issuer::new(document("https://as.example/token"), nothing());
    let metadata = metadata(&issuer, &TestClock::new());
    found(&metadata).await.expect("found");
    *issuer.first.lock().unwrap() = Answer::Unreachable;
    for _ in 0..23 {
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(found(&metadata).await.as_deref(), Ok("https://as.example/token"));
    }
    assert!(issuer.asked() > 20, "{}", issuer.asked());
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(found(&metadata).await, Err("metadata_unavailable".to_owned()));
    *issuer.first.lock().unwrap() = document("https://as.example/token");
    metadata.forget();
    assert!(found(&metadata).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_cancels_nobody() {
    let issuer = Issuer::new(document("https://as.example/token"), nothing());
    let metadata = metadata(&issuer, &TestClock::new());
    assert!(tokio::time::timeout(Duration::from_millis(1), metadata.get()).await.is_err());
    assert!(found(&metadata).await.is_ok());
    assert_eq!(issuer.asked(), 1);
}
