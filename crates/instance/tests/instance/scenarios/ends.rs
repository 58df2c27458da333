//! How requests end that no MID has any more: cancelled, expired, handed back.

use bytes::Bytes;
use http::{Method, Request};
use midward_wire::paths;
use serde_json::{Value, json};

use super::audit::{entries, lines};
use super::support::{Instance, Place, ScriptedMid, eventually};
use super::terms::with_connection;
use super::{submit, with_document};

/// What the audit says of how a request and its attempts ended.
pub(super) async fn ends(instance: &Instance, id: &str) -> Vec<Value> {
    let of = |entry: &Value| {
        entry["request"] == id && matches!(entry["what"].as_str(), Some("tried_again" | "withdrawn" | "ended"))
    };
    let mut found = entries(&lines(instance).await);
    found.retain(of);
    // Entries of the queue and of others are in different chains.
    found.sort_by_key(|entry| entry["what"] != "tried_again");
    found
}

/// A line of the metrics.
pub(super) async fn figure(instance: &Instance, name: &str) -> String {
    let request = Request::get(format!("{}/metrics", instance.started.public_url));
    let request = request.header("authorization", format!("Bearer {}", instance.key)).body(Bytes::new());
    let answer = instance.send(request.expect("a request")).await;
    let text = String::from_utf8(answer.body().to_vec()).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    value.unwrap_or_else(|| panic!("{name} in {text}"))
}

async fn shown(instance: &Instance, id: &str) -> Value {
    instance.get(&format!("/api/v1/requests/{id}")).await.1
}

async fn cancel(instance: &Instance, id: &str) -> (u16, Value) {
    instance.post(&format!("/api/v1/requests/{id}/cancel"), &Value::Null).await
}

/// The MID gives a request back of which it has sent nothing.
async fn hand_back(instance: &Instance, mid: &ScriptedMid, id: &str, epoch: i64) {
    let leases = json!({"version": 1, "incarnation": mid.incarnation, "leases": [[id, epoch]]});
    assert_eq!(instance.api_as(&mid.token, Method::POST, paths::RELEASE, &leases).await.0, 204);
}

/// With a connection whose requests wait for a day between two attempts, and one that has had its first.
async fn with_one_that_waits(place: &Place) -> (Instance, ScriptedMid, String) {
    let day = 86_400_000;
    let retry = json!({"statuses": [503], "attempts": 100, "backoff_ms": day, "backoff_max_ms": day});
    let (instance, mut mid) = with_connection(place, &json!({"retry": retry})).await;
    let order = json!({"connection": "crm", "method": "POST", "path": "/x", "expires_in_ms": 7 * day});
    let (status, answer) = instance.post("/api/v1/requests", &order).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted");
    assert_eq!(shown(&instance, &id).await["state"], "queued");
    (instance, mid, id)
}

pub(crate) async fn what_waits_for_its_next_attempt_may_be_cancelled_and_ends_as_its_last_one(place: Place) {
    let (instance, mut mid, id) = with_one_that_waits(&place).await;
    let (status, answer) = cancel(&instance, &id).await;
    assert_eq!((status, answer["state"].as_str(), answer["status"].as_i64()), (200, Some("replied"), Some(503)));
    assert_eq!((&answer["dead"], answer["trace"][0]["hop"].as_str()), (&json!(false), Some("api")), "{answer}");
    assert_eq!(instance.get("/api/v1/dead-letters").await.1["items"], json!([]), "nobody drives it again");
    assert_eq!(cancel(&instance, &id).await.0, 409, "it has ended");
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted", "its answer got lost");
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "other")).await, "refused");
    let ends = ends(&instance, &id).await;
    assert_eq!(ends.iter().map(|entry| &entry["what"]).collect::<Vec<_>>(), ["tried_again", "withdrawn", "ended"]);
    assert_eq!((&ends[1]["code"], &ends[2]["status"]), (&json!("cancelled"), &json!(503)));
    assert_eq!(figure(&instance, "midward_requests_ended_total{how=\"replied\"}").await, "1");
    assert!(mid.poll(&instance, 100, true).await.is_empty(), "it is not sent again");
    instance.stop().await;
}

