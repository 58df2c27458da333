//! The whole chain on loopback with the real authorization server. Shared by the end-to-end tests.
#![expect(dead_code, unreachable_pub, reason = "every test file uses its own part of this module")]

pub mod jar;
pub mod oidc;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use midward_demo::stack::{Issuer, Programs, Setup, Stack};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::Value;

use self::oidc::{OidcClient, OidcProvider, PublicKey, repository};

/// Everything that RFC 6749 2.3.1 encoding, a separator or a shell could trip over.
pub const CLIENT_ID: &str = "crm:/+%=& client;'\"";
pub const CLIENT_SECRET: &str = "s:/+%=& ecret,;'\"\\|$(x)`~";
pub const RESOURCE: &str = "https://crm.internal.example/api";

pub struct Chain {
    // Fields are dropped in this order: programs first, their folder last.
    pub stack: Stack,
    pub oidc: OidcProvider,
    pub folder: tempfile::TempDir,
}

pub struct Options {
    pub method: &'static str,
    pub token_lifetime: Duration,
    /// What the vault's account has for a password.
    pub secret: String,
    /// For `private_key_jwt`.
    pub public_key: Option<PublicKey>,
    /// Changes the set-up before anything is started.
    pub adjust: fn(&mut Setup),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: "client_secret_basic",
            token_lifetime: Duration::from_secs(300),
            secret: CLIENT_SECRET.to_owned(),
            public_key: None,
            adjust: |_| {},
        }
    }
}

impl Chain {
    /// Starts everything up to a MID Server that takes requests.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut chain = Self::prepare(options).await?;
        chain.stack.apply().await?;
        chain.stack.enroll_mid(true).await?;
        chain.stack.start_mid().await?;
        Ok(chain)
    }

    /// Starts everything but the MID Server; nothing is applied yet.
    pub async fn prepare(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let client = OidcClient {
            id: CLIENT_ID,
            secret: CLIENT_SECRET,
            method: options.method,
            public_key: options.public_key.clone(),
        };
        let oidc = OidcProvider::start(folder.path(), &[client], RESOURCE, options.token_lifetime).await?;
        let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, &options.secret);
        options.method.clone_into(&mut setup.client_auth);
        (options.adjust)(&mut setup);
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        Ok(Self { stack, oidc, folder })
    }

    /// `midward call ARGS --output json`, which must end with exit code 0.
    pub async fn call(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["call"];
        all.extend(args);
        all.extend(["--output", "json"]);
        Ok(serde_json::from_str(&self.stack.midward_ok(&all).await?)?)
    }

    /// `midward call ARGS`, which must fail: its exit code and the one line on standard error.
    pub async fn failing_call(&self, args: &[&str]) -> anyhow::Result<(i32, String)> {
        let mut all = vec!["call"];
        all.extend(args);
        let output = self.stack.midward(&all).await?;
        anyhow::ensure!(!output.status.success(), "the call succeeded: {}", String::from_utf8_lossy(&output.stdout));
        Ok((output.status.code().unwrap_or(-1), one_line(&output)?))
    }
}

/// The programs that cargo built beside this test.
pub fn programs() -> anyhow::Result<Programs> {
    let target = Path::new(env!("CARGO_BIN_EXE_midward")).parent().unwrap_or(Path::new("."));
    Programs::find(target, &repository())
}

fn one_line(output: &Output) -> anyhow::Result<String> {
    let text = String::from_utf8(output.stderr.clone())?;
    let line = text.trim_end().to_owned();
    anyhow::ensure!(!line.contains('\n'), "more than one line on standard error: {line}");
    Ok(line)
}
