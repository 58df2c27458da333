//! Nothing from outside is without a limit.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use midward_core::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid, eventually};
use super::with_document;

/// One that waits in the queue for an hour.
pub(crate) fn later(key: &str) -> Value {
    let not_before = (SystemClock.wall() + Duration::from_hours(1)).unix_millis();
    json!({"connection": "crm", "method": "POST", "path": "/x", "not_before": not_before, "idempotency_key": key})
}

/// Queues one that there is room for. What was committed while it was counted may be reckoned twice, until the next count.
pub(crate) async fn queue(instance: &Instance, key: &str) -> Value {
    let look = async || instance.post("/api/v1/requests", &later(key)).await;
    let is_full = |answer: &Value| answer["code"] == "queue_full";
    let (status, answer) = eventually("there is room", look, |(_, answer)| !is_full(answer)).await;
    assert_eq!(status, 202, "{answer}");
    answer["id"].clone()
}

async fn call(instance: &Instance) -> Response<Bytes> {
    instance.send(instance.call(Method::POST, "crm/call/x").body(Bytes::new()).expect("a request")).await
}

fn code(answer: &Response<Bytes>) -> Value {
    let problem: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    problem["code"].clone()
}

pub(crate) async fn a_full_queue_takes_only_what_a_mid_takes_at_once(mut place: Place) {
    (place.limits.queued_requests, place.limits.queued_bytes) = (3, 65_536);
    let instance = with_document(&place).await;
    let mut large = later("large");
    large["body"] = json!("x".repeat(50_000));
    let (status, refused) = instance.post("/api/v1/requests", &large).await;
    assert_eq!((status, &refused["code"], &refused["persistence"]), (503, &json!("queue_full"), &json!("transient")));
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        ids.push(queue(&instance, key).await);
    }
    for key in ["d", "d"] {
        let (status, refused) = instance.post("/api/v1/requests", &later(key)).await;
        assert_eq!((status, &refused["code"]), (503, &json!("queue_full")), "{refused}");
    }
    let (status, known) = instance.post("/api/v1/requests", &later("a")).await;
    assert_eq!((status, &known["id"]), (200, &ids[0]), "it is in the queue already");

    // No poll waits, so the call would have to.
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let refused = call(&instance).await;
    assert_eq!((refused.status().as_u16(), code(&refused)), (503, json!("queue_full")));
    assert_eq!(refused.headers()["retry-after"], "5");
    assert!(refused.headers().contains_key("midward-request-id"));
    let works = async {
        let leases = mid.poll(&instance, 25_000, true).await;
        mid.report(&instance, &leases[0].request_id, 1, "done").await
    };
    // Until the poll is there.
    let taken =
        eventually("it is taken at once", async || call(&instance).await, |answer| code(answer) != "queue_full");
    let (verdict, answer) = tokio::join!(works, taken);
    assert_eq!((verdict.as_str(), answer.status().as_u16()), ("accepted", 201));

    // It is known right after a start, and what leaves the queue is noticed.
    let key = instance.key.clone();
    instance.stop().await;
    let instance = Instance::start(&place, Some(key)).await;
    assert_eq!(instance.post("/api/v1/requests", &later("d")).await.1["code"], "queue_full");
    let cancel = format!("/api/v1/requests/{}/cancel", ids[0].as_str().expect("an id"));
    assert_eq!(instance.post(&cancel, &Value::Null).await.0, 200);
    queue(&instance, "d").await;
    instance.stop().await;
}
