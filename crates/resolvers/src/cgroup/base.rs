//! The group below which those of resolvers' processes are made.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::CgroupMode;
use super::group::remove;
use super::owner::{Owner, is_ours, own_group};

const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Holds the MID itself, where its own group must hold no process.
const MID: &str = "mid";

/// A group that the MID may make others in.
#[derive(Debug)]
pub struct Base {
    pub(super) folder: PathBuf,
    pub(super) owner: Owner,
    lacking: Vec<&'static str>,
    crowded: bool,
}

/// Why no group can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    #[error("no cgroup2 file system is mounted in which this process is")]
    Unmounted,
    #[error("the MID may make no group in {} ({})", .0.display(), .1)]
    Refused(PathBuf, io::ErrorKind),
    #[error("the kernel has no cgroup.kill (Linux 5.14) in {}", .0.display())]
    NoKill(PathBuf),
}

/// The base that a mode names; `None` where it is off. The first time, groups that processes which are no more left there
/// are ended and removed, and the MID may be put into a group below its own. Blocks.
pub fn open(mode: &CgroupMode) -> Result<Option<Arc<Base>>, Lack> {
    static OPEN: Mutex<Option<HashMap<CgroupMode, Arc<Base>>>> = Mutex::new(None);
    let key = match mode {
        CgroupMode::Off => return Ok(None),
        CgroupMode::Auto | CgroupMode::Required => CgroupMode::Auto,
        CgroupMode::Below(_) => mode.clone(),
    };
    // Held meanwhile: once the MID was moved, its own group is another one.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(base) = open.get(&key) {
        return Ok(Some(Arc::clone(base)));
    }
    let base = match &key {
        CgroupMode::Below(folder) => Base::in_folder(folder.clone(), false)?,
        _ => Base::in_folder(own_group().ok_or(Lack::Unmounted)?, true)?,
    };
    let base = Arc::new(base);
    open.insert(key, Arc::clone(&base));
    Ok(Some(base))
}

impl Base {
    fn in_folder(folder: PathBuf, own: bool) -> Result<Self, Lack> {
        let owner = Owner::this_process().ok_or(Lack::Unmounted)?;
        let trial = folder.join(owner.name(0));
        fs::create_dir(&trial).map_err(|error| Lack::Refused(folder.clone(), error.kind()))?;
        // The root of all groups has none.
        let kills = trial.join("cgroup.kill").exists();
        if let Err(error) = fs::remove_dir(&trial) {
            return Err(Lack::Refused(folder, error.kind()));
        }
        if !kills {
            return Err(Lack::NoKill(folder));
        }
        sweep(&folder);
        let crowded = enable(&folder, own);
        let enabled = words(&folder.join("cgroup.subtree_control"));
        let lacking = CONTROLLERS.into_iter().filter(|name| !enabled.iter().any(|word| word == name)).collect();
        Ok(Self { folder, owner, lacking, crowded })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Controllers that are not there: `memory`, `pids`.
    pub fn lacking(&self) -> &[&'static str] {
        &self.lacking
    }

    /// What is not limited, and why.
    pub fn shortage(&self) -> Option<String> {
        let (first, rest) = self.lacking.split_first()?;
        let names = rest.iter().fold((*first).to_owned(), |names, name| format!("{names}, {name}"));
        let why = if self.crowded {
            "others' processes are in the MID's own group"
        } else {
            "they were not handed down to this group"
        };
        Some(format!("the control group in {} lacks the controllers {names}: {why}", self.folder.display()))
    }
}

/// Hands the controllers down. Tells whether others' processes in the group kept them back.
fn enable(folder: &Path, own: bool) -> bool {
    let control = folder.join("cgroup.subtree_control");
    let (there, enabled) = (words(&folder.join("cgroup.controllers")), words(&control));
    let wanted = CONTROLLERS.into_iter().filter(|name| {
        let is = |words: &[String]| words.iter().any(|word| word == name);
        is(&there) && !is(&enabled)
    });
    let wanted: Vec<_> = wanted.collect();
    // The root may have both, processes and groups with controllers; it alone has no type.
    let needs_room = own && !wanted.is_empty() && folder.join("cgroup.type").exists();
    if needs_room && !make_room(folder) {
        return true;
    }
    for name in wanted {
        if let Err(error) = fs::write(&control, format!("+{name}")) {
            tracing::debug!(controller = name, %error, "a controller cannot be handed down");
        }
    }
    false
}

/// A group that hands down controllers must hold no process: puts the MID, and what it started, into one below.
fn make_room(folder: &Path) -> bool {
    let processes: Vec<u32> = words(&folder.join("cgroup.procs")).iter().filter_map(|word| word.parse().ok()).collect();
    if !processes.iter().all(|pid| is_ours(*pid)) {
        return false;
    }
    let leaf = folder.join(MID);
    let made = fs::create_dir(&leaf).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    let moved = made.and_then(|()| {
        processes.iter().try_for_each(|pid| match fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            outcome => outcome,
        })
    });
    if let Err(error) = &moved {
        tracing::debug!(%error, "the MID could not be put into a control group below its own");
    }
    moved.is_ok()
}

/// Ends and removes what MIDs that are no more left behind.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let gone = entry.file_name().to_str().and_then(Owner::of).is_some_and(Owner::is_gone);
        if gone
            && let Err(error) = remove(&entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a control group that an earlier MID left could not be removed");
        }
    }
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}
