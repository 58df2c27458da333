//! One run of the program: a question on its standard input, an answer on its standard output, and its end.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use midward_core::Failure;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use zeroize::{Zeroize as _, Zeroizing};

use crate::cgroup::{ControlGroups, HeldGroup, Limits};
use crate::frame::{Frame, FrameKind};
use crate::jar::{FRAMES_OUT, Membership, Missing, Sandbox, spawn, watch_exit};

/// Most bytes of an answer.
pub(super) const MAX_ANSWER: usize = 64 * 1024;
/// Most bytes that the trampoline says.
const MAX_REPORT: u64 = 16 * 1024;

/// How the program is started. The same for every run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) trampoline: Vec<OsString>,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) groups: ControlGroups,
    pub(super) sandbox: Sandbox,
}

/// What a run that ended by itself left.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) answer: Zeroizing<Vec<u8>>,
    pub(super) status: ExitStatus,
    /// Whether anything came on standard error.
    pub(super) complained: bool,
    /// What the sandbox lacks and can do without.
    pub(super) lacking: Vec<Missing>,
}

/// A run that we ended, or that did not begin.
#[derive(Debug)]
pub(super) enum RunError {
    NotStarted(io::ErrorKind),
    /// The trampoline could not become the program.
    Isolation(Missing),
    TimedOut,
    TooMuch,
    /// It has no control group and needs one.
    Refused(Failure),
    /// The kernel ended it, because its control group's memory was used up.
    OverMemory(Limits),
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::NotStarted(error.kind())
    }
}

impl Program {
    /// Runs it once. Whatever happens, and when the caller leaves too: it is ended with its process group and its control
    /// group.
    pub(super) async fn run(&self, question: &[u8], limit: Duration) -> Result<Output, RunError> {
        tokio::time::timeout(limit, self.converse(question)).await.map_err(|_| RunError::TimedOut)?
    }

    async fn converse(&self, question: &[u8]) -> Result<Output, RunError> {
        let Started { mut group, mut stdout, mut stderr, reports } = self.start(question).await?;
        let lacking = read_reports(reports).await?;
        let exited = watch_exit(group.pid)?;
        let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER + 1));
        let mut complained = false;
        tokio::select! {
            // Its thread ends with the process, whichever way.
            _ = exited => {}
            outcome = read_answer(&mut stdout, &mut answer) => match outcome {
                Ok(never) => match never {},
                Err(error) => return Err(error),
            },
            never = discard(&mut stderr, &mut complained) => match never {},
        }
        // Not reaped yet, so its id still names its group: what it started ends with it and keeps no pipe open.
        group.end();
        read_rest(&stdout, &mut answer)?;
        complained |= matches!(rustix::io::read(&stderr, &mut [0; 1]), Ok(1));
        let status = group.child.wait().await?;
        if let Some(control) = group.control.group().filter(|control| !status.success() && control.is_over_memory()) {
            return Err(RunError::OverMemory(control.limits));
        }
        Ok(Output { answer, status, complained, lacking })
    }

    async fn start(&self, question: &[u8]) -> Result<Started, RunError> {
        // It has room in the pipe, whether the program reads it or not.
        let (child_in, mut to_program) = io::pipe()?;
        to_program.write_all(question)?;
        drop(to_program);
        let (stdout, child_out) = io::pipe()?;
        let (stderr, child_err) = io::pipe()?;
        let (reports, child_reports) = io::pipe()?;
        if let Some(user) = self.sandbox.user {
            user.own(&child_in)?;
            user.own(&child_out)?;
            user.own(&child_err)?;
        }
        let groups = self.groups.clone();
        let made = tokio::task::spawn_blocking(move || groups.make()).await.map_err(io::Error::other)?;
        let control = HeldGroup::new(made.map_err(RunError::Refused)?);
        let group = control
            .group()
            .map(|group| Membership { folder: group.folder().to_owned(), required: self.groups.is_strict() });
        let sandbox = Sandbox { group, ..self.sandbox.clone() }.to_args();
        let words = self.trampoline.iter().chain(&sandbox).map(OsString::as_os_str);
        let mut words = words.chain([self.path.as_os_str()]).chain(self.args.iter().map(OsStr::new));
        let mut command = std::process::Command::new(words.next().unwrap_or_else(|| self.path.as_os_str()));
        command.args(words).env_clear().envs(self.environment.iter().cloned()).current_dir("/");
        command.stdin(child_in).stdout(child_out).stderr(child_err);
        let reported = FdMapping { parent_fd: child_reports.into(), child_fd: FRAMES_OUT };
        command.fd_mappings(vec![reported]).map_err(io::Error::other)?;
        let mut command = Command::from(command);
        command.process_group(0).kill_on_drop(true);
        let child = spawn(command).await?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or(RunError::NotStarted(io::ErrorKind::NotFound))?;
        let ours = |end: io::PipeReader| pipe::Receiver::from_owned_fd(OwnedFd::from(end));
        let group = Group { pid, child, control };
        Ok(Started { group, stdout: ours(stdout)?, stderr: ours(stderr)?, reports: ours(reports)? })
    }
}

struct Started {
    group: Group,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    reports: pipe::Receiver,
}

/// The program, and what it started: its process group, and its control group where it has one.
struct Group {
    pid: Pid,
    child: Child,
    control: HeldGroup,
}

impl Group {
    fn end(&mut self) {
        // Reaped: its id may be another's by now.
        if self.child.id().is_some() {
            // Gone already is fine.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        if let Some(control) = self.control.group() {
            control.kill();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads what the trampoline says, until it has become the program.
async fn read_reports(reports: pipe::Receiver) -> Result<Vec<Missing>, RunError> {
    let mut bytes = Vec::new();
    reports.take(MAX_REPORT).read_to_end(&mut bytes).await?;
    let mut rest = bytes.as_slice();
    let mut lacking = Vec::new();
    while let Some((prefix, behind)) = rest.split_first_chunk::<4>() {
        let body = Frame::body_len(*prefix).ok().and_then(|len| behind.split_at_checked(len));
        let Some((body, behind)) = body else { break };
        rest = behind;
        let Ok(frame) = Frame::decode(body) else { break };
        let Some(missing) = frame.text("what").and_then(Missing::from_word) else { continue };
        if frame.kind == FrameKind::Unusable {
            return Err(RunError::Isolation(missing));
        }
        lacking.push(missing);
    }
    Ok(lacking)
}

/// Ends with an error only: an end of the output is no end of the program.
async fn read_answer(stdout: &mut pipe::Receiver, answer: &mut Vec<u8>) -> Result<Infallible, RunError> {
    // The room that was made never grows, so that no unwiped copy is left behind.
    while answer.len() <= MAX_ANSWER {
        if stdout.read_buf(answer).await? == 0 {
            return std::future::pending().await;
        }
    }
    Err(RunError::TooMuch)
}

/// What lies in the pipe still, of a program that has ended.
fn read_rest(stdout: &pipe::Receiver, answer: &mut Vec<u8>) -> Result<(), RunError> {
    while answer.len() <= MAX_ANSWER {
        match rustix::io::read(stdout, rustix::buffer::spare_capacity(answer)) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Err(RunError::TooMuch)
}

/// Reads what the program complains, so that it never blocks, and keeps nothing of it: it may hold the secret.
async fn discard(stderr: &mut pipe::Receiver, complained: &mut bool) -> Infallible {
    let mut buffer = Zeroizing::new([0; 4096]);
    while let Ok(read @ 1..) = stderr.read(&mut *buffer).await {
        buffer[..read].zeroize();
        *complained = true;
    }
    std::future::pending().await
}
