//! Which MID gets a request: clusters, networks, and what an administrator does to a MID.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid, document};
use super::{submit, with_document};

/// An instance whose connection is served by a cluster of the two MIDs, which work.
async fn with_cluster(place: &Place, mode: &str) -> (Instance, ScriptedMid, ScriptedMid) {
    let instance = Instance::start(place, None).await;
    let mut wanted = document();
    wanted["clusters"] = json!([{"name": "edge", "mode": mode, "mids": ["mid-a", "mid-b"]}]);
    wanted["connections"][0]["cluster"] = json!("edge");
    let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
    assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(5)), "{answer}");
    assert_eq!(instance.post("/api/v1/apply", &wanted).await.1["changes"], json!([]));
    let a = ScriptedMid::working(&instance, "mid-a").await;
    let b = ScriptedMid::working(&instance, "mid-b").await;
    (instance, a, b)
}

pub(crate) async fn a_dead_mid_is_shown_as_not_live_within_ten_seconds(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    let database = place.database().await;
    // Seconds without a heartbeat: by the instance's clock, and by the database's, which nobody can move.
    let pass = async |seconds: u32| {
        let earlier = "UPDATE mids SET last_seen_at = last_seen_at - $1";
        sqlx::query(earlier).bind(i64::from(seconds) * 1000).execute(&database).await.expect("moved");
        instance.clock.skip(seconds.into());
    };
    let live = async || instance.get("/api/v1/mids/mid-a").await.1["live"].clone();
    let call = async || {
        let request = instance.call(Method::GET, "crm/call/x").header("midward-wait-ms", "200");
        let answer = instance.send(request.body(Bytes::new()).expect("a request")).await;
        serde_json::from_slice::<Value>(answer.body()).expect("a problem")["code"].clone()
    };
    pass(5).await;
    assert_eq!(live().await, true, "one heartbeat may be missing");
    assert_ne!(call().await, "no_mid", "it may still take it");
    pass(5).await;
    assert_eq!((live().await, call().await), (json!(false), json!("no_mid")), "ten seconds after the last one");
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    assert_eq!(live().await, true, "it was only cut off");
    instance.stop().await;
}

pub(crate) async fn a_cluster_balances_by_what_each_mid_can_take(place: Place) {
    let (instance, mut a, mut b) = with_cluster(&place, "load_balance").await;
    let mut stranger = ScriptedMid::working(&instance, "mid-c").await;
    for _ in 0..4 {
        submit(&instance, "GET").await;
    }
    assert!(stranger.poll(&instance, 200, true).await.is_empty(), "not of the cluster");
    assert_eq!(a.poll_for(&instance, 1, 5000, true).await.len(), 1);
    assert_eq!(b.poll_for(&instance, 8, 5000, true).await.len(), 3, "the rest, as it has room");
    instance.stop().await;
}

pub(crate) async fn a_cluster_fails_over_in_its_order(place: Place) {
    let (instance, mut a, mut b) = with_cluster(&place, "failover").await;
    let first = submit(&instance, "GET").await;
    assert!(b.poll(&instance, 700, true).await.is_empty(), "the first can");
    let leased = a.poll(&instance, 5000, true).await;
    assert_eq!(leased.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&first]);
    // The first one's resolver breaks: the second one's turn.
    a.heartbeat(&instance, "unusable").await;
    let second = submit(&instance, "GET").await;
    let leased = b.poll(&instance, 5000, true).await;
    assert_eq!(leased.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&second]);
    a.heartbeat(&instance, "ready").await;
    submit(&instance, "GET").await;
    assert!(b.poll(&instance, 700, true).await.is_empty(), "and back");
    assert_eq!(a.poll(&instance, 5000, true).await.len(), 1);
    instance.stop().await;
}

pub(crate) async fn an_address_chooses_the_cluster_of_its_network(place: Place) {
    let instance = Instance::start(&place, None).await;
    let mut wanted = document();
    wanted["clusters"] = json!([{"name": "wide", "mids": ["mid-a"], "networks": ["10.0.0.0/8"]},
                                {"name": "near", "mids": ["mid-b"], "networks": ["10.7.0.0/16"]}]);
    wanted["connections"][0]["base_url"] = json!("https://10.7.1.2:8443/api");
    let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
    assert_eq!(status, 200, "{answer}");
    let mut a = ScriptedMid::working(&instance, "mid-a").await;
    let mut b = ScriptedMid::working(&instance, "mid-b").await;
    submit(&instance, "GET").await;
    assert!(a.poll(&instance, 700, true).await.is_empty());
    assert_eq!(b.poll(&instance, 5000, true).await.len(), 1, "the more precise network");
    instance.stop().await;
}

