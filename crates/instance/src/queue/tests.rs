//! The queue by itself on a database and with a manual clock. Times are looked at when the test says so: what is given out
//! without it is given out by what happened.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Clock as _, ManualClock, SystemRandom, WallTime};
use midward_telemetry::Tracer;
use midward_wire::{ConfigDigest, Heartbeat, MidState, ResolverHealth, ResolverStatus};
use tokio::sync::oneshot;

use super::room::Room;
use super::{Batch, Broken, Job, LeaseSpans, Parts, Poll, Queue, Submitted};
use crate::at_rest::{AtRest, Part};
use crate::audit::Audit;
use crate::config::{EncryptionConfig, LimitsConfig, StoreConfig};
use crate::fleet::Fleet;
use crate::keys::SigningKey;
use crate::routes::Route;
use crate::store::mids::{self, MidRow};
use crate::store::requests::{self, LEASED, NewRequest, QUEUED, UNKNOWN};
use crate::store::{Store, StoreError};

/// Unix milliseconds.
const BEGIN: i64 = 1_800_000_000_000;
/// Milliseconds.
const LEASE: i64 = 60_000;
const CALL: &str = r#"{"method":"POST","path":"/x","headers":[],"body":"","replay":"by_method"}"#;

struct Alone {
    clock: Arc<ManualClock>,
    store: Store,
    fleet: Arc<Fleet>,
    queue: Queue,
    at_rest: Arc<AtRest>,
    writer: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Alone {
    /// With these MIDs, which are ready.
    async fn open(names: &[&str]) -> Self {
        let hour = BootTime::from_duration(Duration::from_hours(1));
        let clock = Arc::new(ManualClock::new(hour, WallTime::from_unix_millis(BEGIN)));
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let key = SigningKey::open(&folder.path().join("instance.key"), &SystemRandom).expect("a key");
        let (_, journal, outcomes) = Audit::begin(&store, &key, &*clock, &SystemRandom).await.expect("an audit");
        let fleet = Arc::new(Fleet::default());
        for name in names {
            let row = mid(name);
            mids::insert(store.readers(), &row).await.expect("inserted");
            fleet.add(row, clock.boot(), BEGIN);
        }
        let at_rest = AtRest::open(&EncryptionConfig::default(), "test", Arc::new(SystemRandom)).expect("no keys");
        let at_rest = Arc::new(at_rest);
        let (queue, writer) = Queue::start(Parts {
            store: store.clone(),
            fleet: Arc::clone(&fleet),
            waiters: Arc::default(),
            clock: Arc::clone(&clock) as _,
            random: Arc::new(SystemRandom),
            journal,
            outcomes,
            at_rest: Arc::clone(&at_rest),
            broken: Arc::new(Broken::default()),
            replica: "replica".to_owned(),
            spans: Arc::new(LeaseSpans::new(Tracer::off())),
            room: Arc::new(Room::new(&LimitsConfig::default())),
        });
        let alone = Self { clock, store, fleet, queue, at_rest, writer, _folder: folder };
        for name in names {
            alone.hear(name).await;
        }
        alone.sweep().await;
        alone
    }

    fn now(&self) -> i64 {
        self.clock.wall().unix_millis()
    }

    /// A heartbeat.
    async fn hear(&self, mid_id: &str) {
        let version = mids::seen(self.store.readers(), mid_id, self.now(), &heartbeat()).await.expect("written");
        self.fleet.heartbeat(mid_id, self.clock.boot(), self.now(), heartbeat(), version);
    }

    /// Everything that was sent before is done.
    async fn settled(&self) {
        self.queue.hand_back("nobody".to_owned(), Vec::new()).await.expect("taken back");
    }

    /// Times are looked at.
    async fn sweep(&self) {
        self.queue.send(Job::Sweep).await.expect("taken");
        self.settled().await;
    }

    /// So many milliseconds pass, in which times are looked at and these MIDs are heard.
    async fn pass(&self, millis: u64, heard: &[&str]) {
        let mut left = millis;
        while left > 0 {
            let step = left.min(1000);
            left -= step;
            self.clock.advance(Duration::from_millis(step));
            for mid_id in heard {
                self.hear(mid_id).await;
            }
            self.sweep().await;
        }
    }

    async fn state(&self, id: &str) -> i64 {
        requests::find(self.store.readers(), id).await.expect("read").expect("it is there").state
    }

    async fn poll(&self, mid_id: &str) -> oneshot::Receiver<Result<Batch, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let poll = Poll {
            mid_id: mid_id.to_owned(),
            incarnation: "i".to_owned(),
            capacity: 8,
            received_batch: 0,
            arrived: self.clock.boot(),
            reply,
        };
        self.queue.send(Job::Poll(poll)).await.expect("taken");
        answer
    }

    async fn submit(&self, id: &str, repeatable: bool) {
        let now = self.now();
        let call = Arc::new(CALL.to_owned());
        let kept = self.at_rest.keep(id, Part::Call, &call).expect("kept");
        let plain = NewRequest::plain(id, "crm", (call, kept), now, self.clock.boot());
        let config_digest = ConfigDigest::of(b"{}").0;
        let request = NewRequest { config_digest, repeatable, lease_ms: LEASE, ..plain };
        let submitted = self.queue.submit(Arc::new(Route::plain("crm", "vault")), request).await.expect("stored");
        assert_eq!(submitted, Submitted::New(id.to_owned()));
    }

    async fn close(self) {
        drop(self.queue);
        self.writer.await.expect("no panic");
        self.store.close().await;
    }
}

