//! The admin socket: what the `midward-mid` commands ask the running MID, because the vault's client may know this
//! process and no other. One JSON line in, one JSON line out.

use std::fmt::Debug;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Failure, Hop, Trace};
use midward_resolvers::BoxFuture;
use midward_wire::ResolverStatus;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditEntry;

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to ask, and an answer to be made.
const READ_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    Status,
    /// Tries a resolver; what it returns is described, never shown.
    Resolve {
        credential_id: String,
        /// The only configured resolver when absent, or the one named `default`.
        #[serde(default)]
        resolver: Option<String>,
        #[serde(default)]
        address: Option<String>,
    },
    /// The cached tokens of one connection, or all.
    Tokens {
        #[serde(default)]
        connection: Option<String>,
    },
    /// Drops the cached tokens of one connection, or all.
    Flush {
        #[serde(default)]
        connection: Option<String>,
    },
    /// The token engine's figures as Prometheus text.
    Metrics,
    /// Reads the policy and the resolvers anew.
    Reload,
    /// Why policy refused.
    PolicyExplain {
        reference: String,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminReply {
    Status(StatusReport),
    Resolved(ResolveReport),
    Tokens {
        tokens: Vec<TokenReport>,
    },
    Flushed {
        count: usize,
        /// One for each key.
        tokens: Vec<FlushedToken>,
    },
    Metrics {
        text: String,
    },
    /// The resolvers by name: what became of each.
    Reloaded {
        added: Vec<String>,
        changed: Vec<String>,
        removed: Vec<String>,
        unchanged: Vec<String>,
    },
    Refusal {
        refusal: AuditEntry,
    },
    Failed {
        failure: Failure,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    pub program_version: String,
    pub name: String,
    pub mid_id: String,
    pub instance_url: String,
    /// `validated`, `enrolled`, ..., or what disturbs the link.
    pub link: String,
    pub draining: bool,
    pub running: u32,
    pub capacity: u32,
    pub resolvers: Vec<ResolverStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReport {
    pub resolver: String,
    pub fields: Vec<FieldReport>,
    /// Changes when any field changes; means nothing in another process.
    pub fingerprint: String,
    /// The vault is changing the secret right now.
    pub changing: bool,
    pub trace: Trace,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldReport {
    pub field: String,
    /// Bytes.
    pub length: usize,
}

/// A cached token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenReport {
    /// What metrics call it.
    pub profile: String,
    pub credential_id: String,
    pub resolver: String,
    /// The issuer's identifier where metadata names the token URL.
    pub token_url: String,
    /// `grant_type` of the token request.
    pub grant: String,
    /// Asked for.
    pub scopes: Vec<String>,
    /// What the server granted, while there is a token.
    pub granted_scopes: Vec<String>,
    /// Connections whose requests use it.
    pub connections: Vec<String>,
    /// `missing`, `fetching`, `valid`, `refreshing`, `failed`, ...
    pub state: String,
    /// Why there is a token or why not, with ages and times.
    pub explanation: String,
    /// What to do about the last failure; `None` when the last fetch went well.
    pub action: Option<String>,
    /// Each hop of the last fetch, and how long it took.
    pub steps: Trace,
    /// Milliseconds.
    pub expires_in_ms: Option<u64>,
    /// The first digits of a keyed hash: changes when the secret does.
    pub secret_version: Option<String>,
}

/// What a flush did to one cached token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushedToken {
    pub credential_id: String,
    pub token_url: String,
    pub scopes: Vec<String>,
    /// Connections whose requests used it.
    pub connections: Vec<String>,
    /// `revoked`, `no_endpoint`, `not_allowed`, `failed`, or `no_token` when none was there.
    pub revocation: String,
    /// The same in words, with what to do.
    pub explanation: String,
}

/// Answers the questions.
pub trait Operate: Debug + Send + Sync + 'static {
    fn answer(&self, request: AdminRequest) -> BoxFuture<'_, AdminReply>;
}

/// The socket; removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds the socket with mode 0600. A socket that a crashed MID left is replaced; one that answers is not.
    pub async fn bind(path: &Path) -> Result<Self, Failure> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(Failure::permanent(
                Hop::Mid,
                "already_running",
                format!("a MID Server answers on {} already", path.display()),
                "Stop it first, or give this one a state folder and socket of its own.",
            ));
        }
        let failed = |error: &std::io::Error| {
            Failure::permanent(
                Hop::Mid,
                "admin_socket_failed",
                format!("{}: {error}", path.display()),
                "Choose another [admin] socket, at most 100 characters long, in a writable folder.",
            )
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
        // Until here the folder's mode protects it, and every peer's user is checked besides.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|error| failed(&error))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop`.
    pub async fn serve(self, operator: Arc<dyn Operate>, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !is_trusted(&stream) {
                tracing::warn!("a user other than root and our own was refused on the admin socket");
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let operator = Arc::clone(&operator);
            tokio::spawn(async move {
                if let Err(error) = converse(stream, operator.as_ref()).await {
                    tracing::debug!(%error, "admin connection");
                }
                drop(place);
            });
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "admin socket not removed");
        }
    }
}

