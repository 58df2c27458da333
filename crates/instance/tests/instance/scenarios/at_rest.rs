//! What is stored of calls and answers: encrypted, in pieces, as metadata only, up to a size.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use midward_core::{Random as _, SystemRandom};
use midward_fakes::secret_scan::{encodings, find};
use serde_json::{Value, json};
use sqlx::Row as _;

use super::support::{Instance, Place, ScriptedMid, document, eventually};
use super::{submit, with_document};

async fn shown(instance: &Instance, id: &str) -> Value {
    instance.get(&format!("/api/v1/requests/{id}")).await.1
}

async fn queue(instance: &Instance, request: &Value) -> String {
    let (status, answer) = instance.post("/api/v1/requests", request).await;
    assert!(matches!(status, 200 | 202), "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

/// What is in no file of an encrypted database, by its name.
pub(crate) struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// Sends all of them, and sees that what is stored can be read through the API.
    pub(crate) async fn send(place: &mut Place) -> (Instance, Self) {
        place.body_bytes = 1024 * 1024;
        let instance = Instance::start(place, None).await;
        let mut wanted = document();
        wanted["connections"][0]["retry"] =
            json!({"statuses": [503], "attempts": 2, "backoff_ms": 1, "backoff_max_ms": 1});
        assert_eq!(instance.post("/api/v1/apply", &wanted).await.0, 200);
        let mut mid = ScriptedMid::working(&instance, "mid-a").await;
        let mut noise = vec![0; 300_000];
        SystemRandom.fill(&mut noise);
        let mut names = Vec::new();
        let mut canary = |name: &'static str| {
            let mut digits = [0; 24];
            SystemRandom.fill(&mut digits);
            let text = STANDARD.encode(digits).replace(['+', '/'], "x");
            names.push((name, text.clone()));
            text
        };
        let (query, header, small, answer) = (canary("query"), canary("header"), canary("body"), canary("answer"));
        let again = canary("answer of the first attempt");
        let (large, large_answer) = (canary("large body"), canary("large answer"));

        let request = json!({"connection": "crm", "method": "POST", "path": format!("/x?q={query}"),
                             "headers": [["X-Tenant", header]], "body": small, "idempotency_key": "k"});
        let id = queue(&instance, &request).await;
        let leases = mid.poll(&instance, 5000, true).await;
        assert_eq!(
            (leases[0].call.path.as_str(), leases[0].call.body.0.as_slice()),
            (request["path"].as_str().expect("text"), small.as_bytes())
        );
        assert_eq!(mid.report_status(&instance, &id, 1, (503, &again)).await, "accepted");
        let leases = mid.poll(&instance, 10_000, true).await;
        assert_eq!(leases[0].call.headers, [("X-Tenant".to_owned(), header)]);
        for _ in 0..2 {
            assert_eq!(mid.report(&instance, &id, 2, &answer).await, "accepted", "and the same outcome again");
        }
        assert_eq!(mid.report(&instance, &id, 2, "x").await, "refused", "another outcome stands");
        let stored = shown(&instance, &id).await;
        assert_eq!((&stored["path"], &stored["body_base64"]), (&request["path"], &json!(STANDARD.encode(&answer))));
        assert_eq!(queue(&instance, &request).await, id, "the same request under the same key");

        // At the end, so that it is in the second piece; what is before it does not compress.
        let noisy = |end: &str| [STANDARD.encode(&noise).as_bytes(), end.as_bytes()].concat();
        let call = instance.call(Method::POST, "crm/call/x").body(Bytes::from(noisy(&large))).expect("a request");
        let (response, ()) = tokio::join!(instance.send(call), async {
            let leases = mid.poll(&instance, 5000, true).await;
            assert_eq!(leases[0].call.body.0, noisy(&large));
            let text = String::from_utf8(noisy(&large_answer)).expect("base64");
            assert_eq!(mid.report(&instance, &leases[0].request_id, 1, &text).await, "accepted");
        });
        assert_eq!(response.body(), &noisy(&large_answer));
        let id = response.headers()["midward-request-id"].to_str().expect("text");
        assert_eq!(shown(&instance, id).await["body_base64"], json!(STANDARD.encode(noisy(&large_answer))));
        (instance, Self(names))
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }

    /// Those that are in a file of a folder.
    pub(crate) fn found_in(&self, folder: &Path) -> Vec<&'static str> {
        let mut files = Vec::new();
        collect(folder, &mut files);
        assert!(!files.is_empty(), "{}", folder.display());
        // Bodies are stored as base64 of JSON.
        let is_there = |canary: &str| {
            let forms = encodings(canary.as_bytes());
            let forms: Vec<_> =
                forms.iter().filter(|(name, _)| *name == "raw" || name.starts_with("base64 ")).collect();
            assert_eq!(forms.len(), 4);
            files.iter().any(|file| forms.iter().any(|(_, form)| find(file, form).is_some()))
        };
        self.0.iter().filter(|(_, canary)| is_there(canary)).map(|(name, _)| *name).collect()
    }
}