fn heartbeat() -> Heartbeat {
    let resolver = ResolverStatus {
        name: "vault".to_owned(),
        kind: "jar".to_owned(),
        health: ResolverHealth::Ready,
        reason: None,
    };
    Heartbeat {
        version: midward_wire::VERSION,
        incarnation: "i".to_owned(),
        program_version: "0".to_owned(),
        capacity: 8,
        running: 0,
        draining: false,
        resolvers: vec![resolver],
    }
}

fn mid(id: &str) -> MidRow {
    MidRow {
        id: id.to_owned(),
        name: id.to_owned(),
        state: MidState::Validated,
        public_key: String::new(),
        created_at: BEGIN,
        last_seen_at: None,
        heartbeat: None,
        draining: false,
        version: 0,
        incarnation: "i".to_owned(),
        fenced: 0,
        fenced_at: None,
    }
}

async fn given(poll: oneshot::Receiver<Result<Batch, StoreError>>) -> Vec<(String, i64)> {
    let answer = tokio::time::timeout(Duration::from_secs(20), poll).await.expect("somebody wakes it");
    let batch = answer.expect("an answer").expect("a batch");
    batch.leases.iter().map(|lease| (lease.of().0.to_owned(), lease.of().1)).collect()
}

#[tokio::test]
async fn what_is_over_ends_in_several_transactions_that_follow_each_other() {
    let alone = Alone::open(&["a"]).await;
    let database = alone.store.readers();
    alone.submit("r", false).await;
    let same = "connection, config_digest, resolver, mids, state, repeatable, epoch, lease_ms, expires_at, created_at, \
                client_id, fingerprint, method, path, call_json, priority, origin, ordered, limited, not_before, size";
    let copies = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 4999) \
         INSERT INTO requests (id, {same}) SELECT id || n, {same} FROM requests, numbers"
    );
    sqlx::query(sqlx::AssertSqlSafe(copies)).execute(database).await.expect("copied");
    sqlx::query("UPDATE requests SET expires_at = 1").execute(database).await.expect("over");
    alone.clock.advance(Duration::from_secs(1));
    // Times are looked at once, and the clock stands still.
    alone.sweep().await;
    let count = async |sql: &'static str| {
        let row = sqlx::query(sql).fetch_one(database).await.expect("a row");
        sqlx::Row::try_get::<i64, _>(&row, 0).expect("a number")
    };
    let ended = async {
        while count("SELECT COUNT(*) FROM requests WHERE state = 0").await > 0 {
            alone.settled().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("nobody looks again");
    let blocks = count("SELECT COUNT(*) FROM audit_blocks WHERE entries LIKE '%\"ended\"%'").await;
    assert_eq!(blocks, 3, "each transaction writes one");
    alone.close().await;
}

#[tokio::test]
async fn what_is_handed_back_goes_to_who_waits() {
    let alone = Alone::open(&["a", "b"]).await;
    let first = alone.poll("a").await;
    alone.submit("r", false).await;
    assert_eq!(given(first).await, [("r".to_owned(), 1)]);
    let waits = alone.poll("b").await;
    alone.settled().await;
    alone.queue.hand_back("a".to_owned(), vec![("r".to_owned(), 1)]).await.expect("taken back");
    assert_eq!(given(waits).await, [("r".to_owned(), 2)]);
    alone.close().await;
}

/// MID a holds `post`, which may not be repeated, and `get`, which may.
async fn with_two_leases() -> Alone {
    let alone = Alone::open(&["a", "b"]).await;
    alone.submit("post", false).await;
    alone.submit("get", true).await;
    let mut held = given(alone.poll("a").await).await;
    held.sort_unstable();
    assert_eq!(held, [("get".to_owned(), 1), ("post".to_owned(), 1)]);
    alone
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_over_though_its_mid_lives() {
    let alone = with_two_leases().await;
    let waits = alone.poll("b").await;
    alone.pass(59_900, &["a", "b"]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED), "not before");
    alone.pass(300, &["a", "b"]).await;
    assert_eq!(given(waits).await, [("get".to_owned(), 2)]);
    assert_eq!(alone.state("post").await, UNKNOWN);
    alone.close().await;
}

#[tokio::test]
async fn after_a_pause_a_lease_that_is_over_goes_on_for_one_period_of_grace() {
    let alone = with_two_leases().await;
    // Nobody looked, so nobody could report.
    alone.clock.advance(Duration::from_mins(10));
    alone.sweep().await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED));
    alone.pass(29_900, &["a"]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED), "half a minute");
    alone.pass(300, &["a"]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (QUEUED, UNKNOWN), "once");
    alone.close().await;
}

#[tokio::test]
async fn after_a_pause_grace_makes_no_lease_shorter() {
    let alone = with_two_leases().await;
    alone.clock.advance(Duration::from_secs(5));
    alone.pass(54_900, &["a"]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED));
    alone.pass(300, &["a"]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (QUEUED, UNKNOWN));
    alone.close().await;
}

#[tokio::test]
async fn after_a_pause_each_mid_has_its_time_to_be_heard() {
    let alone = with_two_leases().await;
    alone.clock.advance(Duration::from_mins(10));
    alone.sweep().await;
    alone.pass(8000, &[]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED));
    alone.pass(2000, &[]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (QUEUED, UNKNOWN), "it is dead");
    alone.close().await;
}

#[tokio::test]
async fn a_mid_that_was_heard_before_the_clock_was_set_back_is_dead_in_time_all_the_same() {
    let alone = with_two_leases().await;
    alone.clock.set_wall(WallTime::from_unix_millis(BEGIN - 3_600_000));
    alone.sweep().await;
    alone.pass(8000, &[]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (LEASED, LEASED));
    alone.pass(2000, &[]).await;
    assert_eq!((alone.state("get").await, alone.state("post").await), (QUEUED, UNKNOWN));
    alone.close().await;
}