pub(crate) async fn what_was_handed_back_unsent_may_be_cancelled(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "POST").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(cancel(&instance, &id).await.0, 409, "a MID has it");
    hand_back(&instance, &mid, &id, 1).await;
    let (status, answer) = cancel(&instance, &id).await;
    assert_eq!((status, answer["failure"]["code"].as_str()), (200, Some("cancelled")), "{answer}");
    // What may have been sent may not be cancelled, though it waits.
    let get = submit(&instance, "GET").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    mid.incarnation = "inc-2".into();
    mid.received = 0;
    assert_eq!(mid.heartbeat(&instance, "unusable").await.0, 200);
    let look = async || shown(&instance, &get).await;
    eventually("it is queued again", look, |shown| shown["state"] == "queued").await;
    assert_eq!(cancel(&instance, &get).await.0, 409);
    instance.stop().await;
}

pub(crate) async fn a_caller_whose_call_was_handed_back_and_that_nobody_else_can_serve_learns_it(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let call = instance.call(Method::POST, "crm/call/x").header("midward-wait-ms", "60000").body(Bytes::new());
    let (answer, ()) = tokio::join!(instance.send(call.expect("a request")), async {
        let leases = mid.poll(&instance, 5000, true).await;
        // It shuts down.
        assert_eq!(instance.post("/api/v1/mids/mid-a/drain", &Value::Null).await.0, 200);
        hand_back(&instance, &mid, &leases[0].request_id, leases[0].epoch).await;
    });
    let problem: Value = serde_json::from_slice(answer.body()).expect("a problem");
    assert_eq!((answer.status().as_u16(), problem["code"].as_str()), (503, Some("no_mid")), "{problem}");
    let id = problem["request_id"].as_str().expect("an id");
    assert_eq!(shown(&instance, id).await["state"], "failed", "nobody runs it later");
    instance.stop().await;
}

pub(crate) async fn what_expires_between_two_attempts_is_a_dead_letter_and_in_the_audit(place: Place) {
    let retry = json!({"statuses": [503], "attempts": 9, "backoff_ms": 500, "backoff_max_ms": 500});
    let (instance, mut mid) = with_connection(&place, &json!({"retry": retry})).await;
    let order = json!({"connection": "crm", "method": "POST", "path": "/x", "expires_in_ms": 3000});
    let (_, answer) = instance.post("/api/v1/requests", &order).await;
    let id = answer["id"].as_str().expect("an id").to_owned();
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted");
    // Nobody takes it any more.
    let (_, ended) = instance.get(&format!("/api/v1/requests/{id}?wait_ms=20000")).await;
    assert_eq!((ended["status"].as_i64(), &ended["dead"]), (Some(503), &json!(true)), "{ended}");
    let ends = ends(&instance, &id).await;
    assert_eq!(ends.iter().map(|entry| &entry["what"]).collect::<Vec<_>>(), ["tried_again", "ended"]);
    assert_eq!((&ends[0]["mid"], &ends[0]["epoch"]), (&json!(mid.id), &json!(1)));
    assert_eq!((&ends[1]["how"], &ends[1]["status"]), (&json!("replied"), &json!(503)));
    assert_eq!(figure(&instance, "midward_requests_ended_total{how=\"replied\"}").await, "1");
    instance.stop().await;
}

pub(crate) async fn a_report_that_is_repeated_is_none_of_a_stranger(place: Place) {
    let retry = json!({"statuses": [503], "attempts": 3, "backoff_ms": 100, "backoff_max_ms": 100});
    let (instance, mut mid) = with_connection(&place, &json!({"retry": retry})).await;
    let mut other = ScriptedMid::working(&instance, "mid-b").await;
    let id = submit(&instance, "POST").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted");
    let again = other.poll(&instance, 10_000, true).await;
    assert_eq!(again.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&id, 2)]);
    let repeated = async || mid.report_status(&instance, &id, 1, (503, "busy")).await;
    assert_eq!(repeated().await, "accepted", "somebody else has it by now");
    assert_eq!(other.report(&instance, &id, 2, "done").await, "accepted");
    assert_eq!(repeated().await, "accepted", "and has ended it");
    assert_eq!(shown(&instance, &id).await["status"], 201);
    assert_eq!(figure(&instance, "midward_outcomes_refused_total").await, "0");
    instance.stop().await;
}
