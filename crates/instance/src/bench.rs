//! The queue by itself, for `make bench-queue`: everything between a submission that was checked and an outcome that is
//! on disk, with nothing of HTTP around it.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Random, SystemClock, SystemRandom, new_id};
use midward_telemetry::Tracer;
use midward_wire::{ApiReply, Bytes64, Heartbeat, MidState, Outcome, ResolverHealth, ResolverStatus};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::at_rest::{AtRest, Part};
use crate::audit::{Audit, Journal};
use crate::config::{EncryptionConfig, LimitsConfig, StoreConfig};
use crate::fleet::Fleet;
use crate::keys::SigningKey;
use crate::queue::room::Room;
use crate::queue::{Broken, Job, LeaseSpans, Parts, Poll, Queue, Report, Submitted, Waiters, Wants};
use crate::routes::Route;
use crate::server::InstanceError;
use crate::store::incarnations;
use crate::store::mids::{self, MidRow};
use crate::store::outcomes::Finish;
use crate::store::requests::{NewRequest, REPLIED};
use crate::store::{Store, StoreError, to_json};

const RESOLVER: &str = "vault";
const INCARNATION: &str = "0123456789abcdef0123456789abcdef";
const PATH: &str = "/v1/contacts?fields=name";
const CALL: &str = r#"{"method":"POST","path":"/v1/contacts?fields=name","headers":[["content-type","application/json"],["accept","application/json"]],"body":"eyJuYW1lIjoiQWRhIExvdmVsYWNlIiwibWFpbCI6ImFkYUBleGFtcGxlLm9yZyIsInRhZ3MiOlsibmV3Il19","replay":"by_method"}"#;
/// Requests that a MID takes at once.
const CAPACITY: u32 = 64;
/// As the server's.
const SWEEP: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_secs(3);

/// A queue on a database, with MIDs that answer at once.
#[derive(Debug)]
pub struct QueueAlone {
    store: Store,
    queue: Queue,
    waiters: Arc<Waiters>,
    fleet: Arc<Fleet>,
    route: Arc<Route>,
    at_rest: Arc<AtRest>,
    mids: Vec<String>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), StoreError>>,
    writer: JoinHandle<()>,
}

impl QueueAlone {
    /// Opens the database, which must have been opened before or be empty, and starts the MIDs.
    ///
    /// # Errors
    /// The database does not do it.
    pub async fn open(config: &StoreConfig, mids: usize, with_audit: bool) -> Result<Self, InstanceError> {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let store = Store::open(config).await?;
        let key = SigningKey::open(&config.path.join("instance.key"), &*random)?;
        let (_, mut journal, mut outcomes) = Audit::begin(&store, &key, &*clock, &*random).await?;
        if !with_audit {
            outcomes = outcomes.map(|_| Journal::without_audit());
            journal = Journal::without_audit();
        }
        let fleet = Arc::new(Fleet::default());
        let mut ids = Vec::with_capacity(mids);
        for _ in 0..mids {
            ids.push(new_mid(&store, &fleet).await?);
        }
        let waiters = Arc::new(Waiters::default());
        let encryption = EncryptionConfig::default();
        let at_rest = AtRest::open(&encryption, "bench", Arc::new(SystemRandom)).map_err(InstanceError::from)?;
        let at_rest = Arc::new(at_rest);
        let (queue, writer) = Queue::start(Parts {
            store: store.clone(),
            fleet: Arc::clone(&fleet),
            waiters: Arc::clone(&waiters),
            clock,
            random,
            journal,
            outcomes,
            at_rest: Arc::clone(&at_rest),
            broken: Arc::new(Broken::default()),
            replica: new_id(SystemClock.wall(), &SystemRandom),
            spans: Arc::new(LeaseSpans::new(Tracer::off())),
            room: Arc::new(Room::new(&LimitsConfig::default())),
        });
        let mut alone = Self {
            store,
            queue,
            waiters,
            fleet,
            route: Arc::new(Route::plain("crm", RESOLVER)),
            at_rest,
            mids: ids,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            writer,
        };
        alone.start();
        Ok(alone)
    }

    /// Submits a request and waits until its outcome is on disk.
    ///
    /// # Errors
    /// The database failed.
    pub async fn request(&self) -> Result<(), InstanceError> {
        let id = new_id(SystemClock.wall(), &SystemRandom);
        let waiting = self.waiters.wait(&id, Wants::Record);
        let now = SystemClock.wall().unix_millis();
        let submitted =
            self.queue.submit(Arc::clone(&self.route), request(&id, &self.route, &self.at_rest, now)?).await?;
        if submitted != Submitted::New(id) {
            return Err(StoreError::Corrupt("a new request was there before".to_owned()).into());
        }
        let mut waiting = waiting;
        (&mut waiting.word).await.map_err(|_| StoreError::Stopped)?;
        Ok(())
    }

    /// Ends MIDs and queue, and closes the database.
    ///
    /// # Errors
    /// A part of it failed meanwhile.
    pub async fn close(mut self) -> Result<(), InstanceError> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| StoreError::Corrupt(error.to_string()))??;
        }
        drop(self.queue);
        self.writer.await.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        self.store.close().await;
        Ok(())
    }

    fn start(&mut self) {
        for mid_id in &self.mids {
            let at_rest = Arc::clone(&self.at_rest);
            self.tasks.spawn(work(self.queue.clone(), at_rest, mid_id.clone(), self.stop.clone()));
        }
        self.tasks.spawn(sweep(self.queue.clone(), self.stop.clone()));
        let (store, fleet) = (self.store.clone(), Arc::clone(&self.fleet));
        self.tasks.spawn(beat(store, fleet, self.mids.clone(), self.stop.clone()));
    }
}

