//! Start, listeners, shutdown.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Random, new_id};
use midward_telemetry::Tracer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::at_rest::{AtRest, EncryptionError, remember_keys};
use crate::audit::Audit;
use crate::auth::{Clients, MidTokens};
use crate::client::{ApiClient, ClientKind, Role};
use crate::config::{InstanceConfig, TlsConfig, TlsMode};
use crate::fleet::Fleet;
use crate::intake::Intakes;
use crate::keys::{self, KeyError, SigningKey};
use crate::listener::Listener;
use crate::mid::pulses::{self, Pulses};
use crate::queue::room::{self, Room};
use crate::queue::{Broken, Job, LeaseSpans, Parts, Queue, Waiters};
use crate::rates::Rates;
use crate::retention;
use crate::routes::Routes;
use crate::stop::{DRAIN, Stop};
use crate::store::{Store, StoreError, api_clients, instance_keys, mids, replicas, settings};
use crate::tls::{self, Tls, TlsError};
use crate::tls_reload::CurrentTls;

/// How often the times of leases and requests are looked at.
const SWEEP: Duration = Duration::from_millis(500);

/// Leases were looked after, or the first key was made, less than this ago, in milliseconds: another replica runs.
const OTHERS_RUN_MS: i64 = 30_000;

/// Where a started instance listens.
#[derive(Clone, Debug)]
pub struct Started {
    pub api_addr: SocketAddr,
    pub call_addr: SocketAddr,
    /// Origin that MIDs are told.
    pub public_url: String,
    /// Origin of synchronous calls.
    pub call_url: String,
    /// PEM of the CA that clients need, unless it is a public one.
    pub ca_path: Option<PathBuf>,
    /// Holds the first administrator's key until it is used.
    pub first_admin_key: Option<PathBuf>,
}

/// Why an instance could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("TLS is off, but {0} is not a loopback address: use tls = \"self_signed\" or files")]
    PlainOffLoopback(SocketAddr),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error("{0} is not the key of the other instances on this database: give this one the same files (store.keys)")]
    OtherKey(PathBuf),
    #[error("{0}")]
    Store(String),
    #[error(
        "the disk under {folder} failed ({reason}); what was acknowledged until then is kept, and nothing after it was \
         acknowledged: free or mend the disk, then start again"
    )]
    Disk { folder: PathBuf, reason: String },
}

