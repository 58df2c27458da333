//! What waits and cannot be served is in nobody's way, and all others have their turn.

use serde_json::{Value, json};

use super::audit_lines;
use super::support::{Instance, Place, ScriptedMid, document, eventually};

/// An instance with the document's connection and others like it.
async fn with_connections(place: &Place, others: impl Iterator<Item = Value>) -> Instance {
    let instance = Instance::start(place, None).await;
    let mut wanted = document();
    let connections = wanted["connections"].as_array_mut().expect("a list");
    let like = connections[0].clone();
    connections.extend(others.map(|fields| {
        let mut connection = like.clone();
        for (name, value) in fields.as_object().expect("fields") {
            connection[name] = value.clone();
        }
        connection
    }));
    let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
    assert_eq!(status, 200, "{answer}");
    instance
}

async fn submit(instance: &Instance, connection: &str, fields: Value) -> String {
    let mut request = json!({"connection": connection, "method": "POST", "path": "/x"});
    for (name, value) in fields.as_object().expect("fields") {
        request[name] = value.clone();
    }
    let (status, answer) = instance.post("/api/v1/requests", &request).await;
    assert_eq!(status, 202, "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

/// Puts copies of a queued request into the database.
async fn copy(place: &Place, id: &str, copies: u32) {
    let database = place.database().await;
    let same = "connection, config_digest, resolver, mids, state, repeatable, epoch, lease_ms, expires_at, created_at, \
                client_id, fingerprint, method, path, call_json, priority, origin, ordered, limited, not_before, \
                delayed_until, size";
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies}) \
         INSERT INTO requests (id, {same}) SELECT id || '-' || CAST(n AS TEXT), {same} FROM requests, numbers \
         WHERE id = $1"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&database).await.expect("copied");
    assert_eq!(done.rows_affected(), u64::from(copies));
    database.close().await;
}

fn ids(leases: &[midward_wire::LeaseGrant]) -> Vec<&str> {
    leases.iter().map(|lease| lease.request_id.as_str()).collect()
}

pub(crate) async fn what_nobody_can_take_is_in_nobodys_way(place: Place) {
    let far = json!({"alias": "far", "mid": "mid-down"});
    let slow = json!({"alias": "slow", "max_concurrent": 1});
    let instance = with_connections(&place, [far, slow].into_iter()).await;
    let mut down = ScriptedMid::enroll(&instance, "mid-down", true).await;
    let later = midward_core::Clock::wall(&midward_core::SystemClock).unix_millis() + 3_600_000;
    let interactive = submit(&instance, "far", json!({"priority": "interactive"})).await;
    copy(&place, &interactive, 3000).await;
    let delayed = submit(&instance, "crm", json!({"priority": "interactive", "not_before": later})).await;
    copy(&place, &delayed, 3000).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let held = submit(&instance, "slow", json!({"priority": "interactive"})).await;
    assert_eq!(ids(&mid.poll(&instance, 10_000, true).await), [held.as_str()]);
    let holds = submit(&instance, "slow", json!({"priority": "interactive"})).await;
    copy(&place, &holds, 3000).await;
    // Queued before the MID asks.
    let first = submit(&instance, "crm", json!({})).await;
    assert_eq!(ids(&mid.poll(&instance, 10_000, true).await), [first.as_str()]);
    // Queued while it waits: at once with its lease, which is its first.
    let mut waiting = mid.clone_for_poll();
    let poll = async { waiting.poll(&instance, 10_000, true).await };
    let (leases, second) = tokio::join!(poll, async {
        let parked = tokio::time::timeout(std::time::Duration::from_millis(700), std::future::pending::<()>()).await;
        assert!(parked.is_err());
        submit(&instance, "crm", json!({})).await
    });
    assert_eq!(ids(&leases), [second.as_str()]);
    mid.received = waiting.received;
    // What limits hold back goes on when something ends.
    assert_eq!(mid.report(&instance, &held, 1, "x").await, "accepted");
    assert_eq!(mid.poll(&instance, 10_000, true).await.len(), 1);
    // And the MID that was down gets what is its own.
    down.sign_in(&instance, "jti-1").await;
    down.heartbeat(&instance, "ready").await;
    assert_eq!(down.poll_for(&instance, 8, 10_000, true).await.len(), 8);
    assert!(mid.poll(&instance, 100, true).await.is_empty(), "not of another's");
    instance.stop().await;
}

pub(crate) async fn a_degraded_resolver_serves_what_nobody_else_may_that_has_it_ready(place: Place) {
    let pinned = json!({"alias": "pinned", "mid": "mid-b"});
    let instance = with_connections(&place, [pinned].into_iter()).await;
    let cluster = json!({"mids": ["mid-b"]});
    let served_by = json!({"base_url": "https://api.test/v1", "credential": "crm-cred", "cluster": "far"});
    for (path, record) in [("/api/v1/clusters/far", cluster), ("/api/v1/connections/clustered", served_by)] {
        let (status, answer) = instance.api_as(&instance.key, http::Method::PUT, path, &record).await;
        assert_eq!(status, 200, "{answer}");
    }
    let mut ready = ScriptedMid::working(&instance, "mid-a").await;
    let mut degraded = ScriptedMid::working(&instance, "mid-b").await;
    assert_eq!(degraded.heartbeat(&instance, "degraded").await.0, 200);
    // Queued while nobody polls.
    let either = submit(&instance, "crm", json!({})).await;
    let mut own = Vec::new();
    for connection in ["pinned", "clustered"] {
        own.push(submit(&instance, connection, json!({})).await);
    }
    own.sort();
    let held = degraded.hold(&instance, 2).await;
    let mut got = ids(&held);
    got.sort_unstable();
    assert_eq!(got, own);
    assert!(degraded.poll(&instance, 700, true).await.is_empty(), "the other one has it ready");
    assert_eq!(ids(&ready.poll(&instance, 10_000, true).await), [either.as_str()]);
    // Better degraded than not at all.
    assert_eq!(ready.heartbeat(&instance, "unusable").await.0, 200);
    let next = submit(&instance, "crm", json!({})).await;
    assert_eq!(ids(&degraded.poll(&instance, 10_000, true).await), [next.as_str()]);
    instance.stop().await;
}

