//! On what terms requests are given out: delay, concurrency, rate, retries and dead letters.

use midward_core::{Clock as _, SystemClock};
use serde_json::{Value, json};
use sqlx::Row as _;

use super::ends::{ends, figure};
use super::submit;
use super::support::{Instance, Place, ScriptedMid, document, eventually};

pub(super) async fn with_connection(place: &Place, fields: &Value) -> (Instance, ScriptedMid) {
    let instance = Instance::start(place, None).await;
    let mut wanted = document();
    for (name, value) in fields.as_object().expect("fields") {
        wanted["connections"][0][name] = value.clone();
    }
    let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
    assert_eq!(status, 200, "{answer}");
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    (instance, mid)
}

pub(crate) async fn a_delayed_request_is_sent_when_its_time_has_come(place: Place) {
    let (instance, mut mid) = with_connection(&place, &json!({})).await;
    let at = SystemClock.wall().unix_millis() + 2500;
    let delayed =
        json!({"connection": "crm", "method": "POST", "path": "/x", "not_before": at, "expires_in_ms": 60_000});
    let (status, answer) = instance.post("/api/v1/requests", &delayed).await;
    assert_eq!(status, 202, "{answer}");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{}", answer["id"].as_str().expect("an id"))).await;
    assert_eq!((shown["not_before"].as_i64(), shown["state"].as_str()), (Some(at), Some("queued")));
    assert_eq!(shown["expires_at"].as_i64(), Some(at + 60_000), "it lives from then on");
    let other = submit(&instance, "POST").await;
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(leases.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&other], "others go before");
    let leases = mid.poll(&instance, 10_000, true).await;
    assert_eq!(leases.iter().map(|lease| json!(lease.request_id)).collect::<Vec<_>>(), [answer["id"].clone()]);
    assert!(SystemClock.wall().unix_millis() >= at, "not before its time");
    for bad in [-1, i64::MAX, at + 8 * 86_400_000] {
        let mut request = delayed.clone();
        request["not_before"] = json!(bad);
        let (status, answer) = instance.post("/api/v1/requests", &request).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_not_before")));
    }
    instance.stop().await;
}

pub(crate) async fn a_connection_has_its_concurrency_and_rate(place: Place) {
    // 180 a minute: three at once, then one each third of a second.
    let (instance, mut mid) = with_connection(&place, &json!({"max_concurrent": 2, "max_per_minute": 180})).await;
    let since = SystemClock.boot();
    for _ in 0..6 {
        submit(&instance, "POST").await;
    }
    let mut held = Vec::new();
    let mut done = 0;
    while done < 6 {
        held.extend(mid.poll(&instance, 5000, true).await);
        assert!(held.len() <= 2, "no more than two at a time: {held:?}");
        while let Some(lease) = held.pop() {
            assert_eq!(mid.report(&instance, &lease.request_id, lease.epoch, "x").await, "accepted");
            done += 1;
        }
    }
    let took = SystemClock.boot().saturating_since(since);
    assert!(took >= std::time::Duration::from_millis(950), "three were over the burst: {took:?}");
    instance.stop().await;
}