impl From<StoreError> for InstanceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<sqlx::Error> for InstanceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Runs an instance until `shutdown` is cancelled; then takes nothing new, lets running calls end, and closes the
/// database. `started` learns the addresses once both listeners are up. Who owns `tracer` has its spans sent.
///
/// # Errors
/// Data folder, keys, certificates, database or addresses cannot be used.
pub async fn run(
    config: InstanceConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tracer: Tracer,
    shutdown: CancellationToken,
    started: oneshot::Sender<Started>,
) -> Result<(), InstanceError> {
    let stop = Stop::asked_by(&shutdown);
    let folder = config.store.path.clone();
    make_folder(&folder)?;
    make_folder(config.store.keys())?;
    let api = listen(config.server.listen, &config).await?;
    let call = listen(config.server.call_listen, &config).await?;
    let (api_addr, call_addr) = (address(&api, config.server.listen)?, address(&call, config.server.call_listen)?);
    let tls = open_tls(&config, &[api_addr, call_addr], &*clock)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let public_url = config.server.public_url.as_deref();
    let public_url =
        public_url.map_or_else(|| format!("{scheme}://{api_addr}"), |url| url.trim_end_matches('/').to_owned());

    let key_file = config.store.keys().join("instance.key");
    let signing_key = SigningKey::open(&key_file, &*random)?;
    let store = Store::open(&config.store).await?;
    let mut tx = store.begin_change().await?;
    let instance_id = settings::find_or_insert(&mut tx, "instance_id", &new_id(clock.wall(), &*random)).await?;
    // MIDs know the instance by it, whichever replica they speak to.
    if settings::find_or_insert(&mut tx, "instance_key", &signing_key.public()).await? != signing_key.public() {
        return Err(InstanceError::OtherKey(key_file));
    }
    let at_rest = Arc::new(AtRest::open(&config.encryption, &instance_id, Arc::clone(&random))?);
    let now = store.now(&mut tx, clock.wall().unix_millis()).await?;
    remember_keys(&mut tx, &at_rest, now, retention::gone_before(&config.retention, now)).await??;
    instance_keys::publish(&mut *tx, &signing_key.id(), &signing_key.public(), clock.wall().unix_millis()).await?;
    tx.commit().await?;
    let first_admin_file = folder.join("first-admin-key");
    let waiting_key = first_admin(&store, &first_admin_file, &*clock, &*random).await?;
    let fleet = Arc::new(load_fleet(&store, &*clock).await?);
    let waiters = Arc::new(Waiters::default());
    let broken = Arc::new(Broken::default());
    let (audit, journal, outcomes) = Audit::begin(&store, &signing_key, &*clock, &*random).await?;
    let counters = journal.counters();
    let room = Arc::new(Room::new(&config.limits));
    room.count(&store).await?;
    let (queue, writer) = Queue::start(Parts {
        store: store.clone(),
        fleet: Arc::clone(&fleet),
        waiters: Arc::clone(&waiters),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        journal,
        outcomes,
        at_rest: Arc::clone(&at_rest),
        broken: Arc::clone(&broken),
        replica: new_id(clock.wall(), &*random),
        spans: Arc::new(LeaseSpans::new(tracer.clone())),
        room: Arc::clone(&room),
    });
    let app = Arc::new(App {
        clock,
        random,
        store: store.clone(),
        fleet,
        routes: Routes::default(),
        queue: queue.clone(),
        room,
        waiters: Arc::clone(&waiters),
        at_rest,
        broken: Arc::clone(&broken),
        audit,
        clients: Clients::default(),
        counters,
        tracer,
        rates: Rates::new(config.limits.requests_per_second),
        intakes: Intakes::new(config.limits.bodies_in_memory_bytes),
        pulses: Pulses::default(),
        mid_tokens: MidTokens::default(),
        signing_key,
        instance_id,
        public_url: public_url.clone(),
        ca_pem: tls.as_ref().and_then(|tls| tls.ca_pem.clone()),
        limits: config.limits.clone(),
        retention: config.retention.clone(),
        first_admin_file: first_admin_file.clone(),
        stop: stop.clone(),
    });

    let notice = Started {
        api_addr,
        call_addr,
        public_url,
        call_url: format!("{scheme}://{call_addr}"),
        ca_path: tls.as_ref().and_then(|tls| tls.ca_path.clone()),
        first_admin_key: waiting_key.then_some(first_admin_file),
    };
    let listen_file = folder.join("listen.json");
    write_notice(&listen_file, &notice)?;
    let acceptor = tls.as_ref().map(CurrentTls::new);
    let tracker = TaskTracker::new();
    if let Some((current, files)) = acceptor.clone().zip(tls.and_then(|tls| tls.files)) {
        tracker.spawn(current.follow(files, stop.closing.clone()));
    }
    let both =
        [(api, crate::api::router(Arc::clone(&app)), true), (call, crate::api::call::router(Arc::clone(&app)), false)];
    for (socket, router, mids_come) in both {
        let (most, tls) = (config.limits.connections, acceptor.clone());
        let listener = Listener::new(router, most, mids_come, tls, tracker.clone(), stop.clone());
        tracker.spawn(listener.run(socket));
    }
    tracker.spawn(sweep(queue.clone(), stop.closing.clone()));
    let (counting, closing) = (Arc::clone(&app), stop.closing.clone());
    tracker.spawn(async move { room::follow(&counting, &closing).await });
    tracker.spawn(pulses::run(Arc::clone(&app), stop.closing.clone()));
    let (failed, mut failure) = oneshot::channel();
    tracker.spawn(crate::replica::follow(Arc::clone(&app), config.store.postgres.clone(), failed));
    tracker.spawn(retention::run(Arc::clone(&app), stop.stopping.clone()));
    tracker.spawn(crate::audit::run(
        Arc::clone(&app),
        Duration::from_secs(config.audit.checkpoint_seconds.max(1).into()),
        Duration::from_hours(24 * u64::from(config.audit.keep_days)),
        stop.closing.clone(),
    ));
    let key = app.at_rest.current().unwrap_or("none");
    tracing::info!(key, "calls and answers are encrypted in the database with this key");
    tracing::info!(api = %api_addr, calls = %call_addr, "the instance is ready");
    // The one who started it may not want to know.
    let _ = started.send(notice);

    tokio::select! {
        () = stop.leaving.cancelled() => {}
        // Whose call runs still gets its answer.
        () = broken.said() => drop(tokio::time::timeout(DRAIN, waiters.none()).await),
    }
    stop.step_by_step(Duration::from_secs(config.server.leave_seconds.into()), &waiters).await;
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    drop((app, queue));
    if tokio::time::timeout(DRAIN, writer).await.is_err() {
        tracing::warn!("the writer did not end in time");
    }
    store.close().await;
    if let Err(error) = std::fs::remove_file(&listen_file) {
        tracing::warn!(%error, "listen.json stays behind");
    }
    match broken.error() {
        Some(error) => Err(InstanceError::Disk { folder, reason: error.to_string() }),
        None => failure.try_recv().map_or(Ok(()), |error| Err(error.into())),
    }
}

