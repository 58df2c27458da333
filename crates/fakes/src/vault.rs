//! The CyberArk vault behind the AIM client, with its admin port.
//!
//! The AIM client's program (`clipasswordsdk`) and the stand-in SDK JAR reach it by the line protocol of [`line`].

mod admin;
pub mod ccp;
pub mod line;
mod store;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::fault::Faults;
use crate::serve::{Listening, lock};
use line::{Answer, Fields};

pub use store::{Account, Application, VaultConfig};

/// The longest request that is read.
const REQUEST_LINES: usize = 100;

/// What goes wrong. As JSON: `{"kind":"error","code":"APPAP007E","text":"..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VaultFault {
    /// The right answer, late.
    Slow { millis: u64 },
    /// The connection closes without an answer.
    Dead,
    /// No answer; the connection stays open.
    Hang,
    /// This code and text.
    Error { code: String, text: String },
    /// The application is not allowed.
    Denied,
    /// More than one account fits.
    Ambiguous,
    /// The account is found, its password is empty.
    EmptySecret,
    /// The command line program itself misbehaves (other clients are served as usual).
    Cli { mode: CliFault },
}

/// How the AIM client's program misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CliFault {
    /// Prints the right answer, and exits with 1.
    ExitWithStdout,
    /// Prints the secret on stderr too, and exits with 1.
    SecretOnStderr,
    /// Never ends by itself.
    Hang,
    /// Prints 64 MiB.
    Huge,
    /// Prints the right answer and exits with 0, but leaves a child that holds the pipe open for a minute.
    ForkKeepsPipe,
}

impl CliFault {
    fn name(self) -> &'static str {
        match self {
            Self::ExitWithStdout => "exit_with_stdout",
            Self::SecretOnStderr => "secret_on_stderr",
            Self::Hang => "hang",
            Self::Huge => "huge",
            Self::ForkKeepsPipe => "fork_keeps_pipe",
        }
    }
}

/// A request that the vault saw, and how it ended.
#[derive(Clone)]
pub struct SeenRequest {
    pub fields: Fields,
    /// `OK`, an error code, or `FAULT`.
    pub result: String,
}

/// A running vault; it ends when this is dropped.
pub struct Vault {
    state: Arc<State>,
    listening: Listening,
    admin: Listening,
}

pub(super) struct State {
    config: Mutex<VaultConfig>,
    /// Each with the object's name that it is for; none is for every one.
    faults: Faults<(VaultFault, Option<String>)>,
    seen: Mutex<Vec<SeenRequest>>,
    /// Requests that were read and are not answered yet.
    waiting: AtomicUsize,
}

impl Vault {
    /// Starts on loopback, with the admin endpoint on another free port.
    pub fn start(config: VaultConfig) -> io::Result<Self> {
        let port = config.port;
        let state = Arc::new(State {
            config: Mutex::new(config),
            faults: Faults::default(),
            seen: Mutex::default(),
            waiting: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&state);
        let listening = Listening::start(port, move |stream| serve(Arc::clone(&serving), stream))?;
        let admin = admin::start(Arc::clone(&state))?;
        Ok(Self { state, listening, admin })
    }

    /// Where the line protocol is spoken.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// For `ConnectionParms.Port` or `FAKE_AIM_PORT`.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The admin endpoint: `POST /accounts/{safe}/{name}/password`, `POST /faults`, `DELETE /faults`, `GET /stats`.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin.addr())
    }

    pub fn add_application(&self, application: Application) {
        lock(&self.state.config).applications.push(application);
    }

    pub fn add_account(&self, account: Account) {
        lock(&self.state.config).accounts.push(account);
    }

    /// Replaces an account of the same safe and name, or adds it.
    pub fn put_account(&self, account: Account) {
        let mut config = lock(&self.state.config);
        let same = |known: &Account| {
            known.safe.eq_ignore_ascii_case(&account.safe) && known.name.eq_ignore_ascii_case(&account.name)
        };
        config.accounts.retain(|known| !same(known));
        config.accounts.push(account);
    }

    /// Rotates a password. False when there is no such account.
    pub fn set_password(&self, safe: &str, name: &str, password: &str) -> bool {
        self.state.change(safe, name, |account| password.clone_into(&mut account.password))
    }

