//! Requests to Vault's HTTP API, and what its answers mean. Texts of the vault are not repeated.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use midward_core::{ClientMaterial, Failure, Hop, Secret};
use midward_net::ClientIdentity;
use serde::Deserialize;
use url::Url;

use super::WHO;
use super::config::{HashiCorpAuth, HashiCorpVaultConfig};
use super::path::encoded;
use crate::ResolverContext;
use crate::cloud::{Meaning, Members, Network, check_endpoint, misconfigured, send_failure};

/// Sends what look-ups and sign-ins ask for.
pub(super) struct Client {
    pub(super) auth: HashiCorpAuth,
    base: String,
    namespace: Option<HeaderValue>,
    auth_namespace: Option<HeaderValue>,
    limit: Duration,
    /// Replaced when the client certificate is.
    network: Mutex<Network>,
    /// Without a client certificate.
    bare: Network,
    /// A secret id that was unwrapped, and what it was wrapped in.
    pub(super) unwrapped: Mutex<Option<(Secret, Secret)>>,
}

/// Which namespace a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Secrets,
    Auth,
}

/// A secret of the key/value engine.
pub(super) struct Entry {
    pub(super) members: Members,
    pub(super) version: Option<u64>,
}

#[derive(Deserialize)]
struct Kv1 {
    data: Option<Members>,
}

#[derive(Deserialize)]
struct Kv2 {
    data: Option<Versioned>,
}

#[derive(Deserialize)]
struct Versioned {
    data: Option<Members>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(rename = "errors")]
    _errors: Vec<String>,
}

impl Client {
    pub(super) fn new(config: &HashiCorpVaultConfig, context: &ResolverContext) -> Result<Self, Failure> {
        check_endpoint("url", &config.url)?;
        for (name, path) in [
            ("the mount", Some(config.mount.as_str())),
            ("the path_prefix", config.path_prefix.as_deref()),
            ("the auth.mount", config.auth.mount()),
        ] {
            if path.is_some_and(|path| encoded(path).is_none()) {
                return Err(misconfigured(format!(
                    "{name} must be names with / between them, not beginning or ending with it"
                )));
            }
        }
        let network = Network::to_vault(&context.vaults, Some(&config.url));
        let auth_namespace = config.auth_namespace.as_ref().or(config.namespace.as_ref());
        Ok(Self {
            auth: config.auth.clone(),
            base: base(&config.url),
            namespace: namespace("the namespace", config.namespace.as_deref())?,
            auth_namespace: namespace("the auth_namespace", auth_namespace.map(String::as_str))?,
            limit: Duration::from_millis(config.timeout_ms),
            network: Mutex::new(network.clone()),
            bare: network,
            unwrapped: Mutex::default(),
        })
    }

    /// From now on this certificate is shown. A renewal must show the one of the sign-in.
    pub(super) fn identify(&self, certificate: &[u8], key: &[u8]) -> Result<(), Failure> {
        let identity = ClientIdentity::from_pem(certificate, key)
            .map_err(|error| misconfigured(format!("auth.certificate_file and auth.key_file: {error}")))?;
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = self.bare.identified(&identity);
        Ok(())
    }

    /// Reads; sent once more when an idle connection turned out to be closed.
    pub(super) async fn get(&self, path: &str, token: &Secret, fresh: bool) -> Result<Response<Bytes>, Failure> {
        let mut request = self.request(Method::GET, path, Place::Secrets, Some(token), Bytes::new())?;
        if fresh {
            // Vault's agent may keep secrets; the server itself does not.
            request.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        self.network().send(request, self.limit).await.map_err(|error| send_failure(WHO, error))
    }

    /// About the MID's own token or its sign-in. The body is JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> Result<Response<Bytes>, Failure> {
        let request = self.request(method, path, Place::Auth, token, body.into())?;
        self.network().send(request, self.limit).await.map_err(|error| send_failure(WHO, error))
    }

    /// For an order that can be carried out only once.
    pub(super) async fn order(&self, path: &str, token: &Secret) -> Result<Response<Bytes>, Failure> {
        let request = self.request(Method::POST, path, Place::Auth, Some(token), Bytes::new())?;
        self.network().send_once(request, self.limit).await.map_err(|error| send_failure(WHO, error))
    }

