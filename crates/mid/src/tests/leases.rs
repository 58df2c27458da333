use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use midward_core::{Clock, Failure, Random, SystemClock, SystemRandom, Trace};
use midward_resolvers::BoxFuture;
use midward_wire::{
    ApiReply, Bytes64, Heartbeat, LeaseRequest, MAX_OUTCOMES, MidState, Outcome, OutcomeReport, OutcomesRequest,
    ReleaseRequest, paths,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::instance::{Scripted, Seen, answer, eventually, json as answer_json, token_answer};
use crate::audit::{Audit, AuditEntry, entries};
use crate::capacity::Capacity;
use crate::execute::{Execute, Leased};
use crate::heartbeat::Heart;
use crate::jar_fetch::JarFetch;
use crate::policy::{Policy, PolicyStore};
use crate::runtime::{Mid, Parts};

/// Executes by counting; holds each call until it is let go.
#[derive(Debug)]
struct Counter {
    started: Mutex<Vec<(String, i64)>>,
    gate: Semaphore,
    wiped: AtomicUsize,
    /// How often it was told to revoke its tokens, and whether that ever ends.
    revoked: AtomicUsize,
    revokes_for_ever: AtomicBool,
}

impl Counter {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self {
            started: Mutex::default(),
            gate: Semaphore::new(free),
            wiped: AtomicUsize::new(0),
            revoked: AtomicUsize::new(0),
            revokes_for_ever: AtomicBool::new(false),
        })
    }

    fn started(&self) -> Vec<(String, i64)> {
        self.started.lock().expect("not poisoned").clone()
    }
}

impl Execute for Counter {
    fn execute(&self, leased: Leased) -> BoxFuture<'_, (Outcome, Trace)> {
        Box::pin(async move {
            self.started.lock().expect("not poisoned").push((leased.grant.request_id, leased.grant.epoch));
            self.gate.acquire().await.expect("never closed").forget();
            let reply = ApiReply { status: 200, headers: Vec::new(), body: Bytes64(b"ok".to_vec()) };
            (Outcome::Replied { reply }, Trace::default())
        })
    }

    fn wipe(&self) {
        self.wiped.fetch_add(1, Ordering::SeqCst);
    }

    fn revoke_all(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.revoked.fetch_add(1, Ordering::SeqCst);
            if self.revokes_for_ever.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        })
    }
}

struct Running {
    executor: Arc<Counter>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Failure>>,
    folder: tempfile::TempDir,
}

