//! Texts that no database takes, and messages without end: refused before they reach what others sent. Bytes that are
//! nobody's text: handed on as they are.

use bytes::Bytes;
use http::Method;
use midward_wire::{MAX_OUTCOMES, header_text, paths};
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid, document};
use super::{submit, with_document};

fn outcome(id: &str) -> Value {
    json!({"request_id": id, "epoch": 1, "trace": [],
           "outcome": {"kind": "replied", "reply": {"status": 200, "headers": [], "body": ""}}})
}

pub(crate) async fn a_nul_in_a_mids_message_fails_nobody_elses(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let resolver = |name: &str, kind: &str, reason: &str| {
        json!({"version": 1, "incarnation": "inc-1", "program_version": "0", "capacity": 8, "running": 0,
               "draining": false, "resolvers": [{"name": "cyberark", "kind": "jar", "health": "ready"},
                   {"name": name, "kind": kind, "health": "ready", "reason": reason}]})
    };
    let incarnation = &mid.incarnation;
    for (path, message) in [
        (paths::RELEASE, json!({"version": 1, "incarnation": incarnation, "leases": [["a\0b", 1]]})),
        (paths::OUTCOMES, json!({"version": 1, "incarnation": incarnation, "outcomes": [outcome("a\0b")]})),
        (
            paths::LEASE,
            json!({"version": 1, "incarnation": "a\0b", "capacity": 1, "wait_ms": 0,
                              "received_batch": 0}),
        ),
        (paths::HEARTBEAT, resolver("a\0b", "jar", "")),
        (paths::HEARTBEAT, resolver("other", "a\0b", "")),
        (paths::HEARTBEAT, resolver("other", "jar", "a\0b")),
        (paths::HEARTBEAT, resolver("other", "jar", &"a".repeat(2000))),
    ] {
        let (answered, id) =
            tokio::join!(instance.api_as(&mid.token, Method::POST, path, &message), submit(&instance, "POST"));
        assert_eq!(answered.0, 400, "{path}: {}", answered.1);
        assert_eq!(instance.get(&format!("/api/v1/requests/{id}")).await.1["state"], "queued", "{path}");
    }
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 7, "what it said before stands, and what others sent");
    for path in [paths::CONFIG, paths::JARS] {
        let answered = instance.api_as(&mid.token, Method::GET, &format!("{path}/a%00b"), &Value::Null).await;
        assert_eq!(answered.0, 400, "{path}: {}", answered.1);
    }
    assert_eq!(mid.token_request(&instance, "a\0b").await.0, 401, "an assertion's own identifier");
    "a\0b".clone_into(&mut mid.id);
    assert_eq!(mid.token_request(&instance, "jti").await.0, 401, "nobody's");
    instance.stop().await;
}

pub(crate) async fn what_no_database_could_be_asked_for_is_not_there(place: Place) {
    let instance = with_document(&place).await;
    assert_eq!(instance.get("/api/v1/requests/a%00b").await.0, 400);
    for name in ["a\0b", &"a".repeat(100_000 / 2)] {
        let request = json!({"connection": name, "method": "GET", "path": "/"});
        let (status, answer) = instance.post("/api/v1/requests", &request).await;
        assert_eq!((status, answer["code"].as_str()), (404, Some("unknown_connection")), "{answer}");
        for pointer in ["/connections/0/credential", "/credentials/0/oauth_entity_profile"] {
            refused(&instance, pointer, name, "invalid_name").await;
        }
        refused(&instance, "/oauth_entity_profiles/0/oauth_entity", name, "invalid_name").await;
        refused(&instance, "/oauth_entity_profiles/0/audience", name, "invalid_record").await;
    }
    instance.stop().await;
}

async fn refused(instance: &Instance, pointer: &str, text: &str, code: &str) {
    let mut bad = document();
    let (record, field) = pointer.rsplit_once('/').expect("a field");
    bad.pointer_mut(record).expect("a record")[field] = json!(text);
    let (status, answer) = instance.post("/api/v1/apply", &bad).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{pointer}: {answer}");
}

pub(crate) async fn a_mid_hands_back_a_bounded_number_at_once(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    for (count, release, report) in [(MAX_OUTCOMES, 204, 200), (MAX_OUTCOMES + 1, 400, 400)] {
        let leases = vec![json!(["0a", 1]); count];
        let message = json!({"version": 1, "incarnation": mid.incarnation, "leases": leases});
        let (status, answer) = instance.api_as(&mid.token, Method::POST, paths::RELEASE, &message).await;
        assert_eq!(status, release, "{answer}");
        let message = json!({"version": 1, "incarnation": mid.incarnation, "outcomes": vec![outcome("0a"); count]});
        let (status, answer) = instance.api_as(&mid.token, Method::POST, paths::OUTCOMES, &message).await;
        assert_eq!(status, report, "{answer}");
    }
    instance.stop().await;
}

pub(crate) async fn an_apis_headers_come_as_they_are(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let (latin, utf8) = (b"gr\xfcn".as_slice(), "grün €".as_bytes());
    let reply = json!({"status": 200, "body": "", "headers": [["X-Latin", header_text(latin)],
        ["X-Utf", header_text(utf8)], ["X-Split", "a\r\nX-B: c"], ["Content-Length", "12345"]]});
    for method in [Method::GET, Method::HEAD] {
        let request = instance.call(method.clone(), "crm/call/x").body(Bytes::new()).expect("a request");
        let (answer, id) = tokio::join!(instance.send(request), async {
            let leases = mid.poll(&instance, 5000, true).await;
            let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
            let said = mid.report_reply(&instance, &lease.request_id, lease.epoch, reply.clone()).await;
            assert_eq!(said, "accepted");
            lease.request_id.clone()
        });
        let header = |name: &str| answer.headers().get(name).map(http::HeaderValue::as_bytes);
        assert_eq!((header("x-latin"), header("x-utf")), (Some(latin), Some(utf8)));
        assert_eq!((header("x-split"), header("x-b")), (None, None));
        let length = if method == Method::HEAD { b"12345".as_slice() } else { b"0" };
        assert_eq!(header("content-length"), Some(length), "{method}");
        let shown = instance.get(&format!("/api/v1/requests/{id}")).await.1;
        assert_eq!((&shown["headers"][0][1], &shown["headers"][1][1]), (&json!("grün"), &json!("grün €")));
    }
    instance.stop().await;
}
