//! Keeps one warm host per resolver: starts it, replaces it when the JAR changed or the host is worn, and restarts it
//! with back-off after a crash.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use midward_core::{Backoff, BootTime, Clock, Failure, Hop, Random};
use tokio::sync::Mutex;

use super::answer::{crashed, internal, unusable};
use super::host::{End, Host, StartError};
use super::launch::Launch;
use super::store::{JarDigest, JarStore, Mark, Staged};
use crate::cloud::misconfigured;
use crate::cyberark::{Verdict, VersionCheck};
use crate::frame::{Frame, FrameKind};
use crate::{ResolverReport, RunAs, run_as};

/// Longest start of a JVM together with loading the JAR and its `config()`.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a JAR that could not be used is left alone, unless it changes.
const VERDICT_LIFETIME: Duration = Duration::from_secs(30);
/// How long the end of a process that nobody uses any more is waited for.
const GONE_LIMIT: Duration = Duration::from_secs(2);
const FIRST_RESTART: Duration = Duration::from_millis(100);
const LAST_RESTART: Duration = Duration::from_secs(30);

pub(super) struct Supervisor {
    parts: Parts,
    state: Mutex<State>,
    report: StdMutex<ResolverReport>,
    /// What the control group lacks.
    note: StdMutex<Option<String>>,
}

struct State {
    current: Option<(Arc<Host>, Mark)>,
    /// Digest of the copy that was loaded last; a host that is being replaced may still read it.
    loaded: Option<String>,
    backoff: Backoff,
    not_before: Option<BootTime>,
    verdict: Option<(Option<Mark>, BootTime, Failure)>,
    /// What may be wrong with the JAR that is loaded.
    doubt: Option<String>,
    closed: bool,
}

/// What [`Supervisor::new`] needs.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) launch: Launch,
    pub(super) store: JarStore,
    pub(super) pin: Option<JarDigest>,
    /// Whether the JAR's version is that of what it talks to.
    pub(super) versions: Option<VersionCheck>,
    pub(super) jar_host_dir: PathBuf,
    pub(super) configuration: Frame,
    pub(super) max_calls: u64,
    pub(super) max_resident_mib: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
}

