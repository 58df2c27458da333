//! The HTTP client of the commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use midward_core::{Failure, Hop, Secret};
use midward_net::{AddressGuard, IpNet, SendError, SendErrorKind, SendOptions, WayConfig, WayOut};
use serde_json::Value;

use crate::commands::segment;
use crate::exit::CliError;

/// Largest answer that is taken in, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
/// Longest wait for an answer, where it does not depend on a call's.
const PATIENCE: Duration = Duration::from_secs(90);
/// What an answer may take beyond the wait that the instance was asked for.
const BEYOND: Duration = Duration::from_secs(30);

/// Where the instance is and how to speak to it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClientSettings {
    /// The instance's API, such as https://127.0.0.1:8440
    #[arg(long, global = true, env = "MIDWARD_URL", default_value = "https://127.0.0.1:8440")]
    url: String,
    /// Where synchronous calls go, such as https://127.0.0.1:8441; asked of nobody, so give it when it is elsewhere
    #[arg(long, global = true, env = "MIDWARD_CALL_URL", default_value = "https://127.0.0.1:8441")]
    call_url: String,
    /// File that holds the API key
    #[arg(long, global = true, env = "MIDWARD_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// PEM file of the CA that signed the instance's certificate
    #[arg(long, global = true, env = "MIDWARD_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// A client of one instance.
pub(crate) struct Client {
    way: WayOut,
    guard: AddressGuard,
    url: String,
    call_url: String,
    key: Secret,
}

impl Client {
    pub(crate) fn new(settings: &ClientSettings) -> Result<Self, CliError> {
        let file = settings.key_file.as_deref().ok_or_else(|| {
            CliError::usage("no API key is given", "Name its file with --key-file or MIDWARD_KEY_FILE.")
        })?;
        let key = Secret::new(read(file)?.trim_ascii().to_vec());
        let config = WayConfig { ca_file: settings.ca_file.clone(), ..WayConfig::default() };
        let way = WayOut::new(&config, Path::new(""))
            .map_err(|error| CliError::usage(error.to_string(), "Check --ca-file: it names the PEM file of the CA."))?;
        // The user of the command chose the address.
        let guard = AddressGuard::new(["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse::<IpNet>().ok()));
        let trim = |url: &str| url.trim_end_matches('/').to_owned();
        Ok(Self { way, guard, url: trim(&settings.url), call_url: trim(&settings.call_url), key })
    }

    /// Asks the API; an answer that is not 2xx is an error.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let content = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let headers = [("content-type".to_owned(), "application/json".to_owned())];
        let answer = self.send(method, &format!("{}{path}", self.url), &headers, content, PATIENCE).await?;
        let value: Value = if answer.body().is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(answer.body()).map_err(|_| not_midward(answer.status().as_u16()))?
        };
        if answer.status().is_success() { Ok(value) } else { Err(CliError::problem(&value)) }
    }

    /// Makes a synchronous call, whose headers ask the instance to wait for `wait`; the answer is the API's, or Midward's
    /// own problem document.
    pub(crate) async fn call(
        &self,
        connection: &str,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
        wait: Duration,
    ) -> Result<Response<Bytes>, CliError> {
        let path = path.trim_start_matches('/');
        self.send(
            method,
            &format!("{}/api/v1/connections/{}/call/{path}", self.call_url, segment(connection)),
            headers,
            body,
            wait.saturating_add(BEYOND),
        )
        .await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(String, String)],
        body: Bytes,
        deadline: Duration,
    ) -> Result<Response<Bytes>, CliError> {
        let mut bearer = http::HeaderValue::from_bytes(&[b"Bearer ", self.key.expose()].concat()).map_err(|_| {
            CliError::usage("the API key file holds no API key", "Give the file that holds the key alone.")
        })?;
        bearer.set_sensitive(true);
        let mut request = Request::builder().method(method).uri(url).header(header::AUTHORIZATION, bearer);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| {
            CliError::usage(format!("the request cannot be made: {error}"), "Check URL, path and headers.")
        })?;
        let options = SendOptions { deadline, max_body: LARGEST_ANSWER, guard: self.guard.clone() };
        self.way.send(request, &options).await.map_err(|error| unreachable(url, error))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(file)
        .map_err(|error| CliError::usage(format!("{} cannot be read: {error}", file.display()), "Check the path."))
}

fn unreachable(url: &str, error: SendError) -> CliError {
    let origin = url.split('/').take(3).collect::<Vec<_>>().join("/");
    let action = match error.kind {
        SendErrorKind::Tls(_) => "Name the instance's CA with --ca-file (`ca.pem` in its data folder).",
        SendErrorKind::Timeout => "Look into the instance's log.",
        SendErrorKind::BodyTooLarge { .. } => "Ask for less at once.",
        _ => "Check --url (or --call-url), and that the instance runs.",
    };
    Failure::transient(Hop::Instance, "instance_unreachable", format!("{origin}: {error}"), action).into()
}

fn not_midward(status: u16) -> CliError {
    let detail = format!("the answer (status {status}) is not one of Midward's");
    Failure::permanent(Hop::Instance, "not_midward", detail, "Check --url: something else answers there.").into()
}
