//! Runs a program once, in a process group of its own: bounded in time and output, and ended as a whole.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::jar::watch_exit;

/// Most bytes that are read of standard output.
const MAX_OUTPUT: usize = 64 * 1024;
/// Most bytes that are kept of standard error; the rest is read and dropped.
const MAX_ERRORS: usize = 4 * 1024;
/// How long a pipe is read after its process group was ended: somebody outside of the group may hold it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What is run.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// All of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

/// How a program ended, and what it wrote. Wiped when dropped.
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) output: Zeroizing<Vec<u8>>,
    pub(crate) errors: Zeroizing<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started.
    Start(io::Error),
    /// It took too long and was ended.
    TimedOut,
    /// It wrote more than 64 KiB and was ended.
    TooMuch,
    /// Its pipe or its end could not be watched.
    Io(io::Error),
}

/// Runs `program` for at most `limit`. Whatever happens, also when the future is dropped, its process group is gone
/// afterwards.
pub(crate) async fn run(program: &Program, limit: Duration) -> Result<Ended, RunError> {
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(RunError::Start)?;
    let gone = || RunError::Io(io::Error::other("the program has no pipe"));
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else { return Err(gone()) };
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or_else(gone)?;
    let mut group = Group { pid, alive: true };
    let mut exited = watch_exit(pid).map_err(RunError::Io)?;
    let (mut output, mut errors) = (Buffer::new(MAX_OUTPUT), Buffer::new(MAX_ERRORS));
    let whole = async {
        let mut reads = Box::pin(async { tokio::try_join!(output.fill(stdout), errors.drain(stderr)) });
        let early = tokio::select! {
            read = &mut reads => Some(read),
            // The thread that watches always says so before it ends.
            _ = &mut exited => None,
        };
        if let Some(read) = early {
            read?;
            let _ = exited.await;
            group.end();
        } else {
            // What it left behind may hold its pipes; what it wrote itself is in them already.
            group.end();
            if let Ok(read) = tokio::time::timeout(LAST_WORDS, reads).await {
                read?;
            }
        }
        let status: ExitStatus = child.wait().await.map_err(RunError::Io)?;
        Ok(status.success())
    };
    let success = tokio::time::timeout(limit, whole).await.unwrap_or(Err(RunError::TimedOut))?;
    Ok(Ended { success, output: output.bytes, errors: errors.bytes })
}

/// The program's process group; ended when dropped. The leader is reaped only after [`Self::end`], so its number names
/// no other group meanwhile.
struct Group {
    pid: Pid,
    alive: bool,
}

impl Group {
    fn end(&mut self) {
        if std::mem::take(&mut self.alive) {
            // Nobody left to be ended is what is wanted.
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// A buffer that never grows, so that no unwiped copy is left behind.
struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Buffer {
    fn new(limit: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(limit)), limit }
    }

    /// Reads all; more than fits is an error.
    async fn fill(&mut self, from: impl AsyncRead + Unpin) -> Result<(), RunError> {
        self.read(from, true).await
    }

    /// Reads all and keeps what fits.
    async fn drain(&mut self, from: impl AsyncRead + Unpin) -> Result<(), RunError> {
        self.read(from, false).await
    }

    async fn read(&mut self, mut from: impl AsyncRead + Unpin, strict: bool) -> Result<(), RunError> {
        let mut chunk = Zeroizing::new(vec![0; 4096]);
        loop {
            let count = from.read(&mut chunk).await.map_err(RunError::Io)?;
            if count == 0 {
                return Ok(());
            }
            let room = self.limit - self.bytes.len();
            if strict && count > room {
                return Err(RunError::TooMuch);
            }
            self.bytes.extend_from_slice(&chunk[..count.min(room)]);
        }
    }
}

/// Whether the file is there and somebody may run it.
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