impl Supervisor {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            state: Mutex::new(State {
                current: None,
                loaded: None,
                backoff: Backoff::new(FIRST_RESTART, LAST_RESTART),
                not_before: None,
                verdict: None,
                doubt: None,
                closed: false,
            }),
            report: StdMutex::new(ResolverReport::Degraded("not started yet".to_owned())),
            note: StdMutex::default(),
        }
    }

    pub(super) fn report(&self) -> ResolverReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self) -> Option<String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The host for the JAR as it is now. Starts one when needed, which may outlast `patience`; a back-off that would
    /// is an error at once.
    pub(super) async fn host(&self, patience: Duration) -> Result<Arc<Host>, Failure> {
        // Held while a host starts: whoever asks meanwhile needs that very host.
        let mut state = self.state.lock().await;
        let outcome = self.host_locked(&mut state, patience).await;
        let report = match &outcome {
            Ok(_) => state.doubt.clone().map_or(ResolverReport::Ready, ResolverReport::Degraded),
            Err(failure) if failure.persistence == midward_core::Persistence::Permanent => {
                ResolverReport::Unusable(failure.detail.clone())
            }
            Err(failure) => ResolverReport::Degraded(failure.detail.clone()),
        };
        self.set_report(report);
        outcome
    }

    async fn host_locked(&self, state: &mut State, patience: Duration) -> Result<Arc<Host>, Failure> {
        if state.closed {
            return Err(Failure::transient(
                Hop::Resolver,
                "resolver_stopped",
                "the MID is shutting down",
                "Send the request again; another MID takes it.",
            ));
        }
        let store = self.parts.store.clone();
        let mark = blocking(move || store.mark()).await;
        let known = mark.as_ref().ok();
        if let Some((judged, at, failure)) = &state.verdict
            && judged.as_ref() == known
            && self.parts.clock.boot().saturating_since(*at) < VERDICT_LIFETIME
        {
            return Err(failure.clone());
        }
        state.verdict = None;
        if let Some((host, loaded)) = &state.current {
            let same = known == Some(loaded);
            match host.end() {
                None if same && !host.is_worn(self.parts.max_calls, self.parts.max_resident_mib) => {
                    return Ok(Arc::clone(host));
                }
                // Calls that still run on it keep it alive until they are done.
                None if same => tracing::debug!(resolver = %self.parts.name, "replacing a worn JAR host"),
                None => tracing::info!(resolver = %self.parts.name, "the resolver's JAR changed: loading it"),
                Some(end) => self.back_off(state, &end),
            }
            state.current = None;
        }
        let mark = match mark {
            Ok(mark) => mark,
            Err(error) => return Err(self.judge(state, None, file_failure(&error))),
        };
        self.wait(state, patience).await?;
        let store = self.parts.store.clone();
        let staged = match blocking(move || store.stage()).await {
            Ok(staged) => staged,
            Err(error) => return Err(self.judge(state, Some(mark), file_failure(&error))),
        };
        // The copy is what was hashed and what would be loaded: the file itself may change at any time.
        if self.parts.pin.as_ref().is_some_and(|pin| pin.as_str() != staged.digest) {
            return Err(self.judge(state, Some(mark), unusable("jar_pin_mismatch", Some(&staged.digest))));
        }
        if let Err(failure) = self.prepare(state, &staged).await {
            return Err(self.judge(state, Some(mark), failure));
        }
        let configuration = self.configure(&staged).await.map_err(|e| file_failure(&e))?;
        let before = self.parts.clock.boot();
        match Host::start(&self.parts.launch, staged.folder.clone(), &configuration, START_LIMIT).await {
            Ok(host) => {
                tracing::info!(
                    resolver = %self.parts.name,
                    generation = %host.generation,
                    version = host.version.as_deref().unwrap_or("unknown"),
                    digest = %&staged.digest[..12],
                    sandbox = ?self.parts.launch.sandbox.mode,
                    millis = u64::try_from(self.parts.clock.boot().saturating_since(before).as_millis()).unwrap_or(u64::MAX),
                    "resolver ready"
                );
                match self.compare_versions(host.version.clone()).await {
                    Verdict::Fits => state.doubt = None,
                    Verdict::Doubtful(why) => state.doubt = Some(why),
                    Verdict::Refused(why) => return Err(self.judge(state, Some(mark), version_mismatch(&why))),
                }
                let host = Arc::new(host);
                state.current = Some((Arc::clone(&host), mark));
                Ok(host)
            }
            Err(StartError::Unusable { code, what }) => {
                Err(self.judge(state, Some(mark), unusable(&code, what.as_deref())))
            }
            Err(StartError::Refused(failure)) => Err(self.judge(state, Some(mark), failure)),
            Err(StartError::Io(error)) => Err(self.judge(state, Some(mark), jvm_missing(error.kind()))),
            Err(StartError::TimedOut) => {
                self.back_off(state, &End::Overdue);
                Err(Failure::transient(
                    Hop::Resolver,
                    "resolver_start_timeout",
                    "the resolver did not get ready within 20 s",
                    "Check what the JAR does in its constructor and config().",
                ))
            }
            Err(StartError::Ended(end)) => {
                self.back_off(state, &end);
                Err(crashed(&end))
            }
        }
    }

    async fn compare_versions(&self, jar: Option<String>) -> Verdict {
        let Some(check) = self.parts.versions.clone() else { return Verdict::Fits };
        let judged = blocking(move || Ok(check.judge(jar.as_deref()))).await;
        judged.unwrap_or(Verdict::Fits)
    }

    /// Ends the host and starts none any more.
    pub(super) async fn shut_down(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        let gone = state.current.take().map(|(host, _)| host.gone());
        self.set_report(ResolverReport::Degraded("stopped".to_owned()));
        if let Some(gone) = gone
            && tokio::time::timeout(GONE_LIMIT, gone).await.is_err()
        {
            tracing::debug!(resolver = %self.parts.name, "its process is used still");
        }
    }

    fn set_report(&self, report: ResolverReport) {
        let mut shown = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != report {
            if let ResolverReport::Unusable(detail) | ResolverReport::Degraded(detail) = &report {
                tracing::warn!(resolver = %self.parts.name, "Problem with client's CredentialResolver: {detail}");
            }
            *shown = report;
        }
    }

    fn judge(&self, state: &mut State, mark: Option<Mark>, failure: Failure) -> Failure {
        state.verdict = Some((mark, self.parts.clock.boot(), failure.clone()));
        failure
    }

    fn back_off(&self, state: &mut State, end: &End) {
        if *end == End::Dropped {
            return;
        }
        if state.current.as_ref().is_some_and(|(host, _)| host.has_answered()) {
            state.backoff.reset();
        }
        let wait = state.backoff.next_wait(&*self.parts.random);
        tracing::warn!(
            resolver = %self.parts.name,
            ?end,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "Problem with client's CredentialResolver: its process ended; it is started again"
        );
        state.not_before = Some(self.parts.clock.boot() + wait);
    }

    async fn wait(&self, state: &mut State, patience: Duration) -> Result<(), Failure> {
        let Some(not_before) = state.not_before else { return Ok(()) };
        let wait = not_before.saturating_since(self.parts.clock.boot());
        if wait >= patience {
            return Err(Failure::transient(
                Hop::Resolver,
                "resolver_restarting",
                format!("the resolver's process ended and is started again in {} ms", wait.as_millis()),
                "Nothing to do unless it lasts; then look for crashes of the JAR in the MID's log.",
            ));
        }
        tokio::time::sleep(wait).await;
        state.not_before = None;
        Ok(())
    }

    /// Whether the process gets the control group that it must have. What it lacks otherwise is noted.
    async fn check_groups(&self) -> Result<(), Failure> {
        let groups = self.parts.launch.groups.clone();
        let note = blocking(move || Ok(groups.check())).await.map_err(|error| file_failure(&error))??;
        let mut noted = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        if *noted != note {
            if let Some(note) = &note {
                tracing::info!(resolver = %self.parts.name, "{note}");
            }
            *noted = note;
        }
        Ok(())
    }

    /// Checks what would only show as a process that ends at once, and removes copies that nobody reads any more.
    async fn prepare(&self, state: &mut State, staged: &Staged) -> Result<(), Failure> {
        if self.parts.launch.sandbox.relative_path().is_some() {
            return Err(unusable("sandbox_path_relative", None));
        }
        if self.parts.launch.mixes_networks() {
            return Err(unusable("connect_mixed", None));
        }
        if let Some(run_as) = self.parts.launch.run_as.clone() {
            let (ours, host) = (self.parts.store.state_dir.clone(), self.parts.jar_host_dir.clone());
            blocking(move || Ok(may_run_as(&run_as, &ours, &host))).await.map_err(|error| file_failure(&error))??;
        }
        self.check_groups().await?;
        let previous = state.loaded.replace(staged.digest.clone());
        let keep: Vec<String> = previous.into_iter().chain([staged.digest.clone()]).collect();
        let (store, java, host_jar) =
            (self.parts.store.clone(), self.parts.launch.java.clone(), self.parts.launch.host_jar.clone());
        let check = move || {
            let ours = std::fs::metadata(host_jar).map(drop);
            Ok((std::fs::metadata(java).map(drop), ours, store.prune(&keep)))
        };
        let (java, ours, pruned) = blocking(check).await.map_err(|error| file_failure(&error))?;
        if let Err(error) = pruned {
            tracing::warn!(resolver = %self.parts.name, %error, "old copies of the JAR could not be removed");
        }
        java.map_err(|error| jvm_missing(error.kind()))?;
        ours.map_err(|_| {
            let action = "Put midward-jar-host.jar and midward-mid-classes.jar into the MID's JAR host folder.";
            Failure::permanent(Hop::Mid, "jar_host_missing", "midward-jar-host.jar is not where it should be", action)
        })
    }

    async fn configure(&self, staged: &Staged) -> io::Result<Frame> {
        debug_assert_eq!(self.parts.configuration.kind, FrameKind::Configure);
        let folder = self.parts.jar_host_dir.clone();
        let ours = blocking(move || our_jars(&folder)).await?;
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut frame = self.parts.configuration.clone().with("jar", path(&staged.jar));
        for (index, library) in staged.libraries.iter().enumerate() {
            frame = frame.with(format!("lib.{index}"), path(library));
        }
        for (index, jar) in ours.iter().enumerate() {
            frame = frame.with(format!("mid.{index}"), path(jar));
        }
        Ok(frame)
    }
}

