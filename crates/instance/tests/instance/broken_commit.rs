//! The connection to the database breaks in the very commit: whether it was done or not, nothing is lost, nothing is done
//! twice, and the audit tells everything once.

use bytes::Bytes;
use http::Request;
use midward_fakes::cutter::{Cutter, Lose};
use midward_fakes::postgres::Postgres;
use midward_instance::verify_audit;
use serde_json::{Value, json};

use crate::scenarios::support::{Instance, Place, ScriptedMid};
use crate::scenarios::{audit_entries, audit_lines, with_document};

async fn count(instance: &Instance, what: &str, request: &str) -> usize {
    let entries = audit_entries(&audit_lines(instance).await);
    entries.iter().filter(|entry| entry["what"] == what && entry["request"] == request).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_repeated_after_a_broken_commit_is_told_once() {
    let server = Postgres::start_without_fsync().expect("a server");
    let cutter = Cutter::start(server.addr()).expect("a relay");
    let database = server.new_database().expect("a database");
    let place = Place::postgres(&database.replace(&server.addr().to_string(), &cutter.addr().to_string()));
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let mut ended = Vec::new();
    for (number, lose) in [Lose::Answer, Lose::Request, Lose::Answer].into_iter().enumerate() {
        // Each step's own transaction is the one that breaks: a caller's, a poll's, an outcome's, a forged outcome's.
        cutter.cut(r#""what":"accepted""#, "COMMIT", lose);
        let order =
            json!({"connection": "crm", "method": "POST", "path": "/x", "idempotency_key": format!("k{number}")});
        let (status, answer) = instance.post("/api/v1/requests", &order).await;
        assert_eq!(status, 202, "{answer}");
        let id = answer["id"].as_str().expect("an id").to_owned();
        cutter.cut(r#""what":"leased""#, "COMMIT", lose);
        let leases = mid.poll(&instance, 10_000, true).await;
        let given: Vec<_> = leases.iter().map(|lease| (&lease.request_id, lease.epoch)).collect();
        assert_eq!(given, [(&id, 1)]);
        cutter.cut(r#""what":"ended""#, "COMMIT", lose);
        assert_eq!(mid.report(&instance, &id, 1, "done").await, "accepted");
        cutter.cut(r#""what":"outcome_refused""#, "COMMIT", lose);
        assert_eq!(mid.report(&instance, &id, 7, "forged").await, "refused");
        assert_eq!(cutter.cuts(), 4 * (number + 1), "each was cut");
        ended.push(id);
    }
    for id in &ended {
        for what in ["accepted", "leased", "ended", "outcome_refused"] {
            assert_eq!(count(&instance, what, id).await, 1, "{what} {id}");
        }
        let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
        assert_eq!((shown["state"].as_str(), shown["status"].as_i64()), (Some("replied"), Some(201)), "{shown}");
    }
    assert!(verify_audit(&audit_lines(&instance).await, &[]).is_ok());
    // The figures neither.
    let request = Request::get(format!("{}/metrics", instance.started.public_url));
    let request = request.header("authorization", format!("Bearer {}", instance.key)).body(Bytes::new());
    let answer = instance.send(request.expect("a request")).await;
    let text = String::from_utf8(answer.body().to_vec()).expect("text");
    for expected in [
        "midward_requests_accepted_total 3\n",
        "midward_requests_ended_total{how=\"replied\"} 3\n",
        "midward_outcomes_refused_total 3\n",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_commit_broke_leaves_a_whole_audit() {
    let server = Postgres::start_without_fsync().expect("a server");
    let cutter = Cutter::start(server.addr()).expect("a relay");
    let database = server.new_database().expect("a database");
    let place = Place::postgres(&database.replace(&server.addr().to_string(), &cutter.addr().to_string()));
    let instance = with_document(&place).await;
    for (name, lose) in [("one", Lose::Answer), ("two", Lose::Request)] {
        cutter.cut(r#""what":"client_made""#, "COMMIT", lose);
        let (status, answer) = instance.post("/api/v1/api-keys", &json!({"name": name, "role": "auditor"})).await;
        assert_eq!((status, answer["code"].as_str()), (503, Some("storage_failed")), "{answer}");
        let (status, _) =
            instance.post("/api/v1/api-keys", &json!({"name": format!("{name}-after"), "role": "auditor"})).await;
        assert_eq!(status, 201);
    }
    assert_eq!(cutter.cuts(), 2);
    let lines = audit_lines(&instance).await;
    assert!(verify_audit(&lines, &[]).is_ok());
    let made: Vec<Value> = audit_entries(&lines).into_iter().filter(|entry| entry["what"] == "client_made").collect();
    let names: Vec<_> = made.iter().filter_map(|entry| entry["of"]["name"].as_str()).collect();
    assert_eq!(names, ["one", "one-after", "two-after"], "what happened, and nothing else");
    instance.stop().await;
}
