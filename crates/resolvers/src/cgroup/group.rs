//! One process's group.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::Base;

/// How often, and how long each time, the end of killed processes is waited for.
const WAITS: u32 = 20;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the processes of a group may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_mib: u64,
    pub(crate) pids: u32,
}

/// A group. Dropping it ends every process in it and removes it, which blocks.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    pub(crate) limits: Limits,
}

impl Group {
    /// Makes an empty one. Blocks.
    pub(super) fn make(base: &Base, limits: Limits) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let folder = base.folder.join(base.owner.name(NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder)?;
        let group = Self { folder, limits };
        let has = |name: &&str| !base.lacking().contains(name);
        if has(&"memory") {
            group.write("memory.max", &(limits.memory_mib * 1024 * 1024).to_string())?;
            group.write("memory.oom.group", "1")?;
            match group.write("memory.swap.max", "0") {
                // A kernel without swap.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        if has(&"pids") {
            group.write("pids.max", &limits.pids.to_string())?;
        }
        Ok(group)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends every process in it, whatever session it is in.
    pub(crate) fn kill(&self) {
        if let Err(error) = kill(&self.folder) {
            tracing::warn!(%error, "the processes of a control group could not be ended");
        }
    }

    /// Whether the kernel ended a process in it because its memory was used up.
    pub(crate) fn is_over_memory(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        events.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count != "0")
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.folder.join(name), value)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(%error, "a resolver's control group could not be removed");
        }
    }
}

/// A group, if there is one, that may be dropped anywhere: what blocks is done where nobody else waits.
#[derive(Debug)]
pub(crate) struct HeldGroup(Option<Group>);

impl HeldGroup {
    pub(crate) const fn new(group: Option<Group>) -> Self {
        Self(group)
    }

    pub(crate) const fn group(&self) -> Option<&Group> {
        self.0.as_ref()
    }

    pub(crate) fn into_group(mut self) -> Option<Group> {
        self.0.take()
    }
}

impl Drop for HeldGroup {
    fn drop(&mut self) {
        let Some(group) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(group))),
            Err(_) => drop(group),
        }
    }
}

/// Puts the calling process into a group.
pub(crate) fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), "0")
}

/// Ends what is in a group, waits for it, and removes the group with those below it.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    kill(folder)?;
    until_empty(folder)?;
    remove_folders(folder)
}

fn kill(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.kill"), "1")
}

/// The kernel tells of each change of `cgroup.events` as of an exception.
fn until_empty(folder: &Path) -> io::Result<()> {
    let mut events = File::open(folder.join("cgroup.events"))?;
    for _ in 0..WAITS {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&WAIT)) {
            Err(Errno::INTR) => {}
            outcome => drop(outcome?),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not end"))
}

/// The files of a group go with its folder.
fn remove_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
