//! The queue by itself on a database, without anybody who looks after times: what is given out now is given out by what
//! happened, and not by a later look.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock as _, SystemClock, SystemRandom};
use midward_telemetry::Tracer;
use midward_wire::{ConfigDigest, Heartbeat, MidState, ResolverHealth, ResolverStatus};
use tokio::sync::oneshot;

use super::{Batch, Broken, Job, LeaseSpans, Parts, Poll, Queue, Submitted};
use crate::at_rest::{AtRest, Part};
use crate::audit::Audit;
use crate::config::{EncryptionConfig, StoreConfig};
use crate::fleet::Fleet;
use crate::keys::SigningKey;
use crate::routes::Route;
use crate::store::mids::{self, MidRow};
use crate::store::requests::{KeepRequest, NewRequest, Priority};
use crate::store::{Store, StoreError};

const CALL: &str = r#"{"method":"POST","path":"/x","headers":[],"body":"","replay":"by_method"}"#;

struct Alone {
    store: Store,
    queue: Queue,
    at_rest: Arc<AtRest>,
    writer: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Alone {
    /// With these MIDs, which are ready.
    async fn open(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let key = SigningKey::open(&folder.path().join("instance.key"), &SystemRandom).expect("a key");
        let (_, journal, outcomes) = Audit::begin(&store, &key, &SystemClock, &SystemRandom).await.expect("an audit");
        let fleet = Arc::new(Fleet::default());
        for name in names {
            let row = mid(name);
            mids::insert(store.readers(), &row).await.expect("inserted");
            fleet.add(row, SystemClock.boot(), SystemClock.wall().unix_millis());
        }
        let at_rest = AtRest::open(&EncryptionConfig::default(), "test", Arc::new(SystemRandom)).expect("no keys");
        let at_rest = Arc::new(at_rest);
        let (queue, writer) = Queue::start(Parts {
            store: store.clone(),
            fleet,
            waiters: Arc::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            journal,
            outcomes,
            at_rest: Arc::clone(&at_rest),
            broken: Arc::new(Broken::default()),
            replica: "replica".to_owned(),
            spans: Arc::new(LeaseSpans::new(Tracer::off())),
        });
        Self { store, queue, at_rest, writer, _folder: folder }
    }

    async fn poll(&self, mid_id: &str) -> oneshot::Receiver<Result<Batch, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let poll = Poll {
            mid_id: mid_id.to_owned(),
            incarnation: "i".to_owned(),
            capacity: 8,
            received_batch: 0,
            arrived: SystemClock.boot(),
            reply,
        };
        self.queue.send(Job::Poll(poll)).await.expect("taken");
        answer
    }

    async fn submit(&self, id: &str) {
        let now = SystemClock.wall().unix_millis();
        let call = Arc::new(CALL.to_owned());
        let request = NewRequest {
            id: id.to_owned(),
            connection: "crm".to_owned(),
            config_digest: ConfigDigest::of(b"{}").0,
            resolver: "vault".to_owned(),
            mids: String::new(),
            repeatable: false,
            lease_ms: 60_000,
            expires_at: now + 900_000,
            created_at: now,
            client_id: "client".to_owned(),
            idempotency_key: None,
            fingerprint: String::new(),
            method: "POST".to_owned(),
            path: "/x".to_owned(),
            path_kept: "/x".to_owned(),
            call_kept: self.at_rest.keep(id, Part::Call, &call).expect("kept"),
            call,
            keep: KeepRequest::Everything,
            priority: Priority::Standard,
            origin: String::new(),
            ordered: false,
            limited: false,
            not_before: 0,
            retry: None,
            lease: None,
            arrived: SystemClock.boot(),
        };
        let submitted = self.queue.submit(Arc::new(route()), request).await.expect("stored");
        assert_eq!(submitted, Submitted::New(id.to_owned()));
    }

    async fn close(self) {
        drop(self.queue);
        self.writer.await.expect("no panic");
        self.store.close().await;
    }
}

fn mid(id: &str) -> MidRow {
    let now = SystemClock.wall().unix_millis();
    let resolver = ResolverStatus {
        name: "vault".to_owned(),
        kind: "jar".to_owned(),
        health: ResolverHealth::Ready,
        reason: None,
    };
    let heartbeat = Heartbeat {
        version: midward_wire::VERSION,
        incarnation: "i".to_owned(),
        program_version: "0".to_owned(),
        capacity: 8,
        running: 0,
        draining: false,
        resolvers: vec![resolver],
    };
    MidRow {
        id: id.to_owned(),
        name: id.to_owned(),
        state: MidState::Validated,
        public_key: String::new(),
        created_at: now,
        last_seen_at: Some(now),
        heartbeat: Some(heartbeat),
        draining: false,
        version: 0,
        incarnation: "i".to_owned(),
        fenced: 0,
        fenced_at: None,
    }
}

fn route() -> Route {
    Route {
        alias: "crm".to_owned(),
        digest: ConfigDigest::of(b"{}"),
        document: "{}".to_owned(),
        resolver: "vault".to_owned(),
        mid_names: Vec::new(),
        mids: String::new(),
        cluster: None,
        ordered: false,
        limited: false,
        retry: None,
        timeout_ms: 30_000,
        metadata_only: false,
        replay_methods: None,
    }
}

async fn given(poll: oneshot::Receiver<Result<Batch, StoreError>>) -> Vec<(String, i64)> {
    let answer = tokio::time::timeout(Duration::from_secs(20), poll).await.expect("somebody wakes it");
    let batch = answer.expect("an answer").expect("a batch");
    batch.leases.iter().map(|lease| (lease.of().0.to_owned(), lease.of().1)).collect()
}

#[tokio::test]
async fn what_is_handed_back_goes_to_who_waits() {
    let alone = Alone::open(&["a", "b"]).await;
    let first = alone.poll("a").await;
    alone.submit("r").await;
    assert_eq!(given(first).await, [("r".to_owned(), 1)]);
    let waits = alone.poll("b").await;
    // What comes after it is answered: it waits.
    alone.queue.hand_back("b".to_owned(), Vec::new()).await.expect("taken back");
    alone.queue.hand_back("a".to_owned(), vec![("r".to_owned(), 1)]).await.expect("taken back");
    assert_eq!(given(waits).await, [("r".to_owned(), 2)]);
    alone.close().await;
}
