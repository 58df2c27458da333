//! The API against its own OpenAPI document: `schemathesis` (PyPI, which `scripts/setup.sh schemathesis` puts below
//! `build/tools`) sends what the document allows and what it forbids, and checks every answer against it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use http::Method;
use midward_fakes::postgres::Postgres;
use serde_json::Value;

use crate::scenarios::support::Place;
use crate::scenarios::{submit, with_document};

/// How long it may try, in seconds. What it tries is the same in every run; how much of it depends on the machine.
const TIME: &str = "20";

fn configuration(key: &str) -> String {
    // `positive_data_acceptance` is off: that a URL or reference is good cannot be said in a schema. A wait would only
    // take time.
    format!(
        r#"
        headers = {{ Authorization = "Bearer {key}" }}
        request-timeout = 20
        [checks.positive_data_acceptance]
        enabled = false
        [[operations]]
        include-operation-id = "getRequest"
        parameters = {{ wait_ms = 0 }}
        "#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    every_answer_on(Place::sqlite()).await;
}

/// PostgreSQL takes less than SQLite does: no NUL in a text, no number beyond its column.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says_on_postgres() {
    let server = Postgres::start().expect("a server");
    every_answer_on(Place::postgres(&server.new_database().expect("a database"))).await;
}

/// Without a key, so nothing is changed: a method that a path has is asked for one, or, where it needs none, answered.
#[tokio::test]
async fn a_path_has_the_methods_that_the_document_says() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let document = instance.get("/api/v1/openapi.json").await.1;
    let mut asked = 0;
    for (path, described) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{action}", "pause").replace("{name}", "x").replace("{id}", "x");
        assert!(!path.contains('{'), "{path}");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let (status, _) = instance.api_as("none", method.clone(), &path, &Value::Null).await;
            let operation = described.get(method.as_str().to_lowercase());
            let is_open = operation.is_some_and(|operation| operation["security"] == Value::Array(Vec::new()));
            match operation {
                None => assert_eq!(status, 405, "{method} {path}"),
                Some(_) if is_open => assert!(matches!(status, 200 | 400), "{method} {path}: {status}"),
                Some(_) => assert_eq!(status, 401, "{method} {path}"),
            }
            asked += 1;
        }
    }
    assert!(asked > 100, "{asked}");
    instance.stop().await;
}

async fn every_answer_on(place: Place) {
    let instance = with_document(&place).await;
    submit(&instance, "GET").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("schemathesis.toml");
    std::fs::write(&file, "").expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&file, configuration(&instance.key)).expect("written");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/tools/schemathesis/bin/st");
    let run = tokio::process::Command::new(program)
        .arg("--config-file")
        .arg(&file)
        .arg("run")
        .arg(format!("{}/api/v1/openapi.json", instance.started.public_url))
        .args([
            "--max-time",
            TIME,
            "--generation-deterministic", // Two threads of its own disturb each other on CPython 3.11 (a SystemError while it makes its cases).
            "--workers",
            "1",
            "--no-color",
        ])
        .args(["--max-examples", "10", "--no-shrink", "--continue-on-failure"])
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path())
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("schemathesis: run scripts/setup.sh schemathesis");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let number =
        |label: &str| said.split_once(label)?.1.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    assert!(number("Selected:").is_some() && number("Selected:") == number("Tested:"), "{said}");
    // The instance is still well.
    assert_eq!(instance.api_as(&instance.key, Method::GET, "/readyz", &Value::Null).await.0, 200);
    instance.stop().await;
}