pub(crate) async fn clusters_hold_together_with_what_names_them(place: Place) {
    let instance = Instance::start(&place, None).await;
    let good = json!([{"name": "edge", "mids": ["mid-a", "mid-b"]}]);
    for (clusters, connection, code) in [
        (json!([]), json!({"cluster": "edge"}), "dangling_reference"),
        (good.clone(), json!({"cluster": "edge", "mid": "mid-a"}), "invalid_record"),
        (json!([{"name": "edge", "mids": []}]), json!({}), "invalid_record"),
        (json!([{"name": "edge", "mids": ["a", "a"]}]), json!({}), "invalid_record"),
        (json!([{"name": "edge", "mids": ["a"], "networks": ["10.1.1.1/8"]}]), json!({}), "invalid_record"),
        (json!([{"name": "edge", "mids": ["a"], "mode": "random"}]), json!({}), "invalid_json"),
        (json!([]), json!({"max_concurrent": 0}), "invalid_record"),
        (json!([]), json!({"retry": {"attempts": 1}}), "invalid_record"),
        (json!([]), json!({"retry": {"statuses": [200]}}), "invalid_record"),
    ] {
        let mut wanted = document();
        wanted["clusters"] = clusters;
        for (name, value) in connection.as_object().expect("fields") {
            wanted["connections"][0][name] = value.clone();
        }
        let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{wanted}: {answer}");
    }
    let mut wanted = document();
    wanted["clusters"] = good;
    wanted["connections"][0]["cluster"] = json!("edge");
    assert_eq!(instance.post("/api/v1/apply", &wanted).await.0, 200);
    assert_eq!(instance.get("/api/v1/clusters/edge").await.1["mode"], "load_balance");
    let delete = instance.api_as(&instance.key, Method::DELETE, "/api/v1/clusters/edge", &Value::Null).await;
    assert_eq!((delete.0, delete.1["code"].as_str()), (409, Some("still_used")));
    instance.stop().await;
}

pub(crate) async fn a_mid_is_paused_drained_and_given_a_new_key(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    for (action, gets_work) in [("pause", false), ("resume", true), ("drain", false), ("resume", true)] {
        assert_eq!(instance.post(&format!("/api/v1/mids/mid-a/{action}"), &Value::Null).await.0, 200, "{action}");
        submit(&instance, "GET").await;
        let leases = mid.poll(&instance, if gets_work { 5000 } else { 100 }, true).await;
        assert_eq!(!leases.is_empty(), gets_work, "{action}");
    }
    // A drain is not undone by a heartbeat, but by a new start.
    instance.post("/api/v1/mids/mid-a/drain", &Value::Null).await;
    mid.heartbeat(&instance, "ready").await;
    assert_eq!(instance.get("/api/v1/mids/mid-a").await.1["draining"], true);
    mid.incarnation = "inc-2".into();
    mid.received = 0;
    mid.heartbeat(&instance, "ready").await;
    assert_eq!(instance.get("/api/v1/mids/mid-a").await.1["draining"], false);

    let (status, answer) = instance.post("/api/v1/mids/mid-a/rekey", &Value::Null).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200, "the old key is good until then");
    let mut old = mid.clone_for_poll();
    std::mem::swap(&mut old, &mut mid);
    mid.rekey(&instance, answer["token"].as_str().expect("a token")).await;
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 401, "the old tokens ended");
    assert_eq!(old.token_request(&instance, "r1").await.0, 401, "and the old key");
    mid.sign_in(&instance, "r2").await;
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    let (_, shown) = instance.get("/api/v1/mids/mid-a").await;
    assert_eq!((shown["id"].as_str(), shown["state"].as_str()), (Some(mid.id.as_str()), Some("validated")));
    assert_eq!(instance.post("/api/v1/mids/nobody/rekey", &Value::Null).await.0, 404);
    instance.stop().await;
}
