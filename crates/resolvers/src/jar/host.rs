//! One JVM process: calls in, answers out, side by side; and its end.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use midward_core::Failure;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::{Zeroize as _, Zeroizing};

use super::launch::{Launch, Launched};
use super::sandbox::Missing;
use crate::cgroup::{Group, HeldGroup, Limits};
use crate::frame::{Frame, FrameError, FrameKind};

/// How long frames that a dead host left in the pipe are read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A running host. Dropped with its last user, and the process group with it.
#[derive(Debug)]
pub(super) struct Host {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Zeroizing<Vec<u8>>>,
    kill: watch::Sender<Option<End>>,
    next_call: AtomicU64,
    /// `interface`, `legacy` or `cyberark_sdk`.
    pub(super) generation: String,
    /// What the JAR says its version is.
    pub(super) version: Option<String>,
    /// Closed when nothing is left of the process, and of what it started.
    gone: watch::Receiver<()>,
}

/// Why a host ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this exit status.
    Crashed(String),
    /// The kernel ended it, because its control group's memory was used up.
    OverMemory(Limits),
    /// We ended it, because a call on it took too long.
    Overdue,
    /// We ended it, because it wrote something that is no frame.
    Broken,
    /// We ended it, because nobody needs it.
    Dropped,
}

/// A call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// This call took too long; the host was ended.
    TimedOut,
    HostEnded(End),
    Frame(FrameError),
}

/// A start that gave no host.
#[derive(Debug)]
pub(super) enum StartError {
    /// The host runs but cannot use the JAR: a stable code, and the class or method it is about.
    Unusable {
        code: String,
        what: Option<String>,
    },
    /// It was not even tried.
    Refused(Failure),
    Io(io::Error),
    TimedOut,
    Ended(End),
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    calls: Mutex<Calls>,
    recycle: AtomicBool,
    answered: AtomicBool,
}

#[derive(Debug, Default)]
struct Calls {
    end: Option<End>,
    waiting: HashMap<u64, oneshot::Sender<Result<Frame, End>>>,
}

impl Host {
    /// Starts a process and hands it its configuration; waits at most `limit` until it says what it loaded.
    pub(super) async fn start(
        launch: &Launch,
        folder: std::path::PathBuf,
        configuration: &Frame,
        limit: Duration,
    ) -> Result<Self, StartError> {
        tokio::time::timeout(limit, Self::handshake(launch, folder, configuration))
            .await
            .map_err(|_| StartError::TimedOut)?
    }

