//! Programs that run beside the demo or a test, ended when dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A long-running program with its output in a file.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program`; its standard output and error go to `log`. Killed when dropped.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        environment: &[(&str, &OsStr)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
        let child = Command::new(program)
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process identifier, as long as it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its output when the program has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}); its last words:\n{}", self.name, tail(&self.log, 20));
        }
        Ok(())
    }

    /// Asks the program to end (SIGTERM) and waits.
    pub async fn stop(mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        self.signal(Signal::TERM)?;
        let waited = tokio::time::timeout(limit, self.child.wait()).await;
        waited.with_context(|| format!("{} did not end within {limit:?} of SIGTERM", self.name))?.map_err(Into::into)
    }

    /// Waits until the program ends by itself.
    pub async fn ended(mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let waited = tokio::time::timeout(limit, self.child.wait()).await;
        waited.with_context(|| format!("{} did not end within {limit:?}", self.name))?.map_err(Into::into)
    }

    /// Ends the program at once (SIGKILL).
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.map_err(Into::into)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(|| format!("{} has ended already", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

/// Runs a program to its end.
pub async fn run<A: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = A>,
    environment: &[(&str, &OsStr)],
    limit: Duration,
) -> anyhow::Result<Output> {
    let output = Command::new(program)
        .args(args)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(limit, output)
        .await
        .with_context(|| format!("{} did not end within {limit:?}", program.display()))?
        .with_context(|| format!("cannot run {}", program.display()))
}

/// Asks `probe` every 10 ms until it has something; an error after `limit`.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let poll = async {
        loop {
            if let Some(found) = probe().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, poll).await.with_context(|| format!("{what} did not happen within {limit:?}"))?
}

/// The last `lines` lines of a file, for an error message.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| format!("({}: {error})", path.display()));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
