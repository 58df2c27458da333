//! Instances and MIDs that are a release apart: the schema, and the messages.

use http::Method;
use midward_fakes::postgres::Postgres;
use midward_wire::paths;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;

use crate::scenarios::support::{Instance, Place, ScriptedMid, document};
use crate::scenarios::{submit, with_document};

/// What the migrations of the next release could be: they add, and count the level up.
const NEXT_RELEASE: [&str; 6] = [
    "ALTER TABLE requests ADD COLUMN added_later INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE mids ADD COLUMN added_later TEXT",
    "ALTER TABLE connections ADD COLUMN added_later TEXT",
    "CREATE TABLE added_later (id INTEGER PRIMARY KEY)",
    "CREATE INDEX added_later_requests ON requests (added_later) WHERE added_later = 1",
    "UPDATE schema_level SET level = level + 1 WHERE id = 1",
];
/// Of a release whose schema older programs must not use. Who starts counts as a change.
const INCOMPATIBLE: [&str; 2] =
    ["UPDATE schema_level SET runs_from = level WHERE id = 1", "UPDATE changes SET number = number + 1 WHERE id = 1"];

fn recorded(is_postgres: bool) -> String {
    let (done, sum) = if is_postgres { ("TRUE", "'\\x00'") } else { ("1", "x'00'") };
    format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9001, 'added later', {done}, {sum}, 1)"
    )
}

fn on_postgres(server: &Postgres, database: &str, statements: &[&str]) {
    server.sql(database, &statements.join(";")).expect("migrated");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_run_on_a_schema_one_level_ahead_and_stop_at_one_that_is_not_for_them() {
    let server = Postgres::start_without_fsync().expect("a server");
    let database = server.new_database().expect("a database");
    let mut place = Place::postgres(&database);
    place.public_url = Some("http://midward.test".to_owned());
    let a = Instance::start(&place, None).await;
    assert_eq!(a.post("/api/v1/apply", &document()).await.0, 200);
    let mut mid = ScriptedMid::working(&a, "mid-a").await;
    // Statements are prepared, and a request is under way, when the newer release migrates.
    let before = submit(&a, "POST").await;
    let held = mid.poll(&a, 5000, true).await;
    assert_eq!(held.len(), 1);
    on_postgres(&server, &database, &[&NEXT_RELEASE[..], &[&recorded(true)]].concat());
    assert_eq!(mid.report(&a, &before, 1, "x").await, "accepted");
    // A replica of this release starts on it, and the MID goes back and forth.
    let beside = place.beside();
    let b = Instance::start(&beside, Some(a.key.clone())).await;
    for round in 0..6 {
        let (here, there) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        let id = submit(there, if round < 3 { "POST" } else { "GET" }).await;
        let leases = mid.poll(here, 10_000, true).await;
        assert_eq!(leases.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&id]);
        assert_eq!(mid.heartbeat(there, "ready").await.0, 200);
        assert_eq!(mid.report(there, &id, 1, "x").await, "accepted");
        assert_eq!(here.get(&format!("/api/v1/requests/{id}")).await.1["state"], "replied");
    }
    let mut changed = document();
    changed["connections"][0]["timeout_ms"] = json!(7);
    assert_eq!(b.post("/api/v1/apply", &changed).await.1["changes"].as_array().map(Vec::len), Some(1));
    // A release that is not compatible takes over: those that run stop, and say why; none starts any more.
    on_postgres(&server, &database, &INCOMPATIBLE);
    for instance in [a, b] {
        let why = instance.ends_by_itself().await;
        assert!(why.contains("programs of level 2 or newer") && why.contains("update it"), "{why}");
    }
    let why = Instance::try_start(&beside).await.err().expect("refused");
    assert!(why.contains("programs of level 2 or newer"), "{why}");
    // Two levels ahead is too far, whatever it says of itself.
    on_postgres(&server, &database, &["UPDATE schema_level SET level = level + 1, runs_from = 1"]);
    let why = Instance::try_start(&beside).await.err().expect("refused");
    assert!(why.contains("of level 3"), "{why}");
}

#[tokio::test]
async fn on_sqlite_the_level_counts_at_the_start() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let (key, id) = (instance.key.clone(), submit(&instance, "POST").await);
    instance.stop().await;
    let run = async |statements: &[&str]| {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(place.path().join("midward.db"));
        let mut connection = options.connect().await.expect("a database");
        for statement in statements {
            let statement = sqlx::AssertSqlSafe((*statement).to_owned());
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("migrated");
        }
    };
    run(&[&NEXT_RELEASE[..], &[&recorded(false)]].concat()).await;
    let instance = Instance::start(&place, Some(key)).await;
    assert_eq!(instance.get(&format!("/api/v1/requests/{id}")).await.1["state"], "queued");
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(mid.report(&instance, &id, 1, "x").await, "accepted");
    instance.stop().await;
    run(&INCOMPATIBLE).await;
    let why = Instance::try_start(&place).await.err().expect("refused");
    assert!(why.contains("programs of level 2 or newer"), "{why}");
}

#[tokio::test]
async fn a_newer_mids_messages_are_understood() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "POST").await;
    let golden = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/golden/newer");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect("a golden file");
        let mut message: Value = serde_json::from_str(&text).expect("JSON");
        assert!(message.get("added_later").is_some());
        message["incarnation"] = json!(mid.incarnation);
        message
    };
    let post = async |path: &str, message: &Value| instance.api_as(&mid.token, Method::POST, path, message).await;
    let mut beat = golden("heartbeat");
    beat["resolvers"][0]["health"] = json!("ready");
    let (status, answer) = post(paths::HEARTBEAT, &beat).await;
    assert_eq!(status, 200, "{answer}");
    let mut poll = golden("lease-request");
    (poll["received_batch"], poll["wait_ms"]) = (json!(0), json!(5000));
    let (status, answer) = post(paths::LEASE, &poll).await;
    assert_eq!((status, answer["leases"][0]["request_id"].as_str()), (200, Some(id.as_str())), "{answer}");
    let mut release = golden("release-request");
    release["leases"] = json!([[id, 1]]);
    assert_eq!(post(paths::RELEASE, &release).await.0, 204);
    let (_, answer) = post(paths::LEASE, &poll).await;
    assert_eq!(answer["leases"][0]["epoch"], 2, "{answer}");
    let mut outcomes = golden("outcomes-request");
    for outcome in outcomes["outcomes"].as_array_mut().expect("outcomes") {
        (outcome["request_id"], outcome["epoch"]) = (json!(id), json!(2));
    }
    let (status, answer) = post(paths::OUTCOMES, &outcomes).await;
    assert_eq!((status, &answer["verdicts"]), (200, &json!(["accepted", "refused", "refused"])), "{answer}");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!((shown["status"].as_i64(), shown["body_base64"].as_str()), (Some(201), Some("bWFkZQ==")), "{shown}");
    instance.stop().await;
}