    /// Marks an account as being changed now, or no longer. False when there is no such account.
    pub fn set_change_in_process(&self, safe: &str, name: &str, changing: bool) -> bool {
        self.state.change(safe, name, |account| account.password_change_in_process = changing)
    }

    /// Orders a fault for the next `requests` requests; `None` is until cleared.
    pub fn set_fault(&self, fault: VaultFault, requests: Option<u32>) {
        self.state.faults.order((fault, None), requests);
    }

    /// The same, for requests whose query names this object only.
    pub fn set_fault_for(&self, object: &str, fault: VaultFault, requests: Option<u32>) {
        self.state.faults.order((fault, Some(object.to_owned())), requests);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.state.seen).clone()
    }

    /// Whether a request was read that is not answered yet.
    pub fn is_busy(&self) -> bool {
        self.state.waiting.load(Ordering::SeqCst) > 0
    }

    pub fn request_count(&self) -> usize {
        lock(&self.state.seen).len()
    }
}

impl State {
    fn change(&self, safe: &str, name: &str, change: impl FnOnce(&mut Account)) -> bool {
        let mut config = lock(&self.config);
        let found = config
            .accounts
            .iter_mut()
            .find(|known| known.safe.eq_ignore_ascii_case(safe) && known.name.eq_ignore_ascii_case(name));
        found.map(change).is_some()
    }

    /// The answer to one request, after the faults that are ordered; `None` when the connection is to close without one.
    async fn answer(&self, request: &Fields) -> Option<Answer> {
        let fault = self.faults.take(|(fault, object)| {
            let cli_only = matches!(fault, VaultFault::Cli { .. });
            let named = |object: &String| names_object(request.value("Query").unwrap_or(""), object);
            (!cli_only || request.value("client") == Some("cli")) && object.as_ref().is_none_or(named)
        });
        let right = || store::get_password(&lock(&self.config), request);
        let answer = match fault.map(|(fault, _)| fault) {
            None => right(),
            Some(VaultFault::Slow { millis }) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                right()
            }
            Some(VaultFault::Dead) => {
                self.record(request, "FAULT");
                return None;
            }
            Some(VaultFault::Hang) => {
                self.record(request, "FAULT");
                std::future::pending().await
            }
            Some(VaultFault::Error { code, text }) => Answer::Refused { code, text },
            Some(VaultFault::Denied) => store::denied(request.value("AppID").unwrap_or("")),
            Some(VaultFault::Ambiguous) => store::ambiguous(request.value("Query").unwrap_or("")),
            Some(VaultFault::EmptySecret) => match right() {
                Answer::Account(mut account) => {
                    for (name, value) in &mut account.0 {
                        if name == "Password" {
                            value.clear();
                        }
                    }
                    Answer::Account(account)
                }
                other => other,
            },
            Some(VaultFault::Cli { mode }) => match right() {
                Answer::Account(account) => Answer::Fault { mode: mode.name().to_owned(), account },
                other => other,
            },
        };
        let result = match &answer {
            Answer::Account(_) => "OK",
            Answer::Refused { code, .. } => code,
            Answer::Fault { .. } => "FAULT",
        };
        self.record(request, result);
        Some(answer)
    }

    fn record(&self, request: &Fields, result: &str) {
        lock(&self.seen).push(SeenRequest { fields: request.clone(), result: result.to_owned() });
    }
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    // A client that leaves in the middle has nobody to be told.
    drop(answer(&state, stream).await);
}

async fn answer(state: &State, stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = Fields::default();
    for _ in 0..REQUEST_LINES {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        request.push_line(line)?;
    }
    let _waiting = Waiting::new(&state.waiting);
    // A dead vault answers nothing.
    let Some(answer) = state.answer(&request).await else { return Ok(()) };
    stream.write_all(answer.encode().as_bytes()).await?;
    stream.shutdown().await
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn names_object(query: &str, object: &str) -> bool {
    query
        .split(';')
        .filter_map(|part| part.split_once('='))
        .any(|(key, value)| key.eq_ignore_ascii_case("object") && value.eq_ignore_ascii_case(object))
}
