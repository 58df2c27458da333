//! Several instances on one PostgreSQL database: none is special, and each knows what the others did.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_core::{Clock as _, SystemClock};
use midward_fakes::postgres::Postgres;
use midward_wire::paths;
use serde_json::{Value, json};

use crate::scenarios::support::{Instance, Place, ScriptedMid, document, eventually};
use crate::scenarios::{later, queue, submit};

struct Pair {
    a: Instance,
    b: Instance,
    places: (Place, Place),
    // Last: it ends after those who use it.
    server: Arc<Postgres>,
}

/// Two instances with the same keys, and the document applied at the first.
async fn pair() -> Pair {
    let server = Postgres::start_without_fsync().expect("a server");
    let mut place = Place::postgres(&server.new_database().expect("a database"));
    place.public_url = Some("http://midward.test".to_owned());
    let a = Instance::start(&place, None).await;
    let beside = place.beside();
    let b = Instance::start(&beside, Some(a.key.clone())).await;
    let (status, answer) = a.post("/api/v1/apply", &document()).await;
    assert_eq!(status, 200, "{answer}");
    Pair { a, b, places: (place, beside), server: Arc::new(server) }
}

impl Pair {
    async fn stop(self) {
        self.a.stop().await;
        self.b.stop().await;
    }
}

