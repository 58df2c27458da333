//! One key, one MID; one enrollment, one registration.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use midward_core::{Clock as _, SystemClock};
use midward_wire::{EnrollToken, paths};
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid, eventually};
use super::{audit_entries, audit_lines, submit, with_document};

async fn poll(instance: &Instance, mid: &ScriptedMid, wait_ms: u64) -> (u16, Value) {
    let poll = json!({"version": 1, "incarnation": mid.incarnation, "capacity": 8, "wait_ms": wait_ms,
                      "received_batch": mid.received});
    instance.api_as(&mid.token, Method::POST, paths::LEASE, &poll).await
}

fn ids(leases: &[midward_wire::LeaseGrant]) -> Vec<(&str, i64)> {
    leases.iter().map(|lease| (lease.request_id.as_str(), lease.epoch)).collect()
}

pub(crate) async fn a_mid_that_was_cloned_is_told_and_only_the_newer_one_works(place: Place) {
    let instance = with_document(&place).await;
    let mut older = ScriptedMid::working(&instance, "mid-a").await;
    let (once, again) = (submit(&instance, "POST").await, submit(&instance, "GET").await);
    older.hold(&instance, 2).await;
    // A poll of the older one waits; it gets nothing more from the moment on in which the newer one is heard.
    let mut newer = older.clone_of("inc-2");
    let (left_behind, ()) = tokio::join!(poll(&instance, &older, 20_000), async {
        assert_eq!(newer.heartbeat(&instance, "ready").await.0, 200);
        let state = instance.get(&format!("/api/v1/requests/{once}?wait_ms=5000")).await.1["state"].clone();
        assert_eq!(state, "unknown", "it may have been sent");
    });
    // When it came first, it is answered with nothing; else it is refused, as every one after it.
    assert!(left_behind.0 == 409 || left_behind.1["leases"] == json!([]), "{left_behind:?}");
    assert_eq!(ids(&newer.poll(&instance, 5000, true).await), [(again.as_str(), 2)], "it may be repeated");
    for _ in 0..3 {
        let (status, answer) = older.heartbeat(&instance, "ready").await;
        assert_eq!((status, answer["code"].as_str()), (409, Some("mid_cloned")), "{answer}");
        let (status, answer) = poll(&instance, &older, 0).await;
        assert_eq!((status, answer["code"].as_str()), (409, Some("mid_cloned")), "{answer}");
        let (status, answer) = newer.heartbeat(&instance, "ready").await;
        assert_eq!((status, answer["cloned"].as_bool()), (200, Some(true)), "the newer one is told, too: {answer}");
        assert_eq!(instance.get(&format!("/api/v1/requests/{again}")).await.1["state"], "leased", "nobody ends it");
    }
    assert_eq!(instance.get("/api/v1/mids/mid-a").await.1["cloned"], true);
    // What the older one did before is still taken.
    assert_eq!(older.report(&instance, &once, 1, "done").await, "accepted");
    assert_eq!(newer.report(&instance, &again, 2, "done").await, "accepted");
    let entries = audit_entries(&audit_lines(&instance).await);
    let told = entries.iter().filter(|entry| entry["what"] == "mid_cloned").count();
    assert_eq!(told, 1, "once, and not each time");
    // When the newer one is heard of no more, the older one has its place again.
    let since = SystemClock.boot();
    let look = async || older.heartbeat(&instance, "ready").await.0;
    eventually("it heals", look, |status| *status == 200).await;
    assert!(SystemClock.boot().saturating_since(since) > Duration::from_secs(5), "not while the newer one lives");
    let next = submit(&instance, "GET").await;
    assert_eq!(ids(&older.poll(&instance, 5000, true).await), [(next.as_str(), 1)]);
    assert_eq!(instance.get("/api/v1/mids/mid-a").await.1["cloned"], false);
    assert_eq!(newer.heartbeat(&instance, "ready").await.0, 409);
    instance.stop().await;
}

pub(crate) async fn an_enrollment_whose_answer_got_lost_is_given_again(place: Place) {
    let instance = with_document(&place).await;
    let token = instance.enroll_token("mid-a", false).await;
    let key = || URL_SAFE_NO_PAD.encode(Ed25519KeyPair::generate().expect("a key").public_key().as_ref());
    let (own, other) = (key(), key());
    let enroll = async |token: &EnrollToken, key: &str| {
        let request = json!({"version": 1, "secret": token.secret, "name": "whatever", "public_key": key});
        instance.post(paths::ENROLL, &request).await
    };
    let (status, first) = enroll(&token, &own).await;
    assert_eq!((status, first["name"].as_str()), (200, Some("mid-a")), "{first}");
    assert_eq!(enroll(&token, &own).await, (200, first.clone()), "the same registration");
    let (status, answer) = enroll(&token, &other).await;
    assert_eq!((status, answer["code"].as_str()), (403, Some("enroll_token_refused")), "{answer}");
    assert_eq!(instance.post("/api/v1/mids/mid-a/validate", &Value::Null).await.0, 200);
    assert_eq!(enroll(&token, &own).await.1["state"], "validated", "as it is now");
    // A new key, twice; the key before is good for nothing then, and its token neither.
    let (status, answer) = instance.post("/api/v1/mids/mid-a/rekey", &Value::Null).await;
    assert_eq!(status, 201, "{answer}");
    let rekey = EnrollToken::decode(answer["token"].as_str().expect("a token")).expect("a token");
    for _ in 0..2 {
        let (status, answer) = enroll(&rekey, &other).await;
        assert_eq!((status, &answer["mid_id"]), (200, &first["mid_id"]), "{answer}");
    }
    assert_eq!(enroll(&token, &own).await.0, 403);
    assert_eq!(instance.get("/api/v1/mids").await.1["items"].as_array().map(Vec::len), Some(1));
    instance.stop().await;
}

pub(crate) async fn a_heartbeat_that_says_nothing_new_is_stored_with_the_others(place: Place) {
    let instance = with_document(&place).await;
    let mut mids = Vec::new();
    for name in ["mid-a", "mid-b"] {
        mids.push((name, ScriptedMid::working(&instance, name).await));
    }
    let mut first = Vec::new();
    for (name, mid) in &mids {
        let before = last_seen(&instance, name).await;
        let look = async || {
            assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
            last_seen(&instance, name).await
        };
        eventually("it is heard later", look, |seen| *seen != before).await;
        first.push(before);
    }
    let key = instance.key.clone();
    instance.stop().await;

    // What the memory knew is gone.
    let instance = Instance::start(&place, Some(key)).await;
    for ((name, _), first) in mids.iter().zip(first) {
        let stored = last_seen(&instance, name).await;
        assert!(stored > first, "{name}: {stored:?}, and its first heartbeat came at {first:?}");
    }
    instance.stop().await;
}

async fn last_seen(instance: &Instance, name: &str) -> Option<i64> {
    let (status, mid) = instance.get(&format!("/api/v1/mids/{name}")).await;
    assert_eq!(status, 200, "{mid}");
    mid["last_seen_at"].as_i64()
}