/// Asks the running MID.
pub async fn ask(socket: &Path, request: &AdminRequest) -> Result<AdminReply, Failure> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(stream.take(MAX_ANSWER)).read_until(b'\n', &mut answer).await?;
        serde_json::from_slice(&answer).map_err(std::io::Error::from)
    };
    let failed = |detail: String| {
        Failure::transient(
            Hop::Mid,
            "mid_not_running",
            detail,
            "Start the MID Server (`midward-mid run`), and ask as its user or as root.",
        )
    };
    match tokio::time::timeout(READ_DEADLINE + ANSWER_DEADLINE, exchange).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(failed(format!("{}: {error}", socket.display()))),
        Err(_) => Err(failed(format!("{}: no answer in time", socket.display()))),
    }
}

async fn converse(mut stream: UnixStream, operator: &dyn Operate) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut reader = BufReader::with_capacity(4096, read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(MAX_LINE);
        tokio::time::timeout(READ_DEADLINE, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => {
                let answer = tokio::time::timeout(ANSWER_DEADLINE, operator.answer(request));
                answer.await.unwrap_or_else(|_| failed("admin_timeout", "the answer took too long"))
            }
            Err(_) => failed("admin_request_invalid", "the line is not a question that this version knows"),
        };
        let mut answer = serde_json::to_vec(&reply)?;
        answer.push(b'\n');
        write.write_all(&answer).await?;
    }
}

fn failed(code: &str, detail: &str) -> AdminReply {
    let action = "Use the `midward-mid` program of the same version.";
    AdminReply::Failed { failure: Failure::transient(Hop::Mid, code, detail, action) }
}

/// Root, or the user that the MID itself runs as.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Flusher;

    impl Operate for Flusher {
        fn answer(&self, _: AdminRequest) -> BoxFuture<'_, AdminReply> {
            Box::pin(async { AdminReply::Flushed { count: 3, tokens: Vec::new() } })
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_and_garbage_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).await.expect("bound");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let stop = CancellationToken::new();
        let server = tokio::spawn(socket.serve(Arc::new(Flusher), stop.clone()));
        let reply = ask(&path, &AdminRequest::Flush { connection: None }).await;
        assert_eq!(reply, Ok(AdminReply::Flushed { count: 3, tokens: Vec::new() }));

        let mut stream = UnixStream::connect(&path).await.expect("connected");
        stream.write_all(b"{\"op\":\"nonsense\"}\n").await.expect("written");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.expect("read");
        assert!(line.contains("admin_request_invalid"), "{line}");

        assert_eq!(AdminSocket::bind(&path).await.expect_err("taken").code, "already_running");
        stop.cancel();
        server.await.expect("stopped");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_crash_left_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        AdminSocket::bind(&path).await.expect("replaced");
    }
}