/// Another user must reach what lies in our folders. Blocks.
fn may_run_as(run_as: &RunAs, ours: &Path, host: &Path) -> Result<(), Failure> {
    run_as.user()?;
    // The resolver's own folder is opened when it is used.
    for folder in ours.parent().into_iter().chain([host]) {
        if !run_as::is_open(folder).is_ok_and(|open| open) {
            let why =
                "run_as: its user cannot reach the MID's state folder or the JAR host's: chmod 711 the folders above";
            return Err(misconfigured(why));
        }
    }
    Ok(())
}

fn our_jars(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = std::path::absolute(folder)?;
    let mut libraries = Vec::new();
    let shared = folder.join("lib");
    if shared.is_dir() {
        for entry in std::fs::read_dir(shared)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jar") {
                libraries.push(path);
            }
        }
    }
    libraries.sort();
    Ok(std::iter::once(folder.join("midward-mid-classes.jar")).chain(libraries).collect())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn version_mismatch(why: &str) -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "sdk_version_mismatch",
        format!("this JavaPasswordSDK.jar is not the AIM client's: {why}"),
        "Use the JAR from the installation folder of the AIM client on this host, or correct `aim_version`.",
    )
}

fn jvm_missing(kind: io::ErrorKind) -> Failure {
    let detail = format!("the JVM could not be started: {kind}");
    let action = "Check that Java 11 or later is installed and that the resolver's `java` names it.";
    Failure::permanent(Hop::Resolver, "jvm_missing", detail, action)
}

fn file_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => unusable("jar_missing", None),
        io::ErrorKind::PermissionDenied => unusable("jar_unreadable", None),
        io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => unusable("not_a_jar", None),
        kind => internal(&format!("the JAR could not be copied to the state folder: {kind}")),
    }
}