pub(crate) async fn what_expires_at_once_ends_in_several_transactions(place: Place) {
    const MOST: usize = 2000;
    let instance = with_connections(&place, std::iter::empty()).await;
    let id = submit(&instance, "crm", json!({})).await;
    copy(&place, &id, 4999).await;
    let database = place.database().await;
    sqlx::query("UPDATE requests SET expires_at = 1").execute(&database).await.expect("over");
    let look = async || {
        let rows = sqlx::query("SELECT id FROM requests WHERE state = 0").fetch_all(&database).await;
        rows.expect("rows").len()
    };
    eventually("all have ended", look, |left| *left == 0).await;
    database.close().await;
    // A block is what one transaction did.
    let ended = audit_lines(&instance).await.into_iter().filter_map(|line| match line {
        midward_instance::AuditLine::Block { entries, .. } => Some(entries.matches("\"ended\"").count()),
        _ => None,
    });
    let ended: Vec<usize> = ended.filter(|count| *count > 0).collect();
    assert_eq!(ended.iter().sum::<usize>(), 5000);
    assert!(ended.iter().all(|count| *count <= MOST), "{ended:?}");
    instance.stop().await;
}

pub(crate) async fn each_of_many_connections_with_limits_has_its_turn(place: Place) {
    const MANY: usize = 110;
    let alias = |number: usize| format!("c{number:03}");
    let others = (0..MANY).map(|number| json!({"alias": alias(number), "max_concurrent": 1}));
    let instance = with_connections(&place, others).await;
    for _ in 0..2 {
        for number in 0..MANY {
            submit(&instance, &alias(number), json!({})).await;
        }
    }
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let mut held: Vec<(String, i64)> = Vec::new();
    while held.len() < MANY {
        let leases = mid.poll_for(&instance, 40, 10_000, true).await;
        assert!(!leases.is_empty(), "only {} have had a turn", held.len());
        held.extend(leases.into_iter().map(|lease| (lease.request_id, lease.epoch)));
    }
    let mut turns = std::collections::HashSet::new();
    for (id, _) in &held {
        let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
        turns.insert(shown["connection"].as_str().expect("a name").to_owned());
    }
    assert_eq!(turns.len(), MANY, "each of them once");
    assert!(mid.poll_for(&instance, 40, 700, true).await.is_empty(), "all have what they may");
    // One of them is free again, and only that one.
    let (id, epoch) = held.pop().expect("the last one");
    let (_, ended) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!(mid.report(&instance, &id, epoch, "x").await, "accepted");
    let leases = mid.poll_for(&instance, 40, 10_000, true).await;
    assert_eq!(leases.len(), 1);
    let (_, next) = instance.get(&format!("/api/v1/requests/{}", leases[0].request_id)).await;
    assert_eq!(next["connection"], ended["connection"]);
    instance.stop().await;
}

pub(crate) async fn interactive_requests_go_first_and_then_the_connections_in_turn(place: Place) {
    let limited = |alias: &str| json!({"alias": alias, "max_concurrent": 50});
    let plain = |alias: &str| json!({"alias": alias});
    let others = [limited("a-limited"), plain("z-plain"), limited("z-limited")];
    let instance = with_connections(&place, others.into_iter()).await;
    let mut standard: std::collections::HashMap<&str, Vec<String>> = std::collections::HashMap::new();
    for connection in ["a-limited", "crm"] {
        for _ in 0..12 {
            standard.entry(connection).or_default().push(submit(&instance, connection, json!({})).await);
        }
    }
    let late = submit(&instance, "z-plain", json!({})).await;
    let mut interactive = Vec::new();
    for connection in ["z-limited", "z-plain", "a-limited"] {
        interactive.push(submit(&instance, connection, json!({"priority": "interactive"})).await);
    }
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let leases = mid.poll_for(&instance, 3, 10_000, true).await;
    interactive.sort();
    assert_eq!(ids(&leases), interactive, "whatever the connection");
    let leases = mid.poll_for(&instance, 9, 10_000, true).await;
    let got = ids(&leases);
    assert_eq!(got.len(), 9);
    assert!(got.contains(&late.as_str()), "it need not wait for what came before of others: {got:?}");
    for (connection, own) in &standard {
        let (given, left): (Vec<_>, Vec<_>) = own.iter().partition(|id| got.contains(&id.as_str()));
        assert!(given.len() >= 3, "{connection} has its share: {got:?}");
        // An identifier begins with its millisecond, and of one millisecond any may be first.
        let millis = |ids: Vec<&String>| ids.into_iter().map(|id| id[..12].to_owned()).collect::<Vec<_>>();
        assert!(millis(given).last() <= millis(left).first(), "the oldest first: {own:?}, {got:?}");
    }
    instance.stop().await;
}