impl Running {
    fn start(instance: &Scripted, executor: Arc<Counter>, capacity: u32) -> Self {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let link = Arc::new(instance.link());
        let capacity = Capacity::new(capacity);
        let resolvers = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
        let heart = Arc::new(Heart::new(
            Arc::clone(&link),
            "inc".into(),
            capacity.clone(),
            Arc::clone(&resolvers),
            Arc::clone(&clock),
            Arc::clone(&random),
        ));
        let policy = Arc::new(PolicyStore::new(Policy::default(), Arc::clone(&random)));
        let jars =
            JarFetch { link: Arc::clone(&link), policy, wanted: Arc::default(), resolvers: Arc::clone(&resolvers) };
        let folder = tempfile::tempdir().expect("a folder");
        let mid = Mid::join(Parts {
            link,
            heart,
            jars,
            executor: executor.clone(),
            audit: Arc::new(Audit::open(folder.path(), None).expect("open")),
            resolvers,
            capacity,
            incarnation: "inc".into(),
            drain: Duration::from_secs(5),
            revoke: Duration::from_secs(1),
            admin: None,
            metrics: None,
            mirror: None,
            exporter: None,
            clock,
            random,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(mid.run(stop.clone(), CancellationToken::new()));
        Self { executor, stop, task, folder }
    }

    /// What its audit has then.
    async fn end(self) -> Vec<AuditEntry> {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("in time");
        assert_eq!(ended.expect("no crash"), Ok(()));
        entries(&self.folder)
    }
}

fn grant(request_id: &str, epoch: i64) -> serde_json::Value {
    json!({
        "request_id": request_id, "epoch": epoch, "lease_ms": 30000, "expires_ms": 30000, "config": "0".repeat(64),
        "call": { "method": "GET", "path": "/", "headers": [], "body": "", "replay": "by_method" },
    })
}

fn leases(batch: u64, leases: &[serde_json::Value]) -> Response<Full<Bytes>> {
    answer_json(200, json!({ "version": 1, "state": "validated", "batch": batch, "leases": leases }).to_string())
}

fn nothing(batch: u64) -> Response<Full<Bytes>> {
    let body = json!({ "version": 1, "state": "validated", "batch": batch, "leases": [] }).to_string();
    answer_json(202, body)
}

/// Everything but polls.
fn other(seen: &Seen) -> Response<Full<Bytes>> {
    if let Some(token) = token_answer(seen) {
        return token;
    }
    match seen.path.as_str() {
        paths::HEARTBEAT => answer_json(200, r#"{"version":1,"state":"validated","next_ms":5000}"#),
        paths::OUTCOMES => {
            let request: OutcomesRequest = serde_json::from_slice(&seen.body).expect("outcomes");
            let verdicts = vec!["accepted"; request.outcomes.len()];
            answer_json(200, json!({ "version": 1, "verdicts": verdicts }).to_string())
        }
        _ => answer_json(200, "{}"),
    }
}

fn poll(seen: &Seen) -> Option<LeaseRequest> {
    (seen.path == paths::LEASE).then(|| serde_json::from_slice(&seen.body).expect("a lease request"))
}

fn outcomes(instance: &Scripted) -> Vec<OutcomeReport> {
    let messages = instance.seen(paths::OUTCOMES);
    messages
        .iter()
        .flat_map(|seen| serde_json::from_slice::<OutcomesRequest>(&seen.body).expect("outcomes").outcomes)
        .collect()
}

#[tokio::test]
async fn a_batch_is_acknowledged_and_a_second_delivery_is_executed_once() {
    let repeated = AtomicBool::new(false);
    let instance = Scripted::start(move |seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("a", 1), grant("b", 1)]),
        // The acknowledgement is taken for lost, once.
        Some(_) if !repeated.swap(true, Ordering::SeqCst) => leases(1, &[grant("a", 1), grant("b", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(10), 8);
    eventually("two outcomes and a third poll", || {
        outcomes(&instance).len() >= 2 && instance.seen(paths::LEASE).len() >= 3
    })
    .await;
    let polls = instance.seen(paths::LEASE);
    assert_eq!(poll(&polls[1]).expect("a poll").received_batch, 1);
    let executor = Arc::clone(&mid.executor);
    let audit = mid.end().await;
    let mut started = executor.started();
    started.sort_unstable();
    assert_eq!(started, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(outcomes(&instance).len(), 2);
    assert_eq!(refused(&audit), [("lease_repeated", "a", 1, 1), ("lease_repeated", "b", 1, 1)]);
    // The instance knew the resolvers before the first poll.
    let heartbeat: Heartbeat = serde_json::from_slice(&instance.seen(paths::HEARTBEAT)[0].body).expect("a heartbeat");
    assert_eq!(heartbeat.incarnation, "inc");
}

/// Code, request, epoch and latest epoch of each lease that was refused.
fn refused(audit: &[AuditEntry]) -> Vec<(&str, &str, i64, i64)> {
    let refused = audit.iter().filter_map(|entry| match entry {
        AuditEntry::LeaseRefused { code, request_id, epoch, latest, .. } => {
            Some((code.as_str(), request_id.as_str(), *epoch, *latest))
        }
        _ => None,
    });
    refused.collect()
}

#[tokio::test]
async fn an_older_epoch_is_refused_in_a_form_that_is_known_or_not_and_while_it_drains() {
    let strange = |epoch: i64| json!({ "request_id": "a", "epoch": epoch, "novelty": {} });
    let instance = Scripted::start(move |seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("a", 3)]),
        Some(poll) if poll.received_batch == 1 => leases(2, &[grant("a", 2), strange(1), grant("a", 4), grant("b", 1)]),
        Some(poll) if poll.capacity == 0 => leases(3, &[grant("a", 3), grant("lost", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(10), 8);
    eventually("three outcomes", || outcomes(&instance).len() >= 3).await;
    let executor = Arc::clone(&mid.executor);
    let audit = mid.end().await;
    let mut started = executor.started();
    started.sort_unstable();
    assert_eq!(started, [("a".to_owned(), 3), ("a".to_owned(), 4), ("b".to_owned(), 1)]);
    assert_eq!(outcomes(&instance).len(), 3, "what is refused has no outcome: another lease is the request's");
    let older = |epoch, latest| ("lease_outdated", "a", epoch, latest);
    assert_eq!(refused(&audit), [older(2, 3), older(1, 3), older(3, 4)]);
    let release: ReleaseRequest = serde_json::from_slice(&instance.seen(paths::RELEASE)[0].body).expect("a release");
    assert_eq!(release.leases, [("lost".to_owned(), 1)]);
}

#[tokio::test]
async fn a_request_that_is_not_understood_is_refused_alone() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => {
            let strange = json!({ "request_id": "new", "epoch": 3, "novelty": {} });
            leases(1, &[strange, json!(17), grant("known", 1)])
        }
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(10), 8);
    eventually("both outcomes", || outcomes(&instance).len() >= 2).await;
    mid.end().await;
    let outcomes = outcomes(&instance);
    let of = |id: &str| &outcomes.iter().find(|report| report.request_id == id).expect("an outcome").outcome;
    assert!(matches!(of("known"), Outcome::Replied { .. }));
    assert!(matches!(of("new"), Outcome::Failed { failure } if failure.code == "request_not_understood"));
}

#[tokio::test]
async fn polls_ask_for_what_is_free_and_never_more_runs() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("a", 1), grant("b", 1), grant("excess", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(0), 2);
    eventually("the excess goes back", || !instance.seen(paths::RELEASE).is_empty()).await;
    let release: ReleaseRequest = serde_json::from_slice(&instance.seen(paths::RELEASE)[0].body).expect("a release");
    assert_eq!(release.leases, [("excess".to_owned(), 1)]);
    assert_eq!(instance.seen(paths::LEASE).len(), 1, "nothing is free, so nothing is asked for");
    mid.executor.gate.add_permits(2);
    eventually("the next poll", || instance.seen(paths::LEASE).len() >= 2).await;
    mid.end().await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_what_it_never_received() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("running", 1)]),
        // The drain's last poll: an answer that had got lost is delivered again.
        Some(poll) if poll.capacity == 0 => leases(2, &[grant("lost", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(0), 4);
    eventually("a call runs", || mid.executor.started().len() == 1).await;
    mid.stop.cancel();
    eventually("the release", || !instance.seen(paths::RELEASE).is_empty()).await;
    assert!(outcomes(&instance).is_empty());
    let executor = Arc::clone(&mid.executor);
    executor.gate.add_permits(1);
    mid.end().await;
    assert_eq!(executor.started(), [("running".to_owned(), 1)]);
    assert_eq!(outcomes(&instance).len(), 1, "the running call's outcome was delivered");
    let release: ReleaseRequest = serde_json::from_slice(&instance.seen(paths::RELEASE)[0].body).expect("a release");
    assert_eq!(release.leases, [("lost".to_owned(), 1)]);
    let heartbeats = instance.seen(paths::HEARTBEAT);
    let last: Heartbeat = serde_json::from_slice(&heartbeats.last().expect("one").body).expect("a heartbeat");
    assert!(last.draining);
}

#[tokio::test]
async fn a_drain_hands_back_no_more_at_once_than_an_instance_takes() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.capacity == 0 => {
            let lost: Vec<_> = (0..=MAX_OUTCOMES).map(|number| grant(&number.to_string(), 1)).collect();
            leases(1, &lost)
        }
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(0), 4096);
    eventually("a poll", || !instance.seen(paths::LEASE).is_empty()).await;
    mid.end().await;
    let parts: Vec<usize> = instance
        .seen(paths::RELEASE)
        .iter()
        .map(|seen| serde_json::from_slice::<ReleaseRequest>(&seen.body).expect("a release").leases.len())
        .collect();
    assert_eq!(parts, [MAX_OUTCOMES, 1]);
}

#[tokio::test]
async fn a_revocation_that_never_ends_does_not_keep_a_drain() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("running", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(0), 4);
    eventually("a call runs", || mid.executor.started().len() == 1).await;
    let executor = Arc::clone(&mid.executor);
    executor.revokes_for_ever.store(true, Ordering::SeqCst);
    mid.stop.cancel();
    eventually("the drain's last poll", || instance.seen(paths::LEASE).len() >= 2).await;
    assert_eq!(executor.revoked.load(Ordering::SeqCst), 0, "a running call still needs its token");
    executor.gate.add_permits(1);
    mid.end().await;
    assert_eq!(executor.revoked.load(Ordering::SeqCst), 1);
    assert_eq!(outcomes(&instance).len(), 1, "the outcome was delivered beside it");
}