fn collect(folder: &Path, files: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if let Ok(content) = std::fs::read(&path) {
            // A running server removes files of its own meanwhile.
            files.push(content);
        }
    }
}

pub(crate) async fn keys_rotate_and_what_a_lost_one_wrote_is_told(mut place: Place) {
    let with_key = json!({"connection": "crm", "method": "POST", "path": "/x", "body": "b", "idempotency_key": "k"});
    let instance = with_document(&place).await;
    let key = instance.key.clone();
    let plain = queue(&instance, &with_key).await;
    instance.stop().await;

    place.encrypt(1);
    let instance = Instance::start(&place, Some(key.clone())).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(leases[0].call.body.0, b"b", "written before there was a key");
    assert_eq!(queue(&instance, &with_key).await, plain);
    assert_eq!(mid.report(&instance, &plain, 1, "one").await, "accepted");
    let request = json!({"connection": "crm", "method": "POST", "path": "/y", "idempotency_key": "l"});
    // The MID does not ask, so it stays in the queue.
    let waits = queue(&instance, &request).await;
    instance.stop().await;

    let configured = place.encryption.clone();
    place.encryption = midward_instance::EncryptionConfig::default();
    let error = Instance::try_start(&place).await.err().expect("its key is missing");
    assert!(error.contains("encrypted with the key"), "{error}");
    place.encryption = configured;
    place.encrypt(2);
    let instance = Instance::start(&place, Some(key.clone())).await;
    assert_eq!(queue(&instance, &request).await, waits, "its fingerprint is the older key's");
    assert_eq!(shown(&instance, &plain).await["body_base64"], json!(STANDARD.encode("one")));
    assert_eq!(shown(&instance, &waits).await["path"], "/y");
    let (_, tells) = instance.get("/api/v1/at-rest").await;
    assert_eq!((&tells["encrypted"], tells["older_keys"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{tells}");
    assert_eq!(tells["missing_keys"], json!([]));
    let lost = tells["older_keys"][0].as_str().expect("a name").to_owned();
    instance.stop().await;

    place.encryption.older_key_files.clear();
    assert!(Instance::try_start(&place).await.err().expect("the older key is missing").contains(&lost));
    place.encryption.lost_keys = vec![lost.clone()];
    let instance = Instance::start(&place, Some(key)).await;
    let mut mid = ScriptedMid::working(&instance, "mid-b").await;
    let old = shown(&instance, &plain).await;
    assert_eq!(
        (&old["state"], &old["body_unavailable"]["code"]),
        (&json!("replied"), &json!("encryption_key_unknown"))
    );
    assert!(old["body_unavailable"]["detail"].as_str().is_some_and(|detail| detail.contains(&lost)), "{old}");
    let new = submit(&instance, "POST").await;
    let given = mid.hold(&instance, 1).await;
    assert_eq!(given.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&new], "nothing else is sent");
    let (_, ended) = instance.get(&format!("/api/v1/requests/{waits}?wait_ms=5000")).await;
    assert_eq!((&ended["state"], &ended["failure"]["code"]), (&json!("failed"), &json!("encryption_key_unknown")));
    assert_eq!(ended["path"], Value::Null);
    // What is moved to another row is refused.
    assert_eq!(mid.report(&instance, &new, 1, "two").await, "accepted");
    let database = place.database().await;
    let moved = "UPDATE requests SET outcome = (SELECT outcome FROM requests WHERE id = $1) WHERE id = $2";
    sqlx::query(moved).bind(&new).bind(&plain).execute(&database).await.expect("moved");
    assert_eq!(shown(&instance, &new).await["body_base64"], json!(STANDARD.encode("two")));
    assert_eq!(shown(&instance, &plain).await["body_unavailable"]["code"], "stored_data_damaged");
    instance.stop().await;
}

pub(crate) async fn a_connection_keeps_metadata_only(mut place: Place) {
    place.body_bytes = 1024 * 1024;
    let instance = Instance::start(&place, None).await;
    let mut wanted = document();
    wanted["connections"][0]["keep"] = json!("metadata");
    wanted["connections"][0]["retry"] = json!({"statuses": [503], "attempts": 2, "backoff_ms": 1, "backoff_max_ms": 1});
    assert_eq!(instance.post("/api/v1/apply", &wanted).await.0, 200);
    assert_eq!(instance.get("/api/v1/connections/crm").await.1["keep"], "metadata");
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let database = place.database().await;
    // Call and outcome as they are stored, and how many pieces.
    let stored = async |id: &str| {
        let sql = "SELECT call_json, COALESCE(outcome, ''), COALESCE(last_outcome, ''), (SELECT COUNT(*) \
                   FROM request_pieces WHERE request_id = id) FROM requests WHERE id = $1";
        let row = sqlx::query(sql).bind(id).fetch_one(&database).await.expect("a row");
        let text = |at: usize| row.get::<String, _>(at);
        (text(0), text(1) + &text(2), row.get::<i64, _>(3))
    };
    let body = "b".repeat(300_000);
    let request = json!({"connection": "crm", "method": "POST", "path": "/x?secret=1", "body": body});
    let id = queue(&instance, &request).await;
    assert_eq!(stored(&id).await.2, 2, "there while it is needed");
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!((leases[0].call.path.as_str(), leases[0].call.body.0.len()), ("/x?secret=1", body.len()));
    let large = "answer ".repeat(50_000);
    for _ in 0..2 {
        assert_eq!(mid.report(&instance, &id, 1, &large).await, "accepted", "and the same outcome again");
    }
    assert_eq!(mid.report_status(&instance, &id, 1, (404, "x")).await, "refused");
    let (call, outcome, pieces) = stored(&id).await;
    assert_eq!((call.as_str(), pieces), ("", 0));
    assert!(outcome.contains("201") && outcome.len() < 100, "{outcome}");
    let told = shown(&instance, &id).await;
    assert_eq!((&told["state"], &told["status"], &told["path"]), (&json!("replied"), &json!(201), &json!("/x")));
    assert_eq!((&told["body_unavailable"]["code"], &told["body_base64"]), (&json!("body_not_kept"), &Value::Null));
    assert_eq!(told["trace"][0]["what"], "POST answered 201");

    // Who waits has the answer; nobody afterwards.
    let call = instance.call(Method::POST, "crm/call/y").body(Bytes::from("z")).expect("a request");
    let (answer, ()) = tokio::join!(instance.send(call), async {
        let leases = mid.poll(&instance, 5000, true).await;
        assert_eq!(mid.report(&instance, &leases[0].request_id, 1, &large).await, "accepted");
    });
    assert_eq!((answer.status().as_u16(), answer.body().len()), (201, large.len()));
    let id = answer.headers()["midward-request-id"].to_str().expect("text");
    assert_eq!(stored(id).await.2, 0);
    assert_eq!(shown(&instance, id).await["body_unavailable"]["code"], "body_not_kept");

    // It is tried again while it lasts, and cannot be driven again afterwards.
    let id = queue(&instance, &request).await;
    for epoch in [1, 2] {
        let leases = mid.poll(&instance, 10_000, true).await;
        assert_eq!(leases.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&id, epoch)]);
        assert_eq!(leases[0].call.body.0.len(), body.len());
        assert_eq!(mid.report_status(&instance, &id, epoch, (503, &large)).await, "accepted");
    }
    assert!(stored(&id).await.1.len() < 200);
    assert_eq!(shown(&instance, &id).await["dead"], json!(true));
    let (status, refused) = instance.post(&format!("/api/v1/dead-letters/{id}/redrive"), &Value::Null).await;
    assert_eq!((status, &refused["code"]), (409, &json!("body_not_kept")), "{refused}");

    // Cancelled: never sent, and gone too.
    let id = queue(&instance, &request).await;
    assert_eq!(instance.post(&format!("/api/v1/requests/{id}/cancel"), &Value::Null).await.0, 200);
    let (call, outcome, pieces) = stored(&id).await;
    assert_eq!((call.as_str(), pieces), ("", 0));
    assert!(outcome.contains("cancelled"));
    instance.stop().await;
}