    fn network(&self) -> Network {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        place: Place,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Request<Bytes>, Failure> {
        // Vault's agent, when it asks for this header, refuses requests that a browser was tricked into.
        let mut request =
            Request::builder().method(method).uri(format!("{}/v1/{path}", self.base)).header("x-vault-request", "true");
        let namespace = if place == Place::Secrets { &self.namespace } else { &self.auth_namespace };
        if let Some(namespace) = namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_bytes(token.expose())
                .map_err(|_| misconfigured("the token for the vault cannot be a header's value"))?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        request.body(body).map_err(|_| misconfigured("url cannot be asked"))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// What was read, or why not.
pub(super) fn entry(response: &Response<Bytes>, kv_version: u8) -> Result<Entry, Failure> {
    let status = response.status().as_u16();
    if status == 404 {
        // A version that was deleted or destroyed has its metadata, but no data.
        return Err(match serde_json::from_slice::<Kv2>(response.body()) {
            Ok(Kv2 { data: Some(Versioned { data: None, .. }) }) if kv_version == 2 => {
                Meaning::Disabled.failure(WHO, "HTTP status 404")
            }
            _ if is_refusal(response) || is_odd_path(response) => not_found(),
            _ => Meaning::NotUnderstood.failure(WHO, "HTTP status 404"),
        });
    }
    if status != 200 {
        return Err(refusal(response));
    }
    // What serde_json says may quote the value.
    let not_understood = |_| Meaning::NotUnderstood.failure(WHO, "something");
    let entry = if kv_version == 1 {
        let read: Kv1 = serde_json::from_slice(response.body()).map_err(not_understood)?;
        read.data.map(|members| Entry { members, version: None })
    } else {
        let read: Kv2 = serde_json::from_slice(response.body()).map_err(not_understood)?;
        read.data.and_then(|versioned| {
            let version = Some(versioned.metadata.version);
            versioned.data.map(|members| Entry { members, version })
        })
    };
    entry.ok_or_else(|| Meaning::NotUnderstood.failure(WHO, "something without data"))
}

/// An answer with another status than was hoped for.
pub(super) fn refusal(response: &Response<Bytes>) -> Failure {
    let status = response.status().as_u16();
    let ours = is_refusal(response);
    let meaning = match status {
        403 if ours => Meaning::Denied,
        400 | 404 | 405 if ours => Meaning::BadRequest,
        429 => Meaning::Throttled,
        // 412: a performance standby that is behind. 472 and 473: standbys.
        412 | 472 | 473 | 500.. => Meaning::Unavailable,
        300..=399 => return standby(status),
        _ => Meaning::NotUnderstood,
    };
    meaning.failure(WHO, &format!("HTTP status {status}"))
}

/// An answer to a sign-in that brought no token.
pub(super) fn login_refusal(response: &Response<Bytes>) -> Failure {
    let status = response.status().as_u16();
    match status {
        400..=405 if is_refusal(response) => Meaning::LoginRefused.failure(WHO, &format!("HTTP status {status}")),
        _ => refusal(response),
    }
}

/// Whether Vault itself refused: `{"errors": [..]}`.
pub(super) fn is_refusal(response: &Response<Bytes>) -> bool {
    serde_json::from_slice::<Refused>(response.body()).is_ok()
}

/// What the second version's engine answers to the first one's paths: warnings in place of errors.
fn is_odd_path(response: &Response<Bytes>) -> bool {
    #[derive(Deserialize)]
    struct Odd {
        #[serde(rename = "warnings")]
        _warnings: Vec<String>,
    }
    serde_json::from_slice::<Odd>(response.body()).is_ok()
}

fn not_found() -> Failure {
    let action = "Check the credential identifier, and the resolver's mount, kv_version, path_prefix and namespace.";
    Failure { action: action.to_owned(), ..Meaning::NotFound.failure(WHO, "HTTP status 404") }
}

fn standby(status: u16) -> Failure {
    Failure::transient(
        Hop::Vault,
        "vault_unavailable",
        format!("{WHO} answered HTTP status {status}: a standby that sends to another address, which is not followed"),
        "Point the resolver's `url` at the active node, or at a load balancer that knows it.",
    )
}

fn base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn namespace(name: &str, value: Option<&str>) -> Result<Option<HeaderValue>, Failure> {
    let Some(value) = value.map(|value| value.trim_matches('/')).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let legal = encoded(value).is_some() && value.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::from_str(value).ok().filter(|_| legal);
    value.map(Some).ok_or_else(|| misconfigured(format!("{name} must be names of visible ASCII with / between them")))
}

/// The path of an engine's secret, ready for [`Client::get`].
pub(super) fn secret_path(config: &HashiCorpVaultConfig, id: &str) -> Result<String, Failure> {
    let below = super::path::of_credential_id(id)?;
    let mut path = encoded(&config.mount).unwrap_or_default();
    if config.kv_version == 2 {
        path.push_str("/data");
    }
    for part in [config.path_prefix.as_deref().and_then(encoded), Some(below)].into_iter().flatten() {
        path.push('/');
        path.push_str(&part);
    }
    Ok(path)
}

/// The material of an entry.
pub(super) fn material(entry: Entry, config: &HashiCorpVaultConfig) -> Result<ClientMaterial, Failure> {
    crate::cloud::from_members(entry.members, &config.fields, config.client_id.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from(body.to_owned())).expect("a response")
    }

    fn code(status: u16, body: &str, kv_version: u8) -> String {
        entry(&response(status, body), kv_version).map_or_else(|failure| failure.code, |_| String::new())
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let html = "<html>canary</html>";
        for (status, body, expected) in [
            (404, r#"{"errors":[]}"#, "vault_not_found"),
            (404, r#"{"errors":["no handler for route \"kv/data/x\". route entry not found."]}"#, "vault_not_found"),
            (404, r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine"]}"#, "vault_not_found"),
            (
                404,
                r#"{"data":{"data":null,"metadata":{"version":2,"deletion_time":"2026-01-01T00:00:00Z","destroyed":false}}}"#,
                "vault_secret_disabled",
            ),
            (404, html, "vault_answer_invalid"),
            (403, r#"{"errors":["permission denied"]}"#, "vault_denied"),
            (403, html, "vault_answer_invalid"),
            (400, r#"{"errors":["bad"]}"#, "vault_bad_request"),
            (400, html, "vault_answer_invalid"),
            (412, r#"{"errors":["required index state not present"]}"#, "vault_unavailable"),
            (429, html, "vault_throttled"),
            (473, "", "vault_unavailable"),
            (503, r#"{"errors":["Vault is sealed"]}"#, "vault_unavailable"),
            (307, "", "vault_unavailable"),
            (200, html, "vault_answer_invalid"),
            (200, "", "vault_answer_invalid"),
            (200, r#"{"data":null}"#, "vault_answer_invalid"),
            (200, r#"{"data":{"client_id":"a","client_secret":"b"}}"#, "vault_answer_invalid"),
            (204, "", "vault_answer_invalid"),
        ] {
            assert_eq!(code(status, body, 2), expected, "{status} {body}");
        }
        assert_eq!(code(200, r#"{"data":{"client_id":"a"}}"#, 1), "");
        assert_eq!(code(200, r#"{"data":{"data":{"client_id":"a"},"metadata":{"version":7}}}"#, 2), "");
    }

    #[test]
    fn only_a_refusal_of_vaults_own_speaks_of_the_sign_in() {
        for (status, body, expected) in [
            (400, r#"{"errors":["invalid role or secret ID"]}"#, "vault_login_refused"),
            (403, r#"{"errors":["permission denied"]}"#, "vault_login_refused"),
            (404, r#"{"errors":["no handler for route"]}"#, "vault_login_refused"),
            (403, "<html>", "vault_answer_invalid"),
            (503, r#"{"errors":["Vault is sealed"]}"#, "vault_unavailable"),
        ] {
            assert_eq!(login_refusal(&response(status, body)).code, expected, "{status} {body}");
        }
    }
}