/// A MID: polls, and reports what it was given.
async fn work(queue: Queue, at_rest: Arc<AtRest>, mid_id: String, stop: CancellationToken) -> Result<(), StoreError> {
    let outcome = Arc::new(Outcome::Replied {
        reply: ApiReply {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: Bytes64(vec![b'x'; 64]),
        },
    });
    let text = Arc::new(to_json(&*outcome)?);
    let trace = r#"[{"hop":"mid","what":"token from the cache","micros":12},{"hop":"api","what":"GET answered 200","micros":812}]"#;
    let mut reports = JoinSet::new();
    let mut received = 0;
    loop {
        let (reply, answer) = oneshot::channel();
        let poll = Poll {
            mid_id: mid_id.clone(),
            incarnation: INCARNATION.to_owned(),
            capacity: CAPACITY,
            received_batch: received,
            arrived: SystemClock.boot(),
            reply,
        };
        queue.send(Job::Poll(poll)).await?;
        let batch = tokio::select! {
            batch = answer => batch.map_err(|_| StoreError::Stopped)??,
            () = stop.cancelled() => break,
        };
        received = batch.number;
        let finish = |(id, epoch): (&str, i64)| {
            let finish = Finish {
                id: id.to_owned(),
                epoch,
                state: REPLIED,
                kept: at_rest.keep(id, Part::Outcome(epoch), &text)?,
                reduced: crate::at_rest::reduced(&outcome)?,
                outcome: Arc::clone(&text),
                trace: trace.to_owned(),
            };
            Ok(Report { finish, outcome: Arc::clone(&outcome) })
        };
        let batch = batch.leases.iter().map(|lease| finish(lease.of())).collect::<Result<Vec<_>, StoreError>>()?;
        let (queue, mid_id) = (queue.clone(), mid_id.clone());
        reports.spawn(async move { queue.outcomes(mid_id, batch).await });
        while let Some(reported) = reports.try_join_next() {
            reported.map_err(|error| StoreError::Corrupt(error.to_string()))??;
        }
    }
    Ok(())
}

async fn sweep(queue: Queue, stop: CancellationToken) -> Result<(), StoreError> {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => queue.send(Job::Sweep).await?,
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn beat(store: Store, fleet: Arc<Fleet>, mids: Vec<String>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        for mid_id in &mids {
            heartbeat(&store, &fleet, mid_id).await?;
        }
    }
}

async fn new_mid(store: &Store, fleet: &Fleet) -> Result<String, StoreError> {
    let random: &dyn Random = &SystemRandom;
    let id = new_id(SystemClock.wall(), random);
    let row = MidRow {
        name: id.clone(),
        id: id.clone(),
        state: MidState::Validated,
        public_key: String::new(),
        created_at: SystemClock.wall().unix_millis(),
        last_seen_at: None,
        heartbeat: None,
        draining: false,
        version: 0,
        incarnation: INCARNATION.to_owned(),
        fenced: 0,
        fenced_at: None,
    };
    let mut tx = store.begin().await?;
    mids::insert(&mut *tx, &row).await?;
    incarnations::speak(&mut tx, &id, INCARNATION, 0).await?;
    let now = store.now(&mut tx, SystemClock.wall().unix_millis()).await?;
    tx.commit().await?;
    fleet.add(row, SystemClock.boot(), now);
    heartbeat(store, fleet, &id).await?;
    Ok(id)
}

async fn heartbeat(store: &Store, fleet: &Fleet, mid_id: &str) -> Result<(), StoreError> {
    let resolver = ResolverStatus {
        name: RESOLVER.to_owned(),
        kind: "jar".to_owned(),
        health: ResolverHealth::Ready,
        reason: None,
    };
    let heartbeat = Heartbeat {
        version: midward_wire::VERSION,
        incarnation: INCARNATION.to_owned(),
        program_version: "0".to_owned(),
        capacity: CAPACITY,
        running: 0,
        draining: false,
        resolvers: vec![resolver],
    };
    let mut tx = store.begin().await?;
    let now = store.now(&mut tx, SystemClock.wall().unix_millis()).await?;
    let version = mids::seen(&mut *tx, mid_id, now, &heartbeat).await?;
    tx.commit().await?;
    fleet.heartbeat(mid_id, SystemClock.boot(), now, heartbeat, version);
    Ok(())
}

fn request(id: &str, route: &Route, at_rest: &AtRest, now: i64) -> Result<NewRequest, StoreError> {
    let call = Arc::new(CALL.to_owned());
    let kept = at_rest.keep(id, Part::Call, &call)?;
    let path_kept = at_rest.keep_path(id, PATH)?;
    Ok(NewRequest {
        config_digest: route.digest.0.clone(),
        resolver: route.resolver.clone(),
        client_id: "00000000000000000000000000000001".to_owned(),
        path: PATH.to_owned(),
        path_kept,
        ..NewRequest::plain(id, &route.alias, (call, kept), now, SystemClock.boot())
    })
}
