//! The MID's own record: calls and policy refusals with their explanations, as JSON lines that stay on this host.
//! Written by a thread of its own, so no call ever waits for the disk.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use midward_core::{Failure, Hop, WallTime};
use midward_wire::AuditCheckpoint;
use serde::{Deserialize, Serialize};

use crate::syslog::Syslog;

const FILE: &str = "audit.jsonl";
const PREVIOUS_FILE: &str = "audit.1.jsonl";
/// The file is put aside, and the one before dropped, at this size in bytes.
const ROTATE_AT: u64 = 64 * 1024 * 1024;
const QUEUE: usize = 4096;
/// Refusals that are found without reading the file.
const RECENT: usize = 1000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AuditEntry {
    /// Policy said no. What would have to be allowed is only told here.
    Refusal {
        at: WallTime,
        reference: String,
        request_id: String,
        connection: String,
        credential_id: String,
        code: String,
        explanation: String,
        /// A whole rule that would allow it, for its reader to judge.
        suggestion: String,
    },
    /// A call that policy allowed.
    Call {
        at: WallTime,
        request_id: String,
        connection: String,
        credential_id: String,
        rule: String,
        method: String,
        origin: String,
        /// `replied 200`, `failed api_unreachable`, `unknown ...`.
        outcome: String,
    },
    /// A request that the instance gave a second time, or under an older epoch than before. It did not run.
    LeaseRefused {
        at: WallTime,
        request_id: String,
        epoch: i64,
        /// The latest epoch that this program was given of the request.
        latest: i64,
        /// `lease_repeated` or `lease_outdated`.
        code: String,
    },
    /// What the instance's own audit was at a time.
    InstanceCheckpoint {
        at: WallTime,
        checkpoint: AuditCheckpoint,
        /// Signed by the key that the enrollment pinned.
        pinned: bool,
        /// The instance told something else of the same block before.
        changed: bool,
    },
}

/// Takes entries.
#[derive(Debug)]
pub struct Audit {
    sender: Option<SyncSender<AuditEntry>>,
    writer: Option<std::thread::JoinHandle<()>>,
    recent: Mutex<VecDeque<AuditEntry>>,
    lost: AtomicU64,
    folder: PathBuf,
}

impl Audit {
    /// Opens the file in `folder` and starts the writer. Each entry also goes to the system's log whose socket `syslog` is.
    pub fn open(folder: &Path, syslog: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error: &io::Error| {
            Failure::permanent(
                Hop::Mid,
                "audit_not_writable",
                format!("{}: {error}", folder.join(FILE).display()),
                "Make the state folder writable for the MID Server's user.",
            )
        };
        let file = open_file(folder).map_err(|error| failed(&error))?;
        let syslog = syslog.map(|path| Syslog::open(path).map_err(|error| no_syslog(path, &error))).transpose()?;
        let (sender, receiver) = sync_channel(QUEUE);
        let path = folder.to_owned();
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_for_ever(&receiver, file, &path, syslog))
            .map_err(|error| failed(&error))?;
        Ok(Self {
            sender: Some(sender),
            writer: Some(writer),
            recent: Mutex::default(),
            lost: AtomicU64::new(0),
            folder: folder.to_owned(),
        })
    }

    /// Records an entry. When the disk cannot follow, entries are counted as lost and a warning tells so.
    pub fn record(&self, entry: AuditEntry) {
        if matches!(entry, AuditEntry::Refusal { .. }) {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(entry.clone());
        }
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(entry) {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "audit entries lost: the disk does not follow");
            }
        }
    }

    /// The refusal with this reference, recent or on file.
    pub fn refusal(&self, wanted: &str) -> Option<AuditEntry> {
        let is_wanted =
            |entry: &AuditEntry| matches!(entry, AuditEntry::Refusal { reference, .. } if reference == wanted);
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = recent.iter().rev().find(|entry| is_wanted(entry)) {
            return Some(found.clone());
        }
        drop(recent);
        [FILE, PREVIOUS_FILE].iter().find_map(|name| {
            let lines = BufReader::new(File::open(self.folder.join(name)).ok()?).lines().map_while(Result::ok);
            lines
                .filter(|line| line.contains(wanted))
                .filter_map(|line| serde_json::from_str(&line).ok())
                .find(&is_wanted)
        })
    }
}

impl Drop for Audit {
    /// Writes what is queued.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit writer crashed");
        }
    }
}

fn no_syslog(path: &Path, error: &io::Error) -> Failure {
    Failure::permanent(
        Hop::Mid,
        "audit_not_writable",
        format!("the system's log at {}: {error}", path.display()),
        "Name the socket of this host's log as `mid.audit_syslog` (usually /dev/log), or leave it out.",
    )
}

