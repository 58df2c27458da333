//! Starts the JVM: its command line, its descriptors, and the one thread that starts all.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::forward::{Forwards, Target, write_hosts};
use super::sandbox::{Membership, Network, Sandbox, SandboxMode};
use super::scratch::Scratch;
use crate::RunAs;
use crate::cgroup::{ControlGroups, Group};
use crate::run_as::User;

const FRAMES_IN: i32 = 3;
pub(crate) const FRAMES_OUT: i32 = 4;

/// How to start a host. The same for all generations of one resolver's JVM.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) trampoline: Vec<OsString>,
    pub(super) java: PathBuf,
    pub(super) host_jar: PathBuf,
    pub(super) heap_mib: u32,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) sandbox: Sandbox,
    pub(super) groups: ControlGroups,
    pub(super) run_as: Option<RunAs>,
    /// What the listeners in a private network stand for.
    pub(super) targets: Vec<Target>,
    /// Holds the folders of temporary files.
    pub(super) scratch_dir: PathBuf,
}

/// A started host: the process and our ends of its pipes.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) to_host: pipe::Sender,
    pub(super) from_host: pipe::Receiver,
    pub(super) scratch: Scratch,
    pub(super) forwards: Option<Forwards>,
}

impl Launch {
    /// Starts the process in `folder`, as a member of `group`.
    pub(super) async fn start(&self, folder: PathBuf, group: Option<&Group>) -> io::Result<Launched> {
        let (child_in, to_host) = io::pipe()?;
        let (from_host, child_out) = io::pipe()?;
        let user = match self.run_as.clone() {
            None => None,
            Some(run_as) => {
                let user = tokio::task::spawn_blocking(move || run_as.user()).await.map_err(io::Error::other)?;
                Some(user.map_err(|failure| io::Error::new(io::ErrorKind::PermissionDenied, failure.to_string()))?)
            }
        };
        if let Some(user) = user {
            user.own(&child_in)?;
            user.own(&child_out)?;
        }
        let (parent, copies) = (self.scratch_dir.clone(), folder.clone());
        let targets = if self.is_private() { self.targets.clone() } else { Vec::new() };
        let prepared = move || {
            let scratch = Scratch::make(&parent)?;
            if !targets.is_empty() {
                write_hosts(&targets, &scratch.path().join("hosts"))?;
            }
            if let Some(user) = user {
                user.own_folder(scratch.path())?;
                user.may_read(&copies)?;
                copies.ancestors().skip(1).take(2).chain([parent.as_path()]).try_for_each(User::may_pass)?;
            }
            Ok::<_, io::Error>((scratch, targets))
        };
        let (scratch, targets) = tokio::task::spawn_blocking(prepared).await.map_err(io::Error::other)??;
        let required = self.groups.is_strict();
        let group = group.map(|group| Membership { folder: group.folder().to_owned(), required });
        let sandbox = Sandbox { user, group, ..self.sandbox_of(&folder, scratch.path()) }.to_args();
        let words = self.trampoline.iter().chain(&sandbox).map(OsString::as_os_str);
        let mut words = words.chain([self.java.as_os_str()]);
        let program = words.next().unwrap_or_else(|| OsStr::new("java"));
        let mut command = std::process::Command::new(program);
        let mut temporary = OsString::from("-Djava.io.tmpdir=");
        temporary.push(scratch.path());
        command.args(words).args(self.flags()).arg(temporary);
        if !targets.is_empty() {
            let mut hosts = OsString::from("-Djdk.net.hosts.file=");
            hosts.push(scratch.path().join("hosts"));
            command.arg(hosts);
        }
        command.arg("-cp").arg(&self.host_jar).arg("dev.midward.jarhost.Main");
        command
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("MALLOC_ARENA_MAX", "2")
            .env("TMPDIR", scratch.path())
            .envs(self.environment.iter().cloned());
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut listeners = None;
        if !targets.is_empty() {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            listeners = Some(OwnedFd::from(ours));
            command.stdin(OwnedFd::from(theirs));
        }
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: child_in.into(), child_fd: FRAMES_IN },
                FdMapping { parent_fd: child_out.into(), child_fd: FRAMES_OUT },
            ])
            .map_err(io::Error::other)?;
        let mut command = Command::from(command);
        // A group of its own: ended as a whole, with every program that the JAR started.
        command.process_group(0).kill_on_drop(true);
        let child = spawn(command).await?;
        let forwards = match listeners {
            Some(socket) => Some(Forwards::receive(socket, &targets).await?),
            None => None,
        };
        Ok(Launched {
            child,
            forwards,
            to_host: pipe::Sender::from_owned_fd(OwnedFd::from(to_host))?,
            from_host: pipe::Receiver::from_owned_fd(OwnedFd::from(from_host))?,
            scratch,
        })
    }

    /// Whether targets are listed that the host's network, which something else asks for, could not be narrowed to.
    pub(super) fn mixes_networks(&self) -> bool {
        !self.targets.is_empty() && self.sandbox.network == Network::Host && self.sandbox.mode != SandboxMode::Off
    }

    fn is_private(&self) -> bool {
        self.sandbox.mode != SandboxMode::Off && matches!(self.sandbox.network, Network::Private { .. })
    }

    /// What is configured, and what every host needs: its JARs and its temporary folder.
    fn sandbox_of(&self, folder: &Path, scratch: &Path) -> Sandbox {
        let mut sandbox = self.sandbox.clone();
        let ours = self.host_jar.parent().unwrap_or(&self.host_jar);
        sandbox.readable.extend([folder.to_owned(), self.host_jar.clone()]);
        sandbox.readable.extend(["midward-mid-classes.jar", "lib"].map(|name| ours.join(name)));
        sandbox.writable.push(scratch.to_owned());
        sandbox
    }

    fn flags(&self) -> Vec<String> {
        let heap = format!("-Xmx{}m", self.heap_mib);
        let fixed = [
            "-Xss512k",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            // A heap dump, a core, an hs_err file or an attached debugger would all hold secrets.
            "-XX:-HeapDumpOnOutOfMemoryError",
            "-XX:-CreateCoredumpOnCrash",
            "-XX:+SuppressFatalErrorMessage",
            "-XX:+DisableAttachMechanism",
            "-XX:-UsePerfData",
            "-Dfile.encoding=UTF-8",
            "-Djava.awt.headless=true",
        ];
        std::iter::once(heap).chain(fixed.into_iter().map(str::to_owned)).collect()
    }
}

struct Job {
    command: Command,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a process from a thread that lives as long as this one does: the kernel sends a parent-death signal when the
/// starting thread ends, and a runtime's threads come and go.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the starting thread is gone");
    let (reply, answer) = oneshot::channel();
    let job = Job { command, runtime: tokio::runtime::Handle::current(), reply };
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let started = std::thread::Builder::new().name("jvm-starter".to_owned()).spawn(move || {
            for mut job in jobs {
                let _runtime = job.runtime.enter();
                // A caller who left drops the child, which ends it.
                let _ = job.reply.send(job.command.spawn());
            }
        });
        // Without the thread its channel is closed, and every start fails with a reason.
        drop(started);
        sender
    });
    spawner.send(job).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