    async fn handshake(launch: &Launch, folder: std::path::PathBuf, configuration: &Frame) -> Result<Self, StartError> {
        let groups = launch.groups.clone();
        let made = tokio::task::spawn_blocking(move || groups.make()).await;
        let made = made.map_err(|error| StartError::Io(io::Error::other(error)))?;
        let group = HeldGroup::new(made.map_err(StartError::Refused)?);
        let started = launch.start(folder, group.group()).await;
        let Launched { mut child, to_host: mut pipe_in, from_host, scratch, forwards } =
            started.map_err(StartError::Io)?;
        let group = group.into_group().map(Arc::new);
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| StartError::Io(io::Error::other("the process has no id")))?;
        drain(child.stdout.take(), "stdout");
        drain(child.stderr.take(), "stderr");
        let shared = Arc::new(Shared {
            pid,
            calls: Mutex::default(),
            recycle: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        });
        let (first, ready) = oneshot::channel();
        let (kill, killed) = watch::channel(None);
        let exited = watch_exit(pid).map_err(StartError::Io)?;
        let driven = drive(child, from_host, Arc::clone(&shared), first, killed, exited, group.clone());
        let (left, gone) = watch::channel(());
        tokio::spawn(async move {
            driven.await;
            drop(forwards);
            // Both block.
            tokio::task::spawn_blocking(move || drop((group, scratch, left)));
        });
        let (outgoing, mut queue) = mpsc::channel::<Zeroizing<Vec<u8>>>(64);
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                // A broken pipe means that the host ended: the reading side finds out and says how.
                if pipe_in.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let encoded = configuration.encode().map_err(|e| StartError::Io(io::Error::other(e)))?;
        // A closed channel, again, means that the host ended.
        let _ = outgoing.send(encoded).await;
        let host = |generation, version| Self {
            shared: Arc::clone(&shared),
            outgoing,
            kill,
            next_call: AtomicU64::new(1),
            generation,
            version,
            gone,
        };
        let text = |frame: &Frame, key| frame.text(key).map(str::to_owned);
        match ready.await {
            Ok(frame) if frame.kind == FrameKind::Ready => {
                Ok(host(text(&frame, "generation").unwrap_or_default(), text(&frame, "version")))
            }
            Ok(frame) if frame.kind == FrameKind::Unusable => Err(StartError::Unusable {
                code: text(&frame, "code").unwrap_or_else(|| "jar_unloadable".to_owned()),
                what: text(&frame, "what"),
            }),
            Ok(_) => Err(StartError::Ended(End::Broken)),
            Err(_) => Err(StartError::Ended(shared.lock().end.clone().unwrap_or(End::Broken))),
        }
    }

    /// Makes one call; `frame` needs everything but its number. When it takes longer than `limit`, the process group is
    /// ended, and with it whatever else ran there.
    pub(super) async fn call(&self, frame: Frame, limit: Duration) -> Result<Frame, CallError> {
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        let encoded = frame.with("call", number.to_string()).encode().map_err(CallError::Frame)?;
        let (sender, answer) = oneshot::channel();
        {
            let mut calls = self.shared.lock();
            if let Some(end) = &calls.end {
                return Err(CallError::HostEnded(end.clone()));
            }
            calls.waiting.insert(number, sender);
        }
        let exchange = async {
            // When the host ended meanwhile, the answer says so.
            let _ = self.outgoing.send(encoded).await;
            answer.await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer.map_err(CallError::HostEnded),
            Ok(Err(_)) => Err(CallError::HostEnded(End::Broken)),
            Err(_) => {
                self.shared.lock().waiting.remove(&number);
                self.kill.send_replace(Some(End::Overdue));
                Err(CallError::TimedOut)
            }
        }
    }

    /// Why it ended, once it has.
    pub(super) fn end(&self) -> Option<End> {
        self.shared.lock().end.clone().or_else(|| self.kill.borrow().clone())
    }

    /// Waits until nothing is left of the process, and of what it started, once it is no longer used.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let mut gone = self.gone.clone();
        async move { while gone.changed().await.is_ok() {} }
    }

    /// Whether it has answered any call.
    pub(super) fn has_answered(&self) -> bool {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether it should be replaced, for its age in calls, its own wish, or its resident size in MiB.
    pub(super) fn is_worn(&self, max_calls: u64, max_resident_mib: u64) -> bool {
        self.shared.recycle.load(Ordering::Relaxed)
            || self.next_call.load(Ordering::Relaxed) > max_calls
            || resident_mib(self.shared.pid).is_some_and(|mib| mib > max_resident_mib)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads answers until the host ends, for whatever reason; then ends what is left of its process group and its control
/// group, and tells all who wait.
async fn drive(
    mut child: Child,
    mut from_host: pipe::Receiver,
    shared: Arc<Shared>,
    first: oneshot::Sender<Frame>,
    mut killed: watch::Receiver<Option<End>>,
    mut exited: oneshot::Receiver<()>,
    group: Option<Arc<Group>>,
) {
    let mut first = Some(first);
    let reason = tokio::select! {
        broken = read_frames(&mut from_host, &shared, &mut first) => broken.then_some(End::Broken),
        _ = &mut exited => None,
        end = async { killed.wait_for(Option::is_some).await.map_or(Some(End::Dropped), |end| end.clone()) } => end,
    };
    if reason.is_none() {
        let _ = tokio::time::timeout(LAST_WORDS, read_frames(&mut from_host, &shared, &mut first)).await;
        // An end of the pipe without an end of the process gets a moment, so that the exit status is the host's own.
        if !exited.is_terminated() {
            let _ = tokio::time::timeout(LAST_WORDS, &mut exited).await;
        }
    }
    // The child is not reaped yet, so its id still names its group. Gone already is fine.
    let _ = rustix::process::kill_process_group(shared.pid, Signal::KILL);
    // Its control group has also what left the process group.
    let over_memory = match group {
        Some(group) => tokio::task::spawn_blocking(move || end_group(&group)).await.unwrap_or(None),
        None => None,
    };
    let status = child.wait().await;
    let end = reason.unwrap_or_else(|| match over_memory {
        Some(limits) => End::OverMemory(limits),
        None => End::Crashed(status.map_or_else(|_| "status unknown".to_owned(), |status| status.to_string())),
    });
    tracing::debug!(pid = shared.pid.as_raw_nonzero().get(), ?end, "a JAR host ended");
    let waiting = {
        let mut calls = shared.lock();
        calls.end = Some(end.clone());
        std::mem::take(&mut calls.waiting)
    };
    for (_, sender) in waiting {
        // Whoever no longer waits needs no answer.
        let _ = sender.send(Err(end.clone()));
    }
}

/// Blocks. What was allowed, if the kernel ended a process for using more.
fn end_group(group: &Group) -> Option<Limits> {
    group.kill();
    group.is_over_memory().then_some(group.limits)
}

/// Hands out answers until the pipe ends (false) or holds something that is no frame (true).
async fn read_frames(pipe: &mut pipe::Receiver, shared: &Shared, first: &mut Option<oneshot::Sender<Frame>>) -> bool {
    loop {
        let mut prefix = [0; 4];
        if pipe.read_exact(&mut prefix).await.is_err() {
            return false;
        }
        let Ok(len) = Frame::body_len(prefix) else { return true };
        let mut body = Zeroizing::new(vec![0; len]);
        if pipe.read_exact(&mut body).await.is_err() {
            return false;
        }
        let Ok(frame) = Frame::decode(&body) else { return true };
        if frame.kind == FrameKind::Notice && first.is_some() {
            if let Some(missing) = frame.text("what").and_then(Missing::from_word) {
                tracing::warn!("a JAR's sandbox is incomplete: {missing}");
            }
            continue;
        }
        if let Some(first) = first.take() {
            // A starter who left dropped the host as well.
            let _ = first.send(frame);
            continue;
        }
        match frame.kind {
            FrameKind::Recycle => shared.recycle.store(true, Ordering::Relaxed),
            FrameKind::Result | FrameKind::Failed => {
                shared.answered.store(true, Ordering::Relaxed);
                let number = frame.text("call").and_then(|number| number.parse().ok());
                let sender = number.and_then(|number: u64| shared.lock().waiting.remove(&number));
                if let Some(sender) = sender {
                    // Whoever no longer waits needs no answer.
                    let _ = sender.send(Ok(frame));
                }
            }
            _ => return true,
        }
    }
}

/// Tells when the process has ended, without reaping it: as long as it is a zombie, its id names no other group. One
/// small thread per process, which lives as long as that does.
pub(crate) fn watch_exit(pid: Pid) -> io::Result<oneshot::Receiver<()>> {
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new().name("exit-watch".to_owned()).stack_size(64 * 1024).spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        // Nobody listens any more once the host was ended for another reason.
        let _ = sender.send(());
    })?;
    Ok(ended)
}

/// Reads what the JAR prints, so that it never blocks, and keeps nothing of it: it may be the secret.
fn drain(stream: Option<impl AsyncRead + Unpin + Send + 'static>, name: &'static str) {
    let Some(mut stream) = stream else { return };
    tokio::spawn(async move {
        let mut buffer = Zeroizing::new(vec![0; 8 * 1024]);
        let mut total = 0_u64;
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            buffer[..read].zeroize();
            total = total.saturating_add(read as u64);
        }
        if total > 0 {
            tracing::debug!(bytes = total, "dropped what a resolver JAR wrote to {name}");
        }
    });
}

fn resident_mib(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}
