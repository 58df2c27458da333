use std::sync::Arc;
use std::time::Duration;

use http::Method;
use midward_core::SystemClock;
use midward_wire::{AuditCheckpoint, CheckpointsReply, VERSION, paths};
use tokio_util::sync::CancellationToken;

use super::instance::{Scripted, eventually, json, token_answer};
use crate::audit::Audit;
use crate::mirror::Mirror;

fn reply(hash: &str) -> String {
    let checkpoint = AuditCheckpoint {
        chain: "c".into(),
        seq: 4,
        hash: hash.into(),
        at: 1,
        key: "k".into(),
        signature: "not-the-instance-s".into(),
    };
    serde_json::to_string(&CheckpointsReply { version: VERSION, checkpoints: vec![checkpoint] }).expect("JSON")
}

#[tokio::test]
async fn checkpoints_are_kept_once_and_another_history_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = || {
        let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")).collect::<Vec<_>>()
    };
    let instance = Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(200, reply("one")))).await;
    let link = Arc::new(instance.link());
    let body = bytes::Bytes::from_static(b"{}");
    link.call(Method::POST, paths::HEARTBEAT, body, Duration::from_secs(5), 1 << 20).await.expect("a link");
    let audit = Arc::new(Audit::open(folder.path(), None).expect("open"));
    let stop = CancellationToken::new();
    let mirror = Mirror::new(link, audit, Arc::new(SystemClock), Duration::from_millis(20));
    let task = tokio::spawn(mirror.run(stop.clone()));
    eventually("three looks", || instance.seen(paths::CHECKPOINTS).len() > 3).await;
    eventually("a line", || !lines().is_empty()).await;
    instance.answer_with(|seen| token_answer(seen).unwrap_or_else(|| json(200, reply("other"))));
    eventually("another line", || lines().len() > 1).await;
    stop.cancel();
    task.await.expect("no panic");
    let lines = lines();
    assert_eq!(lines.len(), 2, "each is kept once: {lines:?}");
    assert_eq!((&lines[0]["kind"], &lines[0]["checkpoint"]["hash"]), (&"instance_checkpoint".into(), &"one".into()));
    assert_eq!((&lines[0]["changed"], &lines[1]["changed"]), (&false.into(), &true.into()));
    assert_eq!(lines[0]["pinned"], false, "nothing of it is believed without the pinned key's signature");
}