/// Until a replica hears of a live MID.
async fn hears_of(instance: &Instance, mid: &str) {
    let path = format!("/api/v1/mids/{mid}");
    let look = async || instance.get(&path).await.1;
    eventually("it hears of the MID", look, |mid| mid["live"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_queued_fills_the_queue_of_all() {
    let server = Postgres::start_without_fsync().expect("a server");
    let mut place = Place::postgres(&server.new_database().expect("a database"));
    place.limits.queued_requests = 2;
    let a = Instance::start(&place, None).await;
    assert_eq!(a.post("/api/v1/apply", &document()).await.0, 200);
    let beside = place.beside();
    let b = Instance::start(&beside, Some(a.key.clone())).await;
    for key in ["a", "b"] {
        queue(&a, key).await;
    }
    let mut taken = 0;
    let look = async || {
        let (status, answer) = b.post("/api/v1/requests", &later(&format!("c{taken}"))).await;
        taken += usize::from(status == 202);
        answer
    };
    eventually("the other one has no room either", look, |answer| answer["code"] == "queue_full").await;
    for instance in [a, b] {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_one_replica_is_served_through_another() {
    let pair = pair().await;
    let (a, b) = (&pair.a, &pair.b);
    // Enrolled at one, it signs in and is heard at the other.
    let mut mid = ScriptedMid::enroll(a, "mid-a", true).await;
    mid.sign_in(b, "j").await;
    assert_eq!(mid.heartbeat(b, "ready").await.0, 200);
    hears_of(a, "mid-a").await;
    let call = a.call(Method::POST, "crm/call/x").header("midward-wait-ms", "20000").body(Bytes::new());
    let since = SystemClock.boot();
    let (answer, ()) = tokio::join!(a.send(call.expect("a request")), async {
        let leases = mid.poll(b, 10_000, true).await;
        let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
        assert_eq!(mid.report(b, &lease.request_id, lease.epoch, "world").await, "accepted");
    });
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (201, &b"world"[..]));
    let took = SystemClock.boot().saturating_since(since);
    assert!(took < Duration::from_secs(5), "hints spare the waiting: {took:?}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_caller_has_the_answer_that_another_replica_keeps_no_longer_than_that() {
    let pair = pair().await;
    let (a, b) = (&pair.a, &pair.b);
    let mut changed = document();
    changed["connections"][0]["keep"] = json!("metadata");
    assert_eq!(a.post("/api/v1/apply", &changed).await.0, 200);
    let mut mid = ScriptedMid::working(b, "mid-a").await;
    hears_of(a, "mid-a").await;
    let large = "x".repeat(400_000);
    let call = a.call(Method::POST, "crm/call/x").header("midward-wait-ms", "20000").body(Bytes::from("y"));
    let (answer, ()) = tokio::join!(a.send(call.expect("a request")), async {
        let leases = mid.poll(b, 10_000, true).await;
        let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
        assert_eq!(mid.report(b, &lease.request_id, lease.epoch, &large).await, "accepted");
    });
    assert_eq!((answer.status().as_u16(), answer.body().len()), (201, large.len()));
    let database = pair.places.0.database().await;
    let left = "SELECT id FROM requests WHERE keep <> 3 OR call_json <> '' UNION SELECT request_id FROM request_pieces";
    let look = async || sqlx::query(left).fetch_all(&database).await.expect("rows").len();
    eventually("nothing of it is left", look, |rows| *rows == 0).await;
    let id = answer.headers()["midward-request-id"].to_str().expect("text").to_owned();
    let (_, shown) = b.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!((shown["status"].as_i64(), &shown["body_unavailable"]["code"]), (Some(201), &json!("body_not_kept")));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_one_replica_has_is_told() {
    let mut pair = pair().await;
    let mut with_key = pair.places.0.beside();
    with_key.encrypt(9);
    let c = Instance::start(&with_key, Some(pair.a.key.clone())).await;
    assert_eq!(c.get("/api/v1/at-rest").await.1["missing_keys"], json!([]));
    let id = submit(&c, "POST").await;
    for at in [&pair.a, &pair.b] {
        let (_, tells) = at.get("/api/v1/at-rest").await;
        assert_eq!((&tells["encrypted"], tells["missing_keys"].as_array().map(Vec::len)), (&json!(false), Some(1)));
        assert_eq!(at.get(&format!("/api/v1/requests/{id}")).await.1["path"], Value::Null);
    }
    c.stop().await;
    pair.b.stop().await;
    let error = Instance::try_start(&pair.places.1).await.err().expect("it lacks the key");
    assert!(error.contains("encrypted with the key"), "{error}");
    // Given to read by, before anybody writes with it.
    pair.places.1.encrypt(8);
    pair.places.1.encryption.older_key_files.extend(with_key.encryption.key_file.clone());
    pair.b = Instance::start(&pair.places.1, Some(pair.a.key.clone())).await;
    assert_eq!(pair.b.get(&format!("/api/v1/requests/{id}")).await.1["path"], "/x");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mid_that_changes_replicas_gets_the_batch_that_got_lost() {
    let pair = pair().await;
    let (a, b) = (&pair.a, &pair.b);
    let mut mid = ScriptedMid::working(a, "mid-a").await;
    let first = submit(a, "POST").await;
    assert_eq!(mid.poll(a, 5000, true).await.len(), 1);
    assert_eq!(mid.report(b, &first, 1, "x").await, "accepted", "whoever gave it");
    // Given out by one, the answer lost: delivered again by the other.
    let lost = submit(b, "POST").await;
    assert_eq!(mid.poll(a, 5000, false).await.len(), 1);
    let again = mid.poll(b, 5000, true).await;
    assert_eq!(again.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&lost, 1)]);
    // Its poll at the first is left behind: what comes now is not given to that one.
    let mut twin = mid.clone_for_poll();
    let left = tokio::time::timeout(Duration::from_millis(300), twin.poll(a, 20_000, false));
    assert!(left.await.is_err(), "nothing to do");
    let (fresh, leases) = tokio::join!(submit(a, "POST"), mid.poll(b, 10_000, true));
    assert_eq!(leases.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&fresh]);
    for (id, at) in [(&lost, a), (&fresh, b)] {
        assert_eq!(mid.report(at, id, 1, "y").await, "accepted");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_at_one_replica_holds_at_the_other() {
    let pair = pair().await;
    let (a, b) = (&pair.a, &pair.b);
    let mid = ScriptedMid::working(a, "mid-a").await;
    hears_of(b, "mid-a").await;
    // The route is compiled at both before it changes.
    assert_eq!(submit(b, "GET").await.len(), submit(a, "GET").await.len());
    let mut changed = document();
    changed["connections"][0]["mid"] = json!("nobody");
    a.post("/api/v1/apply", &changed).await;
    let look = async || {
        let call = b.call(Method::GET, "crm/call/x").header("midward-wait-ms", "100").body(Bytes::new());
        b.send(call.expect("a request")).await.status().as_u16()
    };
    eventually("the route changes", look, |status| *status == 503).await;
    let new = json!({"name": "app", "role": "caller", "connections": ["crm"]});
    let (_, answer) = a.post("/api/v1/api-keys", &new).await;
    let key = answer["key"].as_str().expect("a key").to_owned();
    assert_eq!(b.api_as(&key, Method::GET, "/api/v1/requests", &Value::Null).await.0, 200);
    assert_eq!(a.api_as(&a.key, Method::DELETE, "/api/v1/api-keys/app", &Value::Null).await.0, 204);
    let look = async || b.api_as(&key, Method::GET, "/api/v1/requests", &Value::Null).await.0;
    eventually("the key ends", look, |status| *status == 401).await;
    assert_eq!(mid.heartbeat(b, "ready").await.0, 200);
    a.post("/api/v1/mids/mid-a/drain", &Value::Null).await;
    let look = async || b.get("/api/v1/mids/mid-a").await.1;
    eventually("the drain is known", look, |mid| mid["draining"] == true).await;
    a.post("/api/v1/mids/mid-a/invalidate", &Value::Null).await;
    eventually("its tokens end", async || mid.heartbeat(b, "ready").await.0, |status| *status == 401).await;
    let beat = b.api_as(&mid.token, Method::POST, paths::LEASE, &json!({})).await;
    assert_eq!(beat.0, 401);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_key_does_not_start() {
    let pair = pair().await;
    let mut stranger = pair.places.0.beside();
    stranger.own_keys();
    let error = Instance::try_start(&stranger).await.err().expect("another key");
    assert!(error.contains("store.keys"), "{error}");
    assert!(!pair.places.1.path().join("first-admin-key").exists(), "the first one's stands");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_replicas_at_once_makes_one_request() {
    let pair = pair().await;
    for number in 0..20 {
        let order =
            json!({"connection": "crm", "method": "POST", "path": "/x", "idempotency_key": format!("k{number}")});
        let (a, b) = tokio::join!(pair.a.post("/api/v1/requests", &order), pair.b.post("/api/v1/requests", &order));
        assert!(matches!((a.0, b.0), (202, 200) | (200, 202)), "{a:?} {b:?}");
        assert_eq!(a.1["id"], b.1["id"]);
    }
    let (_, listed) = pair.a.get("/api/v1/requests?limit=500").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(20));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_outlive_a_restart_of_the_database() {
    let pair = pair().await;
    let (a, b) = (&pair.a, &pair.b);
    // Checks of keys and routes are in memory then.
    let mut ids = vec![submit(a, "POST").await, submit(b, "POST").await];
    let order = |number: usize| json!({"connection": "crm", "method": "POST", "path": "/x", "idempotency_key": format!("k{number}")});
    let submissions = async {
        let mut answers = Vec::new();
        for number in 0..40 {
            let at = if number % 2 == 0 { a } else { b };
            answers.push(at.post("/api/v1/requests", &order(number)).await);
        }
        answers
    };
    let server = Arc::clone(&pair.server);
    let restart = tokio::task::spawn_blocking(move || server.crash().and_then(|()| server.resume()));
    let (answers, restarted) = tokio::join!(submissions, restart);
    restarted.expect("no panic").expect("a restart");
    for (number, (status, answer)) in answers.iter().enumerate() {
        assert_eq!(*status, 202, "no false failure: {answer}");
        let (status, again) = a.post("/api/v1/requests", &order(number)).await;
        assert_eq!((status, &again["id"]), (200, &answer["id"]), "and no duplicate");
        ids.push(answer["id"].as_str().expect("an id").to_owned());
    }
    let (_, listed) = b.get("/api/v1/requests?limit=500").await;
    let mut listed: Vec<&str> =
        listed["items"].as_array().expect("a list").iter().map(|item| item["id"].as_str().expect("an id")).collect();
    listed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(listed, ids);
    pair.stop().await;
}

/// The pair with limits on its connection, and a working MID at each.
async fn limited(limits: &Value) -> (Pair, ScriptedMid, ScriptedMid) {
    let pair = pair().await;
    let mut wanted = document();
    for (name, value) in limits.as_object().expect("fields") {
        wanted["connections"][0][name] = value.clone();
    }
    assert_eq!(pair.a.post("/api/v1/apply", &wanted).await.0, 200);
    let at_a = ScriptedMid::working(&pair.a, "mid-a").await;
    let at_b = ScriptedMid::working(&pair.b, "mid-b").await;
    for (there, mid) in [(&pair.b, "mid-a"), (&pair.a, "mid-b")] {
        hears_of(there, mid).await;
    }
    (pair, at_a, at_b)
}

/// What each of the two is given within a second.
async fn both(pair: &Pair, at_a: &mut ScriptedMid, at_b: &mut ScriptedMid) -> (Vec<String>, Vec<String>) {
    let ids = |leases: Vec<midward_wire::LeaseGrant>| leases.into_iter().map(|lease| lease.request_id).collect();
    let (from_a, from_b) = tokio::join!(at_a.poll(&pair.a, 1000, true), at_b.poll(&pair.b, 1000, true));
    (ids(from_a), ids(from_b))
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_a_connections_concurrency() {
    let (pair, mut at_a, mut at_b) = limited(&json!({"max_concurrent": 2})).await;
    for number in 0..6 {
        submit(if number % 2 == 0 { &pair.a } else { &pair.b }, "POST").await;
    }
    let held: Vec<String> = at_a.hold(&pair.a, 2).await.into_iter().map(|lease| lease.request_id).collect();
    assert!(at_b.poll(&pair.b, 1500, true).await.is_empty(), "four wait, and none is given out elsewhere");
    // One ends at the first replica, and the other one gives the next.
    assert_eq!(at_a.report(&pair.a, &held[0], 1, "x").await, "accepted");
    let next = at_b.poll(&pair.b, 10_000, true).await;
    assert_eq!(next.len(), 1, "{next:?}");
    assert_eq!(both(&pair, &mut at_a, &mut at_b).await, (Vec::new(), Vec::new()), "one is held at each");
    assert_eq!(at_a.report(&pair.a, &held[1], 1, "x").await, "accepted");
    assert_eq!(at_b.report(&pair.b, &next[0].request_id, 1, "x").await, "accepted");
    // Three wait, and both replicas give them out at once.
    let mut given = (Vec::new(), Vec::new());
    let look = async || {
        let (from_a, from_b) = both(&pair, &mut at_a, &mut at_b).await;
        given.0.extend(from_a);
        given.1.extend(from_b);
        given.0.len() + given.1.len()
    };
    eventually("two of them", look, |count| *count >= 2).await;
    assert_eq!(given.0.len() + given.1.len(), 2, "{given:?}");
    assert_eq!(both(&pair, &mut at_a, &mut at_b).await, (Vec::new(), Vec::new()));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_a_connections_rate() {
    // One at a time, and the next a minute later.
    let (pair, mut at_a, mut at_b) = limited(&json!({"max_per_minute": 1})).await;
    for at in [&pair.a, &pair.b, &pair.a, &pair.b] {
        submit(at, "POST").await;
    }
    let look = async || both(&pair, &mut at_a, &mut at_b).await;
    let given = eventually("one of them", look, |given| !(given.0.is_empty() && given.1.is_empty())).await;
    assert_eq!(given.0.len() + given.1.len(), 1, "{given:?}");
    // That it ended makes no room.
    let (mid, at, id) = if given.1.is_empty() { (&at_a, &pair.a, &given.0[0]) } else { (&at_b, &pair.b, &given.1[0]) };
    assert_eq!(mid.report(at, id, 1, "x").await, "accepted");
    assert_eq!(both(&pair, &mut at_a, &mut at_b).await, (Vec::new(), Vec::new()));
    pair.stop().await;
}
