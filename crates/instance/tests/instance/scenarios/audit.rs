//! The audit: who asked what of which connection, by which MID, how it ended; refusals; and whether it is whole.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request};
use midward_instance::{AuditLine, verify_audit};
use midward_wire::{CheckpointsReply, paths};
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid, eventually};
use super::{submit, with_document};

pub(crate) async fn lines(instance: &Instance) -> Vec<AuditLine> {
    let mut lines = Vec::new();
    for list in ["keys", "checkpoints", "blocks"] {
        let mut after = String::new();
        loop {
            // Small pages, so that there are several.
            let query = if list == "keys" { String::new() } else { format!("?limit=2{after}") };
            let (status, page) = instance.get(&format!("/api/v1/audit/{list}{query}")).await;
            assert_eq!(status, 200, "{page}");
            lines.extend(serde_json::from_value::<Vec<AuditLine>>(page["items"].clone()).expect("lines"));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
    }
    lines
}

pub(crate) fn entries(lines: &[AuditLine]) -> Vec<Value> {
    let blocks = lines.iter().filter_map(|line| match line {
        AuditLine::Block { entries, .. } => Some(serde_json::from_str::<Vec<Value>>(entries).expect("an array")),
        _ => None,
    });
    blocks.flatten().collect()
}

/// The audit as soon as `done` says so.
async fn stands(instance: &Instance, what: &str, done: impl Fn(&[AuditLine], &[Value]) -> bool) -> Vec<AuditLine> {
    eventually(what, async || lines(instance).await, |lines| done(lines, &entries(lines))).await
}

/// How often such a refusal was counted.
fn times(entries: &[Value], code: &str, client: &str, asked: &str) -> u64 {
    let is_it = |entry: &&Value| {
        entry["what"] == "refused" && entry["code"] == code && entry["client"] == client && entry["asked"] == asked
    };
    entries.iter().filter(is_it).filter_map(|entry| entry["times"].as_u64()).sum()
}

pub(crate) async fn who_is_refused_at_the_mids_door_leaves_a_trace(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    let key = URL_SAFE_NO_PAD.encode([7; 32]);
    let guess = |secret: &str| json!({"version": 1, "secret": secret, "name": "mid-b", "public_key": key});
    for secret in ["hunter2", "hunter3"] {
        assert_eq!(instance.post(paths::ENROLL, &guess(secret)).await.0, 403);
    }
    let token = instance.enroll_token("mid-a", true).await;
    assert_eq!(instance.post(paths::ENROLL, &guess(&token.secret)).await.0, 409, "the name is another one's");
    assert_eq!(mid.clone_for_poll().token_request(&instance, "jti-2").await.0, 401, "another key");
    assert_eq!(mid.token_request(&instance, "jti-1").await.0, 401, "used before");
    assert_eq!(instance.api_as("mwt_wrong", Method::GET, paths::CHECKPOINTS, &Value::Null).await.0, 401);
    let waiting = ScriptedMid::enroll(&instance, "mid-c", false).await;
    assert_eq!(waiting.token_request(&instance, "jti").await.0, 401, "not validated");
    assert_eq!(instance.post("/api/v1/mids/mid-a/invalidate", &Value::Null).await.0, 200);
    assert_eq!(mid.token_request(&instance, "jti-3").await.0, 401, "invalidated");
    let asked = format!("GET {}", paths::CHECKPOINTS);
    let expected = [
        ("enroll_token_refused", "", "enroll", 2),
        ("mid_name_taken", "", "enroll", 1),
        ("invalid_client", "", "MID token", 1),
        ("invalid_client", mid.id.as_str(), "MID token", 2),
        ("mid_token_refused", "", asked.as_str(), 1),
    ];
    let found = stands(&instance, "each refusal is counted", |_, entries| {
        expected.iter().all(|(code, client, asked, count)| times(entries, code, client, asked) == *count)
    })
    .await;
    let entries = entries(&found);
    assert_eq!(times(&entries, "invalid_client", &waiting.id, "MID token"), 0, "to wait is nothing wrong");
    assert!(!format!("{entries:?}").contains("hunter") && !format!("{entries:?}").contains("mwt_wrong"));
    instance.stop().await;
}

pub(crate) async fn the_audit_tells_who_asked_what_and_how_it_ended_and_is_whole(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let request = json!({"connection": "crm", "method": "POST", "path": "/items?secret=1", "body": "private"});
    let (_, answer) = instance.post("/api/v1/requests", &request).await;
    let id = answer["id"].as_str().expect("an id").to_owned();
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(mid.report(&instance, &id, leases[0].epoch, "private").await, "accepted");
    assert_eq!(mid.report(&instance, &id, leases[0].epoch + 1, "forged").await, "refused");
    let (_, answer) = instance.post("/api/v1/api-keys", &json!({"name": "app", "role": "caller"})).await;
    let key = answer["key"].as_str().expect("a key").to_owned();
    let client = answer["id"].as_str().expect("an id").to_owned();
    assert_eq!(instance.api_as(&key, Method::GET, "/api/v1/mids", &Value::Null).await.0, 403);
    assert_eq!(instance.api_as("mwk_wrong", Method::GET, "/api/v1/mids", &Value::Null).await.0, 401);
    let call = Request::get(format!("{}/api/v1/connections/crm/call/", instance.started.call_url));
    let call = call.header("authorization", format!("Bearer {key}")).body(Bytes::new()).expect("a request");
    assert_eq!(instance.send(call).await.status(), 403);
    let found = stands(&instance, "three refusals", |_, entries| {
        let refused = |code: &str, client: &str, asked: &str| times(entries, code, client, asked) > 0;
        refused("not_allowed", &client, "GET /api/v1/mids")
            && refused("unauthorized", "", "GET /api/v1/mids")
            && refused("not_allowed", &client, "call GET crm")
    })
    .await;
    let entries = entries(&found);
    let entry = |what: &str| {
        entries.iter().find(|entry| entry["what"] == what).unwrap_or_else(|| panic!("{what}: {entries:?}"))
    };
    let accepted = entry("accepted");
    assert_eq!(
        (&accepted["request"], &accepted["connection"], &accepted["method"], &accepted["path"]),
        (&json!(id), &json!("crm"), &json!("POST"), &json!("/items"))
    );
    let ended = entry("ended");
    assert_eq!((&ended["request"], &ended["mid"]), (&json!(id), &json!(mid.id)));
    assert_eq!((&ended["how"], &ended["status"]), (&json!("replied"), &json!(201)));
    assert_eq!((&entry("outcome_refused")["request"], &entry("outcome_refused")["epoch"]), (&json!(id), &json!(2)));
    assert_eq!(
        (&entry("client_made")["by"], &entry("client_made")["of"]["name"]),
        (&json!("first-admin"), &json!("app"))
    );
    for what in ["started", "applied", "enroll_token_made", "mid_enrolled"] {
        entry(what);
    }
    let text = format!("{entries:?}");
    assert!(!text.contains("private") && !text.contains("secret=1") && !text.contains(&key));
    assert!(verify_audit(&found, &[]).expect("whole").entries > 6);
    instance.stop().await;
}

pub(crate) async fn a_history_written_anew_is_found_by_the_checkpoints_that_a_mid_has_kept(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    submit(&instance, "GET").await;
    let signed = |lines: &[AuditLine], _: &[Value]| {
        lines.iter().filter(|line| matches!(line, AuditLine::Checkpoint(_))).count() >= 3
    };
    stands(&instance, "three checkpoints", signed).await;
    let (status, reply) = instance.api_as(&mid.token, Method::GET, paths::CHECKPOINTS, &Value::Null).await;
    assert_eq!(status, 200, "{reply}");
    let kept = serde_json::from_value::<CheckpointsReply>(reply).expect("checkpoints").checkpoints;
    assert!(!kept.is_empty());
    let lines = lines(&instance).await;
    let report = verify_audit(&lines, &kept).expect("whole");
    assert_eq!(report.mirrored, kept.len());
    // Without the blocks that a MID has seen signed, and with another text in one of them.
    let last = kept.iter().map(|checkpoint| checkpoint.seq).max().expect("one");
    let cut: Vec<_> = lines
        .iter()
        .filter(|line| match line {
            AuditLine::Block { seq, .. } => *seq < last,
            AuditLine::Checkpoint(checkpoint) => checkpoint.seq < last,
            AuditLine::Key { .. } => true,
        })
        .cloned()
        .collect();
    assert!(verify_audit(&cut, &kept).is_err());
    assert_eq!(instance.api_as("mwk_wrong", Method::GET, paths::CHECKPOINTS, &Value::Null).await.0, 401);
    instance.stop().await;
}

pub(crate) async fn the_figures_tell_what_waits_and_how_it_ended(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "GET").await;
    let leases = mid.poll(&instance, 5000, true).await;
    submit(&instance, "GET").await;
    mid.report(&instance, &id, leases[0].epoch, "ok").await;
    let request = |key: &str| {
        let request = Request::get(format!("{}/metrics", instance.started.public_url));
        request.header("authorization", format!("Bearer {key}")).body(Bytes::new()).expect("a request")
    };
    let answer = instance.send(request(&instance.key)).await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    let text = String::from_utf8(answer.body().to_vec()).expect("text");
    for expected in [
        "midward_requests{state=\"queued\"} 1\n",
        "midward_requests{state=\"leased\"} 0\n",
        "midward_requests_accepted_total 2\n",
        "midward_requests_ended_total{how=\"replied\"} 1\n",
        "midward_mids{state=\"validated\",live=\"true\"} 1\n",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert_eq!(instance.send(request("mwk_wrong")).await.status(), 401);
    instance.stop().await;
}

pub(crate) async fn what_a_crashed_instance_left_unsigned_is_signed_by_the_next_one_and_goes(mut place: Place) {
    let instance = with_document(&place).await;
    submit(&instance, "GET").await;
    let key = instance.key.clone();
    instance.stop().await;
    // As a crash before the first checkpoint leaves it.
    let database = place.database().await;
    sqlx::query("DELETE FROM audit_checkpoints").execute(&database).await.expect("removed");
    let rows = sqlx::query("SELECT DISTINCT chain FROM audit_blocks").fetch_all(&database).await.expect("rows");
    let old: Vec<String> = rows.iter().map(|row| sqlx::Row::try_get(row, 0).expect("text")).collect();
    database.close().await;
    place.audit_days = 0;
    let instance = Instance::start(&place, Some(key.clone())).await;
    let closed = |entries: &[Value], chain: &String| {
        entries.iter().any(|entry| entry["what"] == "chain_closed" && entry["chain"] == *chain)
    };
    let all_closed = |_: &[AuditLine], entries: &[Value]| old.iter().all(|chain| closed(entries, chain));
    let found = stands(&instance, "it is told which were signed", all_closed).await;
    verify_audit(&found, &[]).expect("whole");
    let signed = |chain: &String| {
        found.iter().any(|line| matches!(line, AuditLine::Checkpoint(checkpoint) if checkpoint.chain == *chain))
    };
    assert!(old.len() >= 2 && old.iter().all(signed), "{old:?}");
    instance.stop().await;
    let instance = Instance::start(&place, Some(key)).await;
    let is_old = |line: &AuditLine| matches!(line, AuditLine::Block { chain, .. } if old.contains(chain));
    let found = stands(&instance, "what is old is gone", |lines, _| !lines.iter().any(is_old)).await;
    verify_audit(&found, &[]).expect("whole");
    instance.stop().await;
}

pub(crate) async fn old_blocks_and_checkpoints_go_and_what_is_left_is_whole(mut place: Place) {
    let instance = with_document(&place).await;
    let checkpoints = |lines: &[AuditLine]| {
        let found = lines.iter().filter_map(|line| match line {
            AuditLine::Checkpoint(checkpoint) => Some(checkpoint.clone()),
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    // Several checkpoints of one chain: something is changed again when the last change was signed.
    for number in 1..=3 {
        let key = json!({"name": format!("k{number}"), "role": "caller"});
        assert_eq!(instance.post("/api/v1/api-keys", &key).await.0, 201);
        stands(&instance, "the change is signed", |lines, _| {
            let changes = lines.iter().filter_map(|line| match line {
                AuditLine::Block { chain, seq, entries, .. } if entries.contains("client_made") => Some((chain, *seq)),
                _ => None,
            });
            let (chain, last) = changes.max_by_key(|(_, seq)| *seq).expect("a change");
            checkpoints(lines).iter().any(|checkpoint| checkpoint.chain == *chain && checkpoint.seq >= last)
        })
        .await;
    }
    let kept = checkpoints(&lines(&instance).await);
    let (key, old) = (instance.key.clone(), kept.clone());
    instance.stop().await;
    // Kept for no time: the first round comes at the start.
    place.audit_days = 0;
    let instance = Instance::start(&place, Some(key)).await;
    let is_old = |chain: &str| old.iter().any(|checkpoint| checkpoint.chain == chain);
    let mut chains: Vec<String> = kept.iter().map(|it| it.chain.clone()).collect();
    chains.sort_unstable();
    chains.dedup();
    let found = stands(&instance, "what is old is gone", |lines, _| {
        let blocks = lines.iter().filter(|line| matches!(line, AuditLine::Block { chain, .. } if is_old(chain)));
        let signed = checkpoints(lines).into_iter().map(|it| it.chain).filter(|it| is_old(it));
        // The last one of each chain.
        let mut left: Vec<String> = signed.collect();
        left.sort_unstable();
        blocks.count() == 0 && left == chains
    })
    .await;
    let report = verify_audit(&found, &kept).expect("whole");
    assert_eq!(report.mirrored + report.outlived, kept.len());
    assert!(report.outlived >= 2, "{report:?}");
    instance.stop().await;
}
