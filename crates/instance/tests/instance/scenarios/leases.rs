//! Leases whose time is over: of a MID that lives, and after a time in which no instance ran.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AnyPool, AssertSqlSafe, Row as _};

use super::support::{Instance, Place, ScriptedMid, eventually, eventually_within};
use super::{submit, with_document};

/// A MID that holds a request which may be repeated and one which may not.
async fn with_two_leases(place: &Place) -> (Instance, ScriptedMid, String, String) {
    let instance = with_document(place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let (get, post) = (submit(&instance, "GET").await, submit(&instance, "POST").await);
    for lease in mid.hold(&instance, 2).await {
        let whole = 85_000..=96_000;
        assert!(whole.contains(&lease.lease_ms), "the API's time-out and a minute: {lease:?}");
    }
    (instance, mid, get, post)
}

async fn state(instance: &Instance, id: &str) -> Value {
    instance.get(&format!("/api/v1/requests/{id}")).await.1["state"].clone()
}

async fn execute(database: &AnyPool, statements: &[String]) {
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement.clone())).execute(database).await.expect("done");
    }
}

/// As if the leases had been given so many milliseconds earlier.
async fn age_leases(database: &AnyPool, millis: i64) {
    let sql = format!("UPDATE requests SET lease_expires_at = lease_expires_at - {millis} WHERE state = 1");
    execute(database, &[sql]).await;
}

/// When leases were looked at last, and since when without a pause.
async fn looked(database: &AnyPool) -> (i64, i64) {
    let row = sqlx::query("SELECT swept_at, alive_since FROM sweeps").fetch_one(database).await.expect("a row");
    (row.try_get(0).expect("a time"), row.try_get(1).expect("a time"))
}

/// Waits until leases were looked at, and once more, after `since`; tells since when without a pause.
async fn looked_twice_since(database: &AnyPool, since: i64) -> i64 {
    let look = async || looked(database).await;
    let (first, _) = eventually("leases are looked at", look, |(at, _)| *at > since).await;
    eventually("leases are looked at once more", look, |(at, _)| *at > first).await.1
}

/// What a MID is given next, which is heard of all the time.
async fn given(instance: &Instance, mid: &mut ScriptedMid) -> Vec<(String, i64)> {
    let look = async || {
        assert_eq!(mid.heartbeat(instance, "ready").await.0, 200);
        mid.poll(instance, 1000, true).await
    };
    // A machine that stands still for two seconds counts as a pause, with its grace.
    let bound = Duration::from_secs(90);
    let leases = eventually_within(bound, "it is given out again", look, |leases| !leases.is_empty()).await;
    leases.into_iter().map(|lease| (lease.request_id, lease.epoch)).collect()
}

pub(crate) async fn a_lease_whose_time_runs_out_ends_though_its_mid_lives(place: Place) {
    let (instance, mut mid, get, post) = with_two_leases(&place).await;
    let database = place.database().await;
    looked_twice_since(&database, looked(&database).await.0).await;
    assert_eq!((state(&instance, &get).await, state(&instance, &post).await), (json!("leased"), json!("leased")));
    age_leases(&database, 3_600_000).await;
    assert_eq!(given(&instance, &mut mid).await, [(get.clone(), 2)]);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{post}?wait_ms=20000")).await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["code"].as_str()), (Some("unknown"), Some("mid_lost")));
    assert_eq!(mid.report(&instance, &get, 1, "old").await, "refused", "it has it anew");
    assert_eq!(mid.report(&instance, &get, 2, "new").await, "accepted");
    assert_eq!(mid.report(&instance, &post, 1, "late").await, "accepted", "a late outcome replaces unknown");
    database.close().await;
    instance.stop().await;
}

pub(crate) async fn a_restart_gives_leases_one_period_of_grace(place: Place) {
    let (instance, mut mid, get, post) = with_two_leases(&place).await;
    let key = instance.key.clone();
    instance.stop().await;
    // It was down for an hour, in which all leases ended and nobody was heard of.
    let database = place.database().await;
    let hour = 3_600_000;
    age_leases(&database, hour).await;
    let clocks = [
        format!("UPDATE sweeps SET swept_at = swept_at - {hour}, alive_since = alive_since - {hour}"),
        format!("UPDATE mids SET last_seen_at = last_seen_at - {hour}"),
    ];
    let (stopped, _) = looked(&database).await;
    execute(&database, &clocks).await;
    let instance = Instance::start(&place, Some(key)).await;
    let alive_since = looked_twice_since(&database, stopped).await;
    assert!(alive_since > stopped, "a pause");
    assert_eq!((state(&instance, &get).await, state(&instance, &post).await), (json!("leased"), json!("leased")));
    let sql = "SELECT lease_expires_at - alive_since FROM requests, sweeps";
    let rows = sqlx::query(sql).fetch_all(&database).await.expect("rows");
    let grace: Vec<i64> = rows.iter().map(|row| row.try_get(0).expect("a time")).collect();
    assert_eq!(grace, [30_000; 2], "half a minute from when leases were looked at again");
    // What was done meanwhile can be reported.
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    assert_eq!(mid.report(&instance, &post, 1, "x").await, "accepted");
    assert_eq!(state(&instance, &post).await, "replied");
    age_leases(&database, 30_000).await;
    assert_eq!(given(&instance, &mut mid).await, [(get, 2)], "once");
    database.close().await;
    instance.stop().await;
}