pub(crate) async fn what_the_policy_says_is_tried_again_and_then_a_dead_letter(place: Place) {
    let retry = json!({"statuses": [503], "attempts": 3, "backoff_ms": 200, "backoff_max_ms": 1000});
    let (instance, mut mid) = with_connection(&place, &json!({"retry": retry})).await;
    let shown = async |id: &str| instance.get(&format!("/api/v1/requests/{id}")).await.1;
    let (id, other) = (submit(&instance, "POST").await, submit(&instance, "POST").await);
    mid.hold(&instance, 2).await;
    assert_eq!(mid.report_status(&instance, &other, 1, (500, "x")).await, "accepted");
    assert_eq!(shown(&other).await["state"], "replied", "a status that is not named stands");
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted");
    assert_eq!(mid.report_status(&instance, &id, 1, (503, "busy")).await, "accepted", "the same outcome again");
    let waits = shown(&id).await;
    assert_eq!((waits["state"].as_str(), waits["attempts"].as_i64()), (Some("queued"), Some(2)), "{waits}");
    for epoch in [2, 3] {
        let again = mid.poll(&instance, 10_000, true).await;
        assert_eq!(again.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&id, epoch)]);
        assert_eq!(mid.report_status(&instance, &id, epoch, (503, "busy")).await, "accepted");
    }
    let dead = shown(&id).await;
    assert_eq!(
        (dead["state"].as_str(), dead["status"].as_i64(), &dead["dead"]),
        (Some("replied"), Some(503), &json!(true))
    );
    let (_, listed) = instance.get("/api/v1/dead-letters").await;
    assert_eq!(
        listed["items"].as_array().map(|items| items.iter().map(|item| &item["id"]).collect()),
        Some(vec![&json!(id)])
    );
    let path = format!("/api/v1/dead-letters/{id}/redrive");
    assert_eq!(instance.post(&path, &Value::Null).await.0, 202);
    assert_eq!(mid.report(&instance, &id, 3, "late").await, "refused", "it is another turn now");
    let again = mid.poll(&instance, 10_000, true).await;
    assert_eq!(again.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&id, 4)]);
    assert_eq!(mid.report(&instance, &id, 4, "fine").await, "accepted");
    assert_eq!(shown(&id).await["status"], 201);
    // It ended twice, and both the audit and the figures say so: accepted and redriven ones are those that ended.
    let mut ended = ends(&instance, &id).await;
    ended.retain(|entry| entry["what"] == "ended");
    assert_eq!(ended.iter().map(|entry| entry["status"].as_i64()).collect::<Vec<_>>(), [Some(503), Some(201)]);
    for (name, value) in [("accepted", "2"), ("redriven", "1"), ("ended", "3")] {
        let labels = if name == "ended" { "{how=\"replied\"}" } else { "" };
        assert_eq!(figure(&instance, &format!("midward_requests_{name}_total{labels} ")).await, value, "{name}");
    }
    let (status, answer) = instance.post(&path, &Value::Null).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("not_a_dead_letter")));
    // Who waits for the answer gets it as it is.
    let call = instance.call(http::Method::POST, "crm/call/x").body(bytes::Bytes::new()).expect("a request");
    let (answer, ()) = tokio::join!(instance.send(call), async {
        let leases = mid.poll(&instance, 5000, true).await;
        assert_eq!(mid.report_status(&instance, &leases[0].request_id, 1, (503, "x")).await, "accepted");
    });
    assert_eq!(answer.status().as_u16(), 503);
    instance.stop().await;
}

pub(crate) async fn what_was_noted_of_a_connections_rate_goes_with_it(place: Place) {
    let instance = Instance::start(&place, None).await;
    let mut wanted = document();
    let mut others = Vec::new();
    for alias in ["crm", "gone", "waited-for"] {
        let mut connection = wanted["connections"][0].clone();
        (connection["alias"], connection["max_per_minute"]) = (json!(alias), json!(1));
        others.push(connection);
    }
    wanted["connections"] = json!(others);
    let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
    assert_eq!(status, 200, "{answer}");
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    for alias in ["crm", "gone", "waited-for"] {
        let request = json!({"connection": alias, "method": "POST", "path": "/x"});
        assert_eq!(instance.post("/api/v1/requests", &request).await.0, 202);
        let leases = mid.poll(&instance, 10_000, true).await;
        assert_eq!(mid.report(&instance, &leases[0].request_id, leases[0].epoch, "x").await, "accepted");
    }
    let waits = json!({"connection": "waited-for", "method": "POST", "path": "/x"});
    assert_eq!(instance.post("/api/v1/requests", &waits).await.0, 202);
    for alias in ["gone", "waited-for"] {
        let path = format!("/api/v1/connections/{alias}");
        assert_eq!(instance.api_as(&instance.key, http::Method::DELETE, &path, &Value::Null).await.0, 204);
    }
    let key = instance.key.clone();
    instance.stop().await;
    let database = place.database().await;
    let noted = async || {
        let rows = sqlx::query("SELECT alias FROM connection_use ORDER BY alias").fetch_all(&database).await;
        rows.expect("rows").iter().map(|row| row.try_get::<String, _>(0).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(noted().await, ["crm", "gone", "waited-for"]);
    // The first round comes at the start.
    let instance = Instance::start(&place, Some(key)).await;
    eventually("removed, and no other", noted, |noted| *noted == ["crm", "waited-for"]).await;
    database.close().await;
    instance.stop().await;
}