fn make_folder(folder: &std::path::Path) -> Result<(), InstanceError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| InstanceError::Io { path: folder.to_owned(), source })
}

async fn listen(address: SocketAddr, config: &InstanceConfig) -> Result<TcpListener, InstanceError> {
    if matches!(config.server.tls, TlsConfig::Mode(TlsMode::Off)) && !address.ip().is_loopback() {
        return Err(InstanceError::PlainOffLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| InstanceError::Listen { address, source })
}

fn address(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, InstanceError> {
    listener.local_addr().map_err(|source| InstanceError::Listen { address: asked, source })
}

fn open_tls(
    config: &InstanceConfig,
    addresses: &[SocketAddr],
    clock: &dyn Clock,
) -> Result<Option<Tls>, InstanceError> {
    match &config.server.tls {
        TlsConfig::Mode(TlsMode::Off) => Ok(None),
        TlsConfig::Mode(TlsMode::SelfSigned) => {
            let ips: Vec<_> = addresses.iter().map(SocketAddr::ip).collect();
            let hosts = tls::hosts(&ips, config.server.public_url.as_deref());
            Ok(Some(tls::self_signed(config.store.keys(), &hosts, clock.wall())?))
        }
        TlsConfig::Files(files) => Ok(Some(tls::from_files(files)?)),
    }
}

async fn load_fleet(store: &Store, clock: &dyn Clock) -> Result<Fleet, InstanceError> {
    let fleet = Fleet::default();
    let mut tx = store.readers().begin().await?;
    let now = store.now(&mut tx, clock.wall().unix_millis()).await?;
    for row in mids::all(&mut *tx).await? {
        fleet.add(row, clock.boot(), now);
    }
    Ok(fleet)
}

/// Makes the first administrator's key when there is no key at all. True when its file waits to be used.
async fn first_admin(
    store: &Store,
    file: &std::path::Path,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<bool, InstanceError> {
    // Replicas that start at once take turns here.
    let mut tx = store.begin_change().await?;
    let all = api_clients::all(&mut *tx).await?;
    let unused = all.iter().find(|key| key.first_admin);
    if !all.is_empty() && (unused.is_none() || file.exists()) {
        return Ok(unused.is_some());
    }
    let now = store.now(&mut tx, clock.wall().unix_millis()).await?;
    if let Some(key) = unused.filter(|_| store.is_shared()) {
        let heard_ago = replicas::last_turn_ago(&mut tx, now).await?.min(now.saturating_sub(key.created_at));
        if heard_ago < OTHERS_RUN_MS {
            // Another replica, which runs or has just started, keeps the file.
            return Ok(false);
        }
    }
    let secret = keys::new_secret(ClientKind::ApiKey.secret_prefix(), random);
    // Its file got lost before it was used.
    if let Some(lost) = unused {
        api_clients::delete(&mut *tx, lost.kind, &lost.name).await?;
    }
    let key = ApiClient {
        id: new_id(clock.wall(), random),
        kind: ClientKind::ApiKey,
        name: "first-admin".to_owned(),
        role: Role::Administrator,
        connections: Vec::new(),
        prefix: secret.chars().take(10).collect(),
        first_admin: true,
        created_at: now,
        expires_at: None,
        previous_expires_at: None,
        requests_per_second: None,
    };
    keys::write_private(file, secret.as_bytes())?;
    api_clients::insert(&mut *tx, &key, &keys::hash_text(&keys::hash(&secret))).await?;
    tx.commit().await?;
    Ok(true)
}

fn write_notice(path: &std::path::Path, started: &Started) -> Result<(), InstanceError> {
    let notice = serde_json::json!({
        "api_addr": started.api_addr,
        "call_addr": started.call_addr,
        "public_url": started.public_url,
        "call_url": started.call_url,
        "ca": started.ca_path,
    });
    // Whoever waits for the file never sees half of it.
    let new = path.with_extension("json.new");
    std::fs::write(&new, notice.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| InstanceError::Io { path: path.to_owned(), source })
}

async fn sweep(queue: Queue, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => if queue.send(Job::Sweep).await.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}
