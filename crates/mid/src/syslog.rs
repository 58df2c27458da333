//! The audit's second way: the system's own log, over its Unix datagram socket, in the form that local programs use
//! (RFC 3164's priority and tag; the time is the log's).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::audit::AuditEntry;

/// RFC 5424 6.2.1: security and authorization messages.
const AUTHPRIV: u8 = 10;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// Never waits for the log: what it does not take at once is counted as lost.
#[derive(Debug)]
pub(crate) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    lost: u64,
}

impl Syslog {
    /// The socket must be there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), socket: Some(connect(path)?), lost: 0 })
    }

    /// Sends one entry whose JSON is `line`.
    pub(crate) fn send(&mut self, entry: &AuditEntry, line: &[u8]) {
        let severity = match entry {
            AuditEntry::Refusal { .. } | AuditEntry::LeaseRefused { .. } => WARNING,
            AuditEntry::InstanceCheckpoint { changed, pinned, .. } if *changed || !*pinned => WARNING,
            AuditEntry::InstanceCheckpoint { .. } => INFO,
            AuditEntry::Call { .. } => NOTICE,
        };
        let mut message = format!("<{}>midward-mid[{}]: ", AUTHPRIV * 8 + severity, std::process::id()).into_bytes();
        message.extend_from_slice(line.trim_ascii_end());
        // A log that was restarted has a new socket.
        let sent = self.try_send(&message).or_else(|_| {
            self.socket = None;
            self.try_send(&message)
        });
        if let Err(error) = sent {
            self.lost += 1;
            if self.lost.is_power_of_two() {
                tracing::warn!(lost = self.lost, %error, "the system's log does not take the audit; the file has it");
            }
        }
    }

    fn try_send(&mut self, message: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        let sent = socket.send(message);
        self.socket = Some(socket);
        sent.map(drop)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
