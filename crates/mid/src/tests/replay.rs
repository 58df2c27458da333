//! What is sent again after a 401, and what never is.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::engine::{Rig, status, third_party};
use super::instance::{Scripted, json as answer_json};

const LEASE: u64 = 30_000;

fn call(method: &str) -> Value {
    json!({ "method": method, "path": "/x" })
}

#[tokio::test]
async fn the_connection_says_which_methods_are_repeated_and_the_call_may_widen_it() {
    let safe = |method: &str| json!({ "method": method, "path": "/x", "replay": "safe" });
    for (connection, call, sent) in [
        (json!({}), call("GET"), 2),
        (json!({}), call("PUT"), 1),
        (json!({}), safe("POST"), 2),
        (json!({ "replay_methods": ["PUT"] }), call("PUT"), 2),
        (json!({ "replay_methods": ["PUT"] }), call("GET"), 1),
        (json!({ "replay_methods": [] }), call("GET"), 1),
        (json!({ "replay_methods": [] }), safe("GET"), 2),
    ] {
        let third = third_party().await;
        let rig = Rig::new(&third, connection.clone()).await;
        let outcome = rig.call(call.clone(), LEASE).await;
        assert_eq!(third.seen("/x").len(), sent, "{connection} {call}");
        assert_eq!(status(&outcome), Some(if sent == 2 { 200 } else { 401 }), "{connection} {call}");
        // The token is dropped whether or not the call was repeated: the next one gets another.
        assert_eq!(status(&rig.call(call, LEASE).await), Some(200));
        assert_eq!(third.seen("/token").len(), 2);
    }
}

/// A token endpoint that numbers its tokens, and an API that answers what `judge` says to each.
async fn api(judge: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Scripted {
    let minted = AtomicUsize::new(0);
    Scripted::start(move |seen| {
        if seen.path == "/token" {
            let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({ "access_token": format!("t{number}"), "token_type": "Bearer", "expires_in": 300 });
            return answer_json(200, body.to_string());
        }
        answer_json(judge(&seen.authorization), "{}")
    })
    .await
}

#[tokio::test]
async fn a_403_drops_no_token_and_is_never_repeated() {
    let third = api(|_| 403).await;
    let rig = Rig::new(&third, json!({})).await;
    for _ in 0..3 {
        let outcome = rig.call(json!({ "method": "GET", "path": "/x", "replay": "safe" }), LEASE).await;
        assert_eq!(status(&outcome), Some(403));
    }
    assert_eq!((third.seen("/x").len(), third.seen("/token").len()), (3, 1));
}

#[tokio::test]
async fn a_call_is_repeated_once_and_the_new_token_stays() {
    let third = api(|_| 401).await;
    let rig = Rig::new(&third, json!({})).await;
    assert_eq!(status(&rig.call(call("GET"), LEASE).await), Some(401));
    assert_eq!((third.seen("/x").len(), third.seen("/token").len()), (2, 2));
}

#[tokio::test]
async fn many_calls_with_one_refused_token_cause_one_new_one_and_all_are_answered() {
    let third = api(|authorization| if authorization == "Bearer t1" { 401 } else { 200 }).await;
    let rig = Rig::new(&third, json!({})).await;
    let outcomes = join_all((0..50).map(|_| rig.call(call("GET"), LEASE))).await;
    assert!(outcomes.iter().all(|outcome| status(outcome) == Some(200)), "{outcomes:?}");
    // A late refusal of the first token drops nothing: the second one is the cached one then.
    assert_eq!(third.seen("/token").len(), 2);
}

#[tokio::test]
async fn a_token_that_is_issued_again_is_not_tried_again() {
    let third = Scripted::start(|seen| {
        if seen.path == "/token" {
            return answer_json(200, r#"{"access_token":"same","token_type":"Bearer","expires_in":300}"#);
        }
        answer_json(401, "{}")
    })
    .await;
    let rig = Rig::new(&third, json!({})).await;
    assert_eq!(status(&rig.call(call("GET"), LEASE).await), Some(401));
    assert_eq!((third.seen("/x").len(), third.seen("/token").len()), (1, 2));
}

#[tokio::test]
async fn an_api_that_refuses_every_token_causes_no_new_one_for_each_call() {
    let third = api(|_| 401).await;
    let rig = Rig::new(&third, json!({})).await;
    for _ in 0..20 {
        assert_eq!(status(&rig.call(call("GET"), LEASE).await), Some(401));
    }
    // Three are replaced at once. Then one in two seconds, and that doubles: the rest takes a moment.
    let minted = third.seen("/token").len();
    assert!((4..=6).contains(&minted), "{minted}");
    assert!((20..=26).contains(&third.seen("/x").len()), "{}", third.seen("/x").len());
}
