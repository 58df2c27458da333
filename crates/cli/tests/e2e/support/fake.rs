//! The whole chain with an authorization server that takes faults to order.

use std::path::Path;

use midward_demo::stack::{Issuer, Setup, Stack};
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::Value;

use super::{CLIENT_ID, CLIENT_SECRET, RESOURCE, jar, programs};

pub(crate) struct FakeChain {
    // Programs first, their folder last.
    pub(crate) stack: Stack,
    pub(crate) server: AuthorizationServer,
    pub(crate) folder: tempfile::TempDir,
}

impl FakeChain {
    /// Everything but the MID Server; `secret` is the password of the vault's account.
    pub(crate) async fn prepare(config: AuthorizationServerConfig, secret: &str) -> anyhow::Result<Self> {
        Self::prepare_with(config, secret, |_| {}).await
    }

    /// As [`Self::prepare`]; `adjust` changes the set-up before anything is started.
    pub(crate) async fn prepare_with(
        mut config: AuthorizationServerConfig,
        secret: &str,
        adjust: impl FnOnce(&mut Setup),
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        config.clients = vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET)];
        let server = AuthorizationServer::start(config)?;
        let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, secret);
        adjust(&mut setup);
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        Ok(Self { stack, server, folder })
    }

    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.stack.apply().await?;
        self.stack.enroll_mid(true).await?;
        self.stack.start_mid().await
    }
}

/// Replaces a part of one of the stack's files, which must be there.
pub(crate) fn edit(stack: &Stack, name: &str, from: &str, to: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(stack.folder.join(name))?;
    anyhow::ensure!(text.contains(from), "{name} has no {from:?}");
    stack.write(name, &text.replace(from, to))
}

/// Puts a resolver JAR in the place of the sample: `lines` make its result of `values`, client id and password.
pub(crate) fn use_jar(stack: &Stack, folder: &Path, lines: &str) -> anyhow::Result<()> {
    let source = jar::LEGACY_RESOLVER.replace("result.put(\"pswd\", values[1]);", lines);
    anyhow::ensure!(source.contains(lines), "the source of the resolver has changed");
    let customer = jar::compile(folder, "com.snc.discovery.CredentialResolver", &source, None)?;
    let sample = stack.programs.sample_jar();
    edit(stack, "mid.toml", &sample.to_string_lossy(), &customer.to_string_lossy())?;
    let environment = "[resolvers.cyberark.environment_values]";
    edit(stack, "mid.toml", environment, &format!("{environment}\nAIM_PORT = \"{}\"", stack.vault.port()))
}

/// `midward-mid ARGS --output json`, which must end with exit code 0.
pub(crate) async fn ask_mid(stack: &Stack, args: &[&str]) -> anyhow::Result<Value> {
    let config = stack.path("mid.toml");
    let mut all = args.to_vec();
    all.extend(["--config", &config, "--output", "json"]);
    let output = stack.mid_command(&all).await?;
    anyhow::ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `midward call ARGS`: the API's status, or the one line on standard error.
pub(crate) async fn call(stack: &Stack, args: &[&str]) -> anyhow::Result<Result<u64, String>> {
    let mut all = vec!["call"];
    all.extend(args);
    all.extend(["--output", "json"]);
    let output = stack.midward(&all).await?;
    let answer = serde_json::from_slice::<Value>(&output.stdout).ok();
    let status = answer.and_then(|answer| answer["status"].as_u64());
    Ok(status.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}
