//! Tokens that are bound to a key, at an API (RFC 9449 7 and 9). Signatures are checked in the tests of the whole chain.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use midward_core::{BootTime, Clock, ManualClock, SystemClock, WallTime};
use midward_wire::Outcome;
use serde_json::{Value, json};

use super::engine::{Rig, status};
use super::instance::{Scripted, Seen, json as answer_json};

const LEASE: u64 = 30_000;

/// The claims of a proof.
fn claims(proof: &str) -> Value {
    let payload = proof.split('.').nth(1).expect("a proof");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

fn with_header(mut answer: Response<Full<Bytes>>, name: &'static str, value: &str) -> Response<Full<Bytes>> {
    answer.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
    answer
}

fn challenge(error: &str) -> Response<Full<Bytes>> {
    with_header(answer_json(401, "{}"), "www-authenticate", &format!("DPoP error=\"{error}\""))
}

/// A token endpoint that numbers its tokens, all of them bound, and an API.
async fn third(api: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> (Scripted, Rig) {
    let minted = AtomicUsize::new(0);
    let third = Scripted::start(move |seen| {
        if seen.path == "/token" {
            let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({ "access_token": format!("t{number}"), "token_type": "DPoP", "expires_in": 300 });
            return answer_json(200, body.to_string());
        }
        api(seen)
    })
    .await;
    let rig = Rig::with(&third, &json!({ "profile": { "dpop_bound_tokens": true } })).await;
    (third, rig)
}

/// An API that wants this nonce in each proof, and says so in each answer.
fn wants_nonce(wanted: &'static str) -> impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync {
    move |seen| {
        let good = claims(&seen.dpop)["nonce"] == wanted;
        with_header(if good { answer_json(200, "{}") } else { challenge("use_dpop_nonce") }, "dpop-nonce", wanted)
    }
}

fn call(method: &str) -> Value {
    json!({ "method": method, "path": "/x?secret=1", "body": STANDARD.encode("body of the call") })
}

#[tokio::test]
async fn each_call_goes_with_a_proof_for_it_and_its_token() {
    let (third, rig) = third(|_| answer_json(200, "{}")).await;
    for _ in 0..3 {
        assert_eq!(status(&rig.call(call("POST"), LEASE).await), Some(200));
    }
    let seen = third.seen("/x");
    let all: Vec<Value> = seen.iter().map(|seen| claims(&seen.dpop)).collect();
    assert!(seen.iter().all(|seen| seen.authorization == "DPoP t1"), "{seen:?}");
    for claims in &all {
        assert_eq!((&claims["htm"], &claims["htu"]), (&json!("POST"), &json!(format!("{}/x", third.url))));
        // A SHA-256 in base64url.
        assert_eq!(claims["ath"].as_str().map(str::len), Some(43));
        assert!(claims.get("nonce").is_none());
    }
    let identifiers: HashSet<&str> = all.iter().filter_map(|claims| claims["jti"].as_str()).collect();
    assert_eq!(identifiers.len(), 3);
    let token = third.seen("/token");
    assert_eq!(token.len(), 1);
    assert_eq!(claims(&token[0].dpop)["htu"], format!("{}/token", third.url));
}

#[tokio::test]
async fn a_nonce_is_sent_once_more_whatever_the_method_and_known_afterwards() {
    for method in ["POST", "GET", "PUT"] {
        let (third, rig) = third(wants_nonce("n1")).await;
        assert_eq!(status(&rig.call(call(method), LEASE).await), Some(200));
        assert_eq!(third.seen("/x").len(), 2, "{method}");
        assert!(third.seen("/x").iter().all(|seen| &seen.body[..] == b"body of the call"));
        assert_eq!(status(&rig.call(call(method), LEASE).await), Some(200));
        assert_eq!((third.seen("/x").len(), third.seen("/token").len(), rig.rejections()), (3, 1, 0), "{method}");
    }
}

#[tokio::test]
async fn a_nonce_that_comes_with_a_good_answer_is_used_next() {
    let number = AtomicUsize::new(0);
    let (third, rig) = third(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        with_header(answer_json(200, "{}"), "dpop-nonce", &format!("n{number}"))
    })
    .await;
    for _ in 0..3 {
        rig.call(call("GET"), LEASE).await;
    }
    let nonces: Vec<Value> = third.seen("/x").iter().map(|seen| claims(&seen.dpop)["nonce"].clone()).collect();
    assert_eq!(nonces, [Value::Null, json!("n1"), json!("n2")]);
    assert!(third.seen("/token").iter().all(|seen| claims(&seen.dpop).get("nonce").is_none()), "another server's");
}

#[tokio::test]
async fn an_api_that_is_never_content_is_called_twice_and_keeps_no_token_from_anybody() {
    let number = AtomicUsize::new(0);
    let (endless, rig) = third(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        with_header(challenge("use_dpop_nonce"), "dpop-nonce", &format!("n{number}"))
    })
    .await;
    assert_eq!(status(&rig.call(call("GET"), LEASE).await), Some(401));
    assert_eq!((endless.seen("/x").len(), endless.seen("/token").len(), rig.rejections()), (2, 1, 0));

    // Without a nonce there is nothing to repeat with; a refused proof says nothing against the token either.
    for error in ["use_dpop_nonce", "invalid_dpop_proof"] {
        let (silent, rig) = third(move |_| challenge(error)).await;
        assert_eq!(status(&rig.call(call("GET"), LEASE).await), Some(401));
        assert_eq!((silent.seen("/x").len(), silent.seen("/token").len(), rig.rejections()), (1, 1, 0), "{error}");
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_as_ever() {
    let refuse = |seen: &Seen| {
        if seen.authorization == "DPoP t1" { challenge("invalid_token") } else { answer_json(200, "{}") }
    };
    for (method, answered, sent) in [("GET", 200, 2), ("POST", 401, 1)] {
        let (third, rig) = third(refuse).await;
        assert_eq!(status(&rig.call(call(method), LEASE).await), Some(answered));
        assert_eq!((third.seen("/x").len(), rig.rejections()), (sent, 1), "{method}");
        let keys: HashSet<String> =
            third.seen("/x").iter().filter_map(|seen| seen.dpop.split('.').next().map(str::to_owned)).collect();
        assert_eq!(keys.len(), sent, "each token has a key of its own");
    }
}

#[tokio::test]
async fn a_token_that_is_not_bound_reaches_no_api() {
    let third =
        Scripted::start(|_| answer_json(200, r#"{"access_token":"t","token_type":"Bearer","expires_in":300}"#)).await;
    let rig = Rig::with(&third, &json!({ "profile": { "dpop_bound_tokens": true } })).await;
    let outcome = rig.call(call("GET"), LEASE).await;
    assert!(matches!(&outcome, Outcome::Failed { failure } if failure.code == "token_not_bound"), "{outcome:?}");
    assert!(third.seen("/x").is_empty());
}

/// The machine's clock, ahead by what a test moves it.
struct Moved(Arc<ManualClock>);

impl Clock for Moved {
    fn boot(&self) -> BootTime {
        SystemClock.boot() + self.0.boot().as_duration()
    }

    fn wall(&self) -> WallTime {
        SystemClock.wall()
    }
}

#[tokio::test]
async fn a_token_that_ends_while_a_nonce_is_asked_for_is_not_sent_with_it() {
    let ahead = Arc::new(ManualClock::new(BootTime::default(), WallTime::from_unix_millis(0)));
    let minted = AtomicUsize::new(0);
    let moved = Arc::clone(&ahead);
    let third = Scripted::start(move |seen| {
        if seen.path == "/token" {
            let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({ "access_token": format!("t{number}"), "token_type": "DPoP", "expires_in": 100 });
            return answer_json(200, body.to_string());
        }
        if claims(&seen.dpop)["nonce"] == "n1" {
            return answer_json(200, "{}");
        }
        moved.advance(Duration::from_secs(200));
        with_header(challenge("use_dpop_nonce"), "dpop-nonce", "n1")
    })
    .await;
    let further = json!({ "profile": { "dpop_bound_tokens": true }, "connection": { "timeout_ms": 600_000 } });
    let rig = Rig::at(&third, &further, Arc::new(Moved(ahead))).await;
    assert_eq!(status(&rig.call(call("POST"), 900_000).await), Some(200));
    let sent: Vec<String> = third.seen("/x").into_iter().map(|seen| seen.authorization).collect();
    assert_eq!(sent, ["DPoP t1", "DPoP t2"]);
}
