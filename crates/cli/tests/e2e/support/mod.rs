//! The whole chain on loopback with the real authorization server. Shared by the end-to-end tests.

pub(crate) mod disk;
pub(crate) mod fake;
pub(crate) mod jar;
pub(crate) mod oidc;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use midward_demo::stack::{Issuer, Programs, Setup, Stack};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::Value;

use self::oidc::{OidcClient, OidcProvider, PublicKey, repository};

/// Everything that RFC 6749 2.3.1 encoding, a separator or a shell could trip over.
pub(crate) const CLIENT_ID: &str = "crm:/+%=& client;'\"";
pub(crate) const CLIENT_SECRET: &str = "s:/+%=& ecret,;'\"\\|$(x)`~";
pub(crate) const RESOURCE: &str = "https://crm.internal.example/api";

pub(crate) struct Chain {
    // Fields are dropped in this order: programs first, their folder last.
    pub(crate) stack: Stack,
    pub(crate) oidc: OidcProvider,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) struct Options {
    pub(crate) method: &'static str,
    pub(crate) token_lifetime: Duration,
    /// What the vault's account has for a password.
    pub(crate) secret: String,
    /// For `private_key_jwt`.
    pub(crate) public_key: Option<PublicKey>,
    /// Tokens that the real server can revoke and introspect; the API's own check knows JWTs only.
    pub(crate) opaque_tokens: bool,
    /// Changes the set-up before anything is started.
    pub(crate) adjust: fn(&mut Setup),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: "client_secret_basic",
            token_lifetime: Duration::from_secs(300),
            secret: CLIENT_SECRET.to_owned(),
            public_key: None,
            opaque_tokens: false,
            adjust: |_| {},
        }
    }
}

impl Chain {
    /// Starts everything up to a MID Server that takes requests.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let mut chain = Self::prepare(options).await?;
        chain.stack.apply().await?;
        chain.stack.enroll_mid(true).await?;
        chain.stack.start_mid().await?;
        Ok(chain)
    }

    /// Starts everything but the MID Server; nothing is applied yet.
    pub(crate) async fn prepare(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let client = OidcClient {
            id: CLIENT_ID,
            secret: CLIENT_SECRET,
            method: options.method,
            public_key: options.public_key.clone(),
        };
        let oidc =
            OidcProvider::start(folder.path(), &[client], RESOURCE, options.token_lifetime, options.opaque_tokens)
                .await?;
        let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, &options.secret);
        options.method.clone_into(&mut setup.client_auth);
        (options.adjust)(&mut setup);
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        Ok(Self { stack, oidc, folder })
    }

    /// `midward call ARGS --output json`, which must end with exit code 0.
    pub(crate) async fn call(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["call"];
        all.extend(args);
        all.extend(["--output", "json"]);
        Ok(serde_json::from_str(&self.stack.midward_ok(&all).await?)?)
    }

    /// `midward call ARGS`, which must fail: its exit code and the one line on standard error.
    pub(crate) async fn failing_call(&self, args: &[&str]) -> anyhow::Result<(i32, String)> {
        let mut all = vec!["call"];
        all.extend(args);
        let output = self.stack.midward(&all).await?;
        anyhow::ensure!(!output.status.success(), "the call succeeded: {}", String::from_utf8_lossy(&output.stdout));
        Ok((output.status.code().unwrap_or(-1), one_line(&output)?))
    }
}

/// The programs that cargo built beside this test.
pub(crate) fn programs() -> anyhow::Result<Programs> {
    let target = Path::new(env!("CARGO_BIN_EXE_midward")).parent().unwrap_or(Path::new("."));
    Programs::find(target, &repository())
}

fn one_line(output: &Output) -> anyhow::Result<String> {
    let text = String::from_utf8(output.stderr.clone())?;
    let line = text.trim_end().to_owned();
    anyhow::ensure!(!line.contains('\n'), "more than one line on standard error: {line}");
    Ok(line)
}