/// A full disk costs the entries of its time, and none after it.
fn write_for_ever(entries: &Receiver<AuditEntry>, file: File, folder: &Path, mut syslog: Option<Syslog>) {
    let mut file = Ok(file);
    let mut failures = 0_u64;
    while let Err(error) = file.and_then(|file| write_all(entries, file, folder, syslog.as_mut())) {
        failures += 1;
        if failures.is_power_of_two() {
            tracing::error!(%error, failures, "audit entries are lost until the file can be written again");
        }
        // Tried again with every entry, which is the price of the try.
        if entries.recv().is_err() {
            return;
        }
        file = open_file(folder);
    }
}

/// Returns when there will be no more entries.
fn write_all(
    entries: &Receiver<AuditEntry>,
    file: File,
    folder: &Path,
    mut syslog: Option<&mut Syslog>,
) -> io::Result<()> {
    let mut size = file.metadata()?.len();
    let mut out = BufWriter::with_capacity(16 * 1024, file);
    while let Ok(first) = entries.recv() {
        let mut next = Some(first);
        while let Some(entry) = next {
            let mut line = serde_json::to_vec(&entry)?;
            if let Some(syslog) = &mut syslog {
                syslog.send(&entry, &line);
            }
            line.push(b'\n');
            size += line.len() as u64;
            out.write_all(&line)?;
            next = entries.try_recv().ok();
        }
        out.flush()?;
        if size >= ROTATE_AT {
            std::fs::rename(folder.join(FILE), folder.join(PREVIOUS_FILE))?;
            out = BufWriter::with_capacity(16 * 1024, open_file(folder)?);
            size = 0;
        }
    }
    Ok(())
}

fn open_file(folder: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(FILE))
}

/// What is on file, once the audit was dropped.
#[cfg(test)]
pub(crate) fn entries(folder: &tempfile::TempDir) -> Vec<AuditEntry> {
    let text = std::fs::read_to_string(folder.path().join(FILE)).expect("an audit");
    text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reference: &str) -> AuditEntry {
        AuditEntry::Refusal {
            at: WallTime::from_unix_millis(1),
            reference: reference.into(),
            request_id: "r".into(),
            connection: "crm".into(),
            credential_id: "safe:id".into(),
            code: "policy_refused".into(),
            explanation: "add a rule".into(),
            suggestion: "[[rule]]".into(),
        }
    }

    #[test]
    fn a_disk_that_was_full_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        std::os::unix::fs::symlink("/dev/full", &file).expect("a link");
        let audit = Audit::open(folder.path(), None).expect("open");
        audit.record(refusal("ref-1"));
        std::fs::remove_file(&file).expect("removed");
        let written = (0..1000).any(|_| {
            audit.record(refusal("ref-2"));
            std::thread::sleep(std::time::Duration::from_millis(5));
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains("ref-2"))
        });
        assert!(written, "not one of 1000 entries in 5 s");
    }

    #[test]
    fn a_refusal_is_found_in_memory_and_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let audit = Audit::open(folder.path(), None).expect("open");
        audit.record(refusal("ref-1"));
        assert_eq!(audit.refusal("ref-1"), Some(refusal("ref-1")));
        drop(audit);
        let audit = Audit::open(folder.path(), None).expect("open");
        assert_eq!(audit.refusal("ref-1"), Some(refusal("ref-1")));
        assert_eq!(audit.refusal("ref-2"), None);
    }

    #[test]
    fn the_systems_log_gets_each_entry_and_may_be_restarted() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("log");
        let absent = Audit::open(folder.path(), Some(&socket)).expect_err("no log");
        assert_eq!(absent.code, "audit_not_writable");
        let bind = || {
            let log = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
            log.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a limit");
            log
        };
        let receive = |log: &std::os::unix::net::UnixDatagram| {
            let mut bytes = [0; 4096];
            let length = log.recv(&mut bytes).expect("an entry");
            String::from_utf8(bytes[..length].to_vec()).expect("text")
        };
        let log = bind();
        let audit = Audit::open(folder.path(), Some(&socket)).expect("open");
        audit.record(refusal("ref-1"));
        let first = receive(&log);
        let json = first.strip_prefix(&format!("<84>midward-mid[{}]: ", std::process::id())).expect("a tag");
        assert_eq!(serde_json::from_str::<AuditEntry>(json).expect("JSON"), refusal("ref-1"));
        drop(log);
        std::fs::remove_file(&socket).expect("removed");
        let log = bind();
        audit.record(refusal("ref-2"));
        assert!(receive(&log).contains("ref-2"));
    }
}
