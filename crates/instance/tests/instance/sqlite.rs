//! The instance on its embedded database.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_instance::{StoreConfig, back_up};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::scenarios::support::{Instance, Place, ScriptedMid, eventually};
use crate::scenarios::{Canaries, for_each_scenario, later, with_document};

macro_rules! each_on_sqlite {
    ($($group:ident: { $($scenario:ident,)* })*) => {
        $($(#[tokio::test]
        async fn $scenario() {
            crate::scenarios::$scenario(Place::sqlite()).await;
        })*)*
    };
}

for_each_scenario!(each_on_sqlite);

#[tokio::test]
async fn the_database_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::sqlite();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let instance = with_document(&place).await;
    for entry in std::fs::read_dir(place.path()).expect("a folder").map(|entry| entry.expect("an entry")) {
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        let name = entry.file_name().into_string().expect("text");
        if !matches!(name.as_str(), "listen.json" | "ca.pem") {
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    instance.stop().await;
}

#[tokio::test]
async fn no_file_and_no_backup_holds_a_call_or_an_answer_in_the_clear() {
    for key in [None, Some(7)] {
        let mut place = Place::sqlite();
        key.map(|key| place.encrypt(key));
        let (instance, canaries) = Canaries::send(&mut place).await;
        let copy = tempfile::tempdir().expect("a folder");
        let store = StoreConfig { path: place.path().to_owned(), ..StoreConfig::default() };
        back_up(&store, &copy.path().join("copy")).await.expect("a backup");
        assert!(place.path().join("midward.db-wal").exists(), "written, and not yet in the database's file");
        let (running, backed_up) = (canaries.found_in(place.path()), canaries.found_in(copy.path()));
        instance.stop().await;
        let stopped = canaries.found_in(place.path());
        let expected = if key.is_none() { canaries.names() } else { Vec::new() };
        assert_eq!((&running, &backed_up, &stopped), (&expected, &expected, &expected), "{key:?}");
    }
}

#[tokio::test]
async fn an_instance_does_not_start_with_a_key_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut place = Place::sqlite();
    let file = place.encrypt(7);
    let refused = async |place: &Place| Instance::try_start(place).await.err().expect("it does not start");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    assert!(refused(&place).await.contains("can be read or changed by others"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&file, "hunter2").expect("written");
    let error = refused(&place).await;
    assert!(error.contains("does not hold 32 bytes") && !error.contains("hunter2"), "{error}");
    std::fs::remove_file(&file).expect("removed");
    assert!(refused(&place).await.contains("at-rest-7"));
    place.encryption.key_file = None;
    Instance::try_start(&place).await.expect("without a key").stop().await;
}

#[tokio::test]
async fn another_program_that_holds_the_database_only_delays() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let url = format!("sqlite://{}", place.path().join("midward.db").display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.expect("the same file");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("held");
    let request = json!({"connection": "crm", "method": "GET", "path": "/x"});
    let mut submitted = Box::pin(instance.post("/api/v1/requests", &request));
    // Longer than one attempt waits for the other.
    let early = tokio::time::timeout(Duration::from_millis(5500), &mut submitted).await;
    assert!(early.is_err(), "acknowledged without being stored: {early:?}");
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("let go");
    other.close().await.expect("closed");
    let (status, answer) = submitted.as_mut().await;
    drop(submitted);
    assert_eq!(status, 202, "{answer}");
    assert_eq!(instance.get("/api/v1/requests").await.1["items"].as_array().map(Vec::len), Some(1));
    instance.stop().await;
}

#[tokio::test]
async fn a_caller_does_not_wait_for_the_database_longer_than_it_said() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let url = format!("sqlite://{}", place.path().join("midward.db").display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.expect("the same file");
    // What the connection refers to is stored with its first request.
    assert_eq!(instance.post("/api/v1/requests", &later("a")).await.0, 202);
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("held");
    let call = instance.call(Method::POST, "crm/call/x").header("midward-wait-ms", "500");
    let answer = instance.send(call.body(Bytes::new()).expect("a request")).await;
    let problem: Value = serde_json::from_slice(answer.body()).expect("JSON");
    assert_eq!((answer.status().as_u16(), &problem["code"]), (503, &json!("acceptance_unknown")), "{problem}");
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("let go");
    other.close().await.expect("closed");
    // The writer had it, and nobody waits any more: it is never sent.
    let path = format!("/api/v1/requests/{}", problem["request_id"].as_str().expect("an id"));
    let look = async || instance.get(&path).await.1;
    let shown = eventually("it has ended", look, |shown| !shown["finished_at"].is_null()).await;
    assert_eq!((&shown["state"], &shown["failure"]["code"]), (&json!("failed"), &json!("expired")), "{shown}");
    assert!(mid.poll(&instance, 0, true).await.is_empty());
    instance.stop().await;
}