pub(crate) async fn a_large_body_is_in_pieces_and_answers_to_polls_have_a_bound(mut place: Place) {
    place.body_bytes = 4 * 1024 * 1024;
    place.encrypt(3);
    let instance = with_document(&place).await;
    let key = instance.key.clone();
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    // In base64 each is 4 MiB, and the bound is 16 MiB.
    let mut ids = Vec::new();
    for number in 0..6_u8 {
        let body = String::from_utf8(vec![b'a' + number; 3 * 1024 * 1024]).expect("text");
        ids.push(queue(&instance, &json!({"connection": "crm", "method": "POST", "path": "/x", "body": body})).await);
    }
    let database = place.database().await;
    let largest = async |sql: &str| {
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&database).await.expect("a row");
        (row.get::<i64, _>(0), row.get::<i64, _>(1))
    };
    let rows = "SELECT COUNT(*), CAST(MAX(LENGTH(call_json)) AS BIGINT) FROM requests";
    let pieces = "SELECT COUNT(*), CAST(MAX(LENGTH(content)) AS BIGINT) FROM request_pieces";
    let (count, longest) = largest(rows).await;
    assert!(count == 6 && longest < 100, "{count} {longest}");
    let (count, longest) = largest(pieces).await;
    assert!(count == 6 * 17 && longest < 257 * 1024, "{count} {longest}");

    let numbers =
        |leases: &[midward_wire::LeaseGrant]| leases.iter().map(|lease| lease.call.body.0[7]).collect::<Vec<_>>();
    let first = mid.poll(&instance, 5000, true).await;
    let second = mid.poll(&instance, 5000, true).await;
    assert_eq!((numbers(&first), numbers(&second)), (b"abcd".to_vec(), b"ef".to_vec()));
    assert!(first.iter().chain(&second).all(|lease| lease.call.body.0.len() == 3 * 1024 * 1024));
    // Both answers got lost: they come again, batch by batch.
    mid.received = 0;
    let again = mid.poll(&instance, 5000, true).await;
    let then = mid.poll(&instance, 5000, true).await;
    assert_eq!((numbers(&again), numbers(&then)), (b"abcd".to_vec(), b"ef".to_vec()));
    assert!(mid.poll(&instance, 50, true).await.is_empty());

    let answer = "y".repeat(2 * 1024 * 1024);
    for id in &ids {
        assert_eq!(mid.report(&instance, id, 1, &answer).await, "accepted");
    }
    assert_eq!(mid.report(&instance, &ids[0], 1, &answer).await, "accepted", "the same outcome again");
    assert_eq!(mid.report(&instance, &ids[0], 1, &answer[1..]).await, "refused");
    assert_eq!(shown(&instance, &ids[5]).await["body_base64"], json!(STANDARD.encode(&answer)));
    let request = json!({"connection": "crm", "method": "POST", "path": "/x", "body": "x".repeat(4 * 1024 * 1024 + 1)});
    let (status, refused) = instance.post("/api/v1/requests", &request).await;
    assert_eq!((status, &refused["code"]), (413, &json!("body_too_large")));
    instance.stop().await;

    // A piece that is lost is told, and so is one in another's place.
    let sql = "DELETE FROM request_pieces WHERE request_id = $1 AND number = 3 AND piece_set = 'outcome-1'";
    sqlx::query(sql).bind(&ids[0]).execute(&database).await.expect("removed");
    let instance = Instance::start(&place, Some(key.clone())).await;
    assert_eq!(shown(&instance, &ids[0]).await["body_unavailable"]["code"], "stored_data_damaged");
    instance.stop().await;
    // They go with their requests.
    place.finished_hours = 0;
    let instance = Instance::start(&place, Some(key)).await;
    let look = async || largest("SELECT COUNT(*), CAST(0 AS BIGINT) FROM request_pieces").await.0;
    eventually("they are removed", look, |count| *count == 0).await;
    instance.stop().await;
}

pub(crate) async fn what_is_finished_is_kept_up_to_a_size(mut place: Place) {
    let instance = with_document(&place).await;
    let key = instance.key.clone();
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let database = place.database().await;
    let mut ids = Vec::new();
    for minutes in [30_i64, 20, 10] {
        let id = submit(&instance, "POST").await;
        assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
        assert_eq!(mid.report(&instance, &id, 1, &"x".repeat(30_000)).await, "accepted");
        let sql = "UPDATE requests SET finished_at = finished_at - $1 WHERE id = $2";
        sqlx::query(sql).bind(minutes * 60_000).bind(&id).execute(&database).await.expect("earlier");
        ids.push(id);
    }
    let open = submit(&instance, "POST").await;
    instance.stop().await;
    // Each is 40,000 bytes in base64, so that two of them fit.
    place.finished_bytes = Some(100_000);
    let instance = Instance::start(&place, Some(key)).await;
    let status = async |id: &str| instance.get(&format!("/api/v1/requests/{id}")).await.0;
    eventually("the oldest is removed", async || status(&ids[0]).await, |status| *status == 404).await;
    for id in [&ids[1], &ids[2], &open] {
        assert_eq!(status(id).await, 200);
    }
    instance.stop().await;
}
