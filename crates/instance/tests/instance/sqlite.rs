//! The instance on its embedded database.

use serde_json::json;
use sqlx::Connection as _;

use crate::scenarios::support::Place;
use crate::scenarios::{for_each_scenario, with_document};

macro_rules! each_on_sqlite {
    ($($scenario:ident,)*) => {
        $(#[tokio::test]
        async fn $scenario() {
            crate::scenarios::$scenario(Place::sqlite()).await;
        })*
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
async fn another_program_that_holds_the_database_only_delays() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let url = format!("sqlite://{}", place.path().join("midward.db").display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.expect("the same file");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("held");
    let request = json!({"connection": "crm", "method": "GET", "path": "/x"});
    let mut submitted = Box::pin(instance.post("/api/v1/requests", &request));
    // Longer than one attempt waits for the other.
    let early = tokio::time::timeout(std::time::Duration::from_millis(5500), &mut submitted).await;
    assert!(early.is_err(), "acknowledged without being stored: {early:?}");
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("let go");
    other.close().await.expect("closed");
    let (status, answer) = submitted.as_mut().await;
    drop(submitted);
    assert_eq!(status, 202, "{answer}");
    assert_eq!(instance.get("/api/v1/requests").await.1["items"].as_array().map(Vec::len), Some(1));
    instance.stop().await;
}