#[tokio::test]
async fn an_outcome_survives_an_instance_that_is_away_for_a_moment() {
    let failures = AtomicUsize::new(0);
    let instance = Scripted::start(move |seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("a", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None if seen.path == paths::OUTCOMES && failures.fetch_add(1, Ordering::SeqCst) < 3 => answer_json(503, "{}"),
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(1), 4);
    eventually("the fourth try", || instance.seen(paths::OUTCOMES).len() >= 4).await;
    mid.end().await;
    assert_eq!(instance.seen(paths::OUTCOMES).len(), 4, "accepted once, then not sent again");
}

#[tokio::test]
async fn an_answer_that_the_instance_does_not_take_is_told_without_its_body() {
    let instance = Scripted::start(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("large", 1)]),
        Some(poll) => nothing(poll.received_batch),
        // A proxy before the instance may say so.
        None if seen.path == paths::OUTCOMES && String::from_utf8_lossy(&seen.body).contains("replied") => {
            answer(413, "text/html", "<h1>too large</h1>")
        }
        None => other(seen),
    })
    .await;
    let mid = Running::start(&instance, Counter::new(1), 4);
    eventually("the second message", || outcomes(&instance).len() == 2).await;
    mid.end().await;
    let told = outcomes(&instance);
    let Outcome::Unknown { failure } = &told[1].outcome else { panic!("{told:?}") };
    assert_eq!((told[1].request_id.as_str(), failure.code.as_str()), ("large", "reply_not_taken"));
    assert_eq!(told.len(), 2, "neither is sent again");
}

#[tokio::test]
async fn an_invalidated_mid_wipes_its_tokens_and_asks_slowly() {
    let instance = Scripted::start(|_| answer_json(500, "{}")).await;
    let signer = instance.signer();
    instance.answer_with(move |seen| signer(MidState::Invalidated, seen));
    let mid = Running::start(&instance, Counter::new(1), 4);
    eventually("the wiping", || mid.executor.wiped.load(Ordering::SeqCst) == 1).await;
    assert_eq!(instance.seen(paths::TOKEN).len(), 1, "the next question comes after two seconds at the earliest half");
    assert!(instance.seen(paths::LEASE).is_empty());
    // Validated again: it works without a restart.
    instance.answer_with(|seen| match poll(seen) {
        Some(poll) if poll.received_batch == 0 => leases(1, &[grant("a", 1)]),
        Some(poll) => nothing(poll.received_batch),
        None => other(seen),
    });
    eventually("work", || outcomes(&instance).len() == 1).await;
    mid.end().await;
}
