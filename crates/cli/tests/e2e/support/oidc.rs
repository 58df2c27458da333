//! The real `oidc-provider` as the third party's authorization server.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A client that the authorization server knows.
#[derive(Clone, Debug)]
pub(crate) struct OidcClient {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    /// The one way that the client may authenticate.
    pub(crate) method: &'static str,
    /// For `private_key_jwt`.
    pub(crate) public_key: Option<PublicKey>,
}

impl OidcClient {
    pub(crate) fn json(&self) -> Value {
        json!({
            "client_id": self.id,
            "client_secret": self.secret,
            "token_endpoint_auth_method": self.method,
            "public_keys": self.public_key.as_ref().map(|key| vec![key.json()]),
        })
    }
}

/// A key that a client's assertions are checked by.
#[derive(Clone, Debug)]
pub(crate) struct PublicKey {
    /// `SubjectPublicKeyInfo`.
    pub(crate) pem: String,
    pub(crate) alg: &'static str,
    pub(crate) kid: &'static str,
}

impl PublicKey {
    fn json(&self) -> Value {
        json!({ "pem": self.pem, "alg": self.alg, "kid": self.kid })
    }
}

pub(crate) struct OidcProvider {
    // Killed when dropped; it also ends when its standard input closes.
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) issuer: String,
}

impl OidcProvider {
    /// Starts it with one resource server, `resource`, whose tokens are JWTs, unless they are to be opaque, with the
    /// scopes `read write`.
    pub(crate) async fn start(
        folder: &Path,
        clients: &[OidcClient],
        resource: &str,
        token_lifetime: Duration,
        opaque_tokens: bool,
    ) -> anyhow::Result<Self> {
        let clients: Vec<Value> = clients.iter().map(OidcClient::json).collect();
        let config = json!({
            "clients": clients,
            "access_token_ttl": token_lifetime.as_secs(),
            "opaque_tokens": opaque_tokens,
            "resource_servers": { resource: { "scope": "read write" } },
        });
        Self::launch(folder, &config).await
    }

    /// Starts it with a configuration of the caller's own.
    pub(crate) async fn launch(folder: &Path, config: &Value) -> anyhow::Result<Self> {
        let config_file = folder.join("oidc-provider.json");
        std::fs::write(&config_file, config.to_string())?;
        let script = repository().join("tests/oidc-provider/server.mjs");
        let mut child = Command::new("node")
            .arg(&script)
            .arg(&config_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.join("oidc-provider.log"))?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start node: run the tests by `make test`, which installs it")?;
        let orders = child.stdin.take().context("no standard input")?;
        let mut answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let ready = next(&mut answers).await.with_context(|| {
            let log = std::fs::read_to_string(folder.join("oidc-provider.log")).unwrap_or_default();
            format!("oidc-provider did not start (`make test` installs its packages): {log}")
        })?;
        let issuer = ready["issuer"].as_str().context("no issuer")?.to_owned();
        Ok(Self { _child: child, orders, answers, issuer })
    }

    pub(crate) fn token_url(&self) -> String {
        format!("{}/token", self.issuer)
    }

    pub(crate) fn jwks_url(&self) -> String {
        format!("{}/jwks", self.issuer)
    }

    /// Replaces a client's secret; the old one stops working at once.
    pub(crate) async fn set_secret(&mut self, client_id: &str, secret: &str) -> anyhow::Result<()> {
        let order = json!({ "set_secret": { "client_id": client_id, "client_secret": secret } });
        self.order(order).await.map(|_| ())
    }

    /// Replaces a client's key; the old one stops working at once.
    pub(crate) async fn set_public_key(&mut self, client_id: &str, key: &PublicKey) -> anyhow::Result<()> {
        let order = json!({ "set_public_keys": { "client_id": client_id, "public_keys": [key.json()] } });
        self.order(order).await.map(|_| ())
    }

    /// Token requests since the start.
    pub(crate) async fn token_requests(&mut self) -> anyhow::Result<u64> {
        self.order(json!({ "token_requests": true })).await?["token_requests"].as_u64().context("no count")
    }

    /// The claims of the assertion that was the last grant.
    pub(crate) async fn last_assertion(&mut self) -> anyhow::Result<Value> {
        Ok(self.order(json!({ "last_assertion": true })).await?["last_assertion"].take())
    }

    /// Whether its introspection endpoint calls the token that was granted last active.
    pub(crate) async fn is_last_token_active(&mut self, client_id: &str, secret: &str) -> anyhow::Result<bool> {
        let order = json!({ "introspect_last": { "client_id": client_id, "client_secret": secret } });
        self.order(order).await?["active"].as_bool().context("no answer")
    }

    async fn order(&mut self, order: Value) -> anyhow::Result<Value> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        let answer = next(&mut self.answers).await?;
        if let Some(error) = answer.get("error") {
            bail!("oidc-provider refused {order}: {error}");
        }
        Ok(answer)
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Value> {
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.context("no answer")??;
    serde_json::from_str(&line.context("oidc-provider ended")?).context("not JSON")
}

/// The repository's top folder.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
