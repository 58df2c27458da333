//! Everything that one call passes through, started on loopback: vault, AIM client, JAR, target API, instance, MID
//! Server. The demo, the benchmarks and the end-to-end tests stand on it; the authorization server is the caller's.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use midward_fakes::target_api::TargetApi;
use midward_fakes::vault::{Account, Application, Vault, VaultConfig};
use serde_json::Value;

use crate::process::{Daemon, run, tail, wait_for};

/// The programs and JARs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    pub midward: PathBuf,
    pub midward_mid: PathBuf,
    /// The AIM client's command line (the fake one).
    pub clipasswordsdk: PathBuf,
    /// Folder with `midward-jar-host.jar`, `midward-mid-classes.jar`, `sample/` and the test-only `JavaPasswordSDK.jar`.
    pub jars: PathBuf,
}

impl Programs {
    /// Programs in one target folder, JARs in `build/` of the repository; an error names what is missing.
    pub fn find(target: &Path, repository: &Path) -> anyhow::Result<Self> {
        let found = Self {
            midward: target.join("midward"),
            midward_mid: target.join("midward-mid"),
            clipasswordsdk: target.join("clipasswordsdk"),
            jars: repository.join("build/jar-host"),
        };
        for path in [&found.midward, &found.midward_mid, &found.clipasswordsdk, &found.sample_jar(), &found.fake_sdk()]
        {
            ensure!(path.exists(), "{} is missing: `make test` and `make demo` build it", path.display());
        }
        Ok(found)
    }

    pub fn sample_jar(&self) -> PathBuf {
        self.jars.join("sample/credential-resolver.jar")
    }

    pub fn fake_sdk(&self) -> PathBuf {
        self.jars.join("JavaPasswordSDK.jar")
    }
}

/// The third party, as the MID Server and the API see it.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub issuer: String,
    pub token_url: String,
    pub jwks_url: String,
}

/// How a stack is set up. [`Setup::new`] has what fits most.
#[derive(Clone, Debug)]
pub struct Setup {
    pub issuer: Issuer,
    /// Audience of the API (RFC 8707 `resource` of the profile).
    pub resource: String,
    /// The entity's client authentication method.
    pub client_auth: String,
    /// The client that the vault's account holds.
    pub client_id: String,
    pub client_secret: String,
    /// The resolver of the connection `crm`: a section of `mid.toml`.
    pub resolver: String,
    /// Whether the instance serves HTTPS with a CA of its own.
    pub tls: bool,
    /// Public URL of the instance when something stands between it and the MID Server.
    pub public_url: Option<String>,
    /// Environment of both programs.
    pub environment: Vec<(String, String)>,
    /// Largest body that the instance takes, in bytes; its default when absent.
    pub body_limit: Option<usize>,
    /// URL of the instance's PostgreSQL database; SQLite when absent.
    pub postgres: Option<String>,
}

pub const SAFE: &str = "Finance";
pub const OBJECT: &str = "crm-client";
pub const APP_ID: &str = "ServiceNow_MID_Server";
pub const MID: &str = "edge-1";

impl Setup {
    pub fn new(issuer: Issuer, resource: &str, client_id: &str, client_secret: &str) -> Self {
        Self {
            issuer,
            resource: resource.to_owned(),
            client_auth: "client_secret_basic".to_owned(),
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            resolver: "cyberark".to_owned(),
            tls: false,
            public_url: None,
            environment: Vec::new(),
            body_limit: None,
            postgres: None,
        }
    }
}

/// A running stack. Dropping it ends every part.
pub struct Stack {
    pub programs: Programs,
    pub setup: Setup,
    /// Every file of the stack is below this folder.
    pub folder: PathBuf,
    pub vault: Vault,
    pub api: TargetApi,
    pub instance: Option<Daemon>,
    pub mid: Option<Daemon>,
    pub api_addr: SocketAddr,
    pub call_addr: SocketAddr,
}

impl Stack {
    /// Starts vault, API and instance, and writes the MID Server's files; the MID Server is enrolled and started by
    /// [`Self::enroll_mid`] and [`Self::start_mid`].
    pub async fn prepare(programs: Programs, setup: Setup, api: TargetApi, folder: &Path) -> anyhow::Result<Self> {
        let vault = Vault::start(VaultConfig {
            port: 0,
            applications: vec![Application::new(APP_ID, &[SAFE])],
            accounts: vec![Account::new(SAFE, OBJECT, &setup.client_id, &setup.client_secret)],
        })?;
        std::fs::create_dir_all(folder.join("logs"))?;
        let unset = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut stack = Self {
            programs,
            setup,
            folder: folder.to_owned(),
            vault,
            api,
            instance: None,
            mid: None,
            api_addr: unset,
            call_addr: unset,
        };
        stack.write("instance.toml", &stack.instance_toml())?;
        stack.write("mid.toml", &stack.mid_toml())?;
        stack.write("policy.toml", &stack.policy_toml())?;
        stack.write("connections.yaml", &stack.connections_yaml())?;
        stack.start_instance().await?;
        Ok(stack)
    }

    /// Everything, up to a MID Server that takes requests.
    pub async fn start(programs: Programs, setup: Setup, api: TargetApi, folder: &Path) -> anyhow::Result<Self> {
        let mut stack = Self::prepare(programs, setup, api, folder).await?;
        stack.apply().await?;
        stack.enroll_mid(true).await?;
        stack.start_mid().await?;
        Ok(stack)
    }

    pub async fn start_instance(&mut self) -> anyhow::Result<()> {
        let ready = self.folder.join("instance-data/listen.json");
        let _ = std::fs::remove_file(&ready);
        let environment = self.environment();
        let environment: Vec<(&str, &OsStr)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_ref())).collect();
        let config = self.folder.join("instance.toml");
        let args = [OsStr::new("instance"), OsStr::new("--config"), config.as_os_str()];
        let log = self.folder.join("logs/instance.log");
        let mut daemon = Daemon::start("the instance", &self.programs.midward, args, &environment, &log)?;
        let listening: Value = wait_for("the instance's start", Duration::from_secs(30), async || {
            daemon.check()?;
            let Ok(text) = std::fs::read(&ready) else { return Ok(None) };
            Ok(serde_json::from_slice(&text).ok())
        })
        .await?;
        self.api_addr = listening["api_addr"].as_str().context("no api_addr")?.parse()?;
        self.call_addr = listening["call_addr"].as_str().context("no call_addr")?.parse()?;
        self.instance = Some(daemon);
        self.take_admin_key()
    }

    /// Applies `connections.yaml`.
    pub async fn apply(&self) -> anyhow::Result<String> {
        self.midward_ok(&["apply", "-f", &self.path("connections.yaml")]).await
    }

    /// Makes a one-time token and enrolls the MID Server with it.
    pub async fn enroll_mid(&self, prevalidated: bool) -> anyhow::Result<()> {
        let token = self.path("enroll-token");
        let mut args = vec!["mid", "enroll-token", MID, "--output-file", &token];
        if prevalidated {
            args.push("--prevalidated");
        }
        self.midward_ok(&args).await?;
        let output = self.mid_command(&["enroll", "--config", &self.path("mid.toml"), "--token-file", &token]).await?;
        ensure!(output.status.success(), "enrollment failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts the MID Server and waits until the instance counts on it.
    pub async fn start_mid(&mut self) -> anyhow::Result<()> {
        self.spawn_mid()?;
        self.wait_for_mid().await
    }

    pub fn spawn_mid(&mut self) -> anyhow::Result<()> {
        let environment = self.environment();
        let environment: Vec<(&str, &OsStr)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_ref())).collect();
        let config = self.folder.join("mid.toml");
        let args = [OsStr::new("run"), OsStr::new("--config"), config.as_os_str()];
        let log = self.folder.join("logs/mid.log");
        self.mid = Some(Daemon::start("the MID Server", &self.programs.midward_mid, args, &environment, &log)?);
        Ok(())
    }

    /// Waits until the instance sees the MID Server alive with its resolver ready.
    pub async fn wait_for_mid(&mut self) -> anyhow::Result<()> {
        let limit = Duration::from_secs(30);
        let resolver = self.setup.resolver.clone();
        let mut daemon = self.mid.take().context("the MID Server was not started")?;
        let seen = wait_for("the MID Server's first heartbeat", limit, async || {
            daemon.check()?;
            let mids = self.midward_ok(&["get", "mids", "--output", "json"]).await?;
            let mids: Value = serde_json::from_str(&mids)?;
            let text = mids.to_string();
            Ok((text.contains("\"live\":true") && text.contains(&format!("\"{resolver}\""))).then_some(()))
        })
        .await;
        self.mid = Some(daemon);
        seen.with_context(|| tail(&self.folder.join("logs/mid.log"), 20))
    }

    /// Runs `midward` as the administrator.
    pub async fn midward(&self, args: &[&str]) -> anyhow::Result<Output> {
        let scheme = if self.setup.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.api_addr);
        let call_url = format!("{scheme}://{}", self.call_addr);
        let (key, ca) = (self.path("admin-key"), self.path("instance-data/ca.pem"));
        let mut environment: Vec<(&str, &OsStr)> = vec![
            ("MIDWARD_URL", url.as_ref()),
            ("MIDWARD_CALL_URL", call_url.as_ref()),
            ("MIDWARD_KEY_FILE", key.as_ref()),
        ];
        if self.setup.tls {
            environment.push(("MIDWARD_CA_FILE", ca.as_ref()));
        }
        run(&self.programs.midward, args, &environment, Duration::from_secs(60)).await
    }

    /// The same, for commands that must succeed; returns standard output.
    pub async fn midward_ok(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.midward(args).await?;
        if !output.status.success() {
            bail!("midward {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `midward-mid`.
    pub async fn mid_command(&self, args: &[&str]) -> anyhow::Result<Output> {
        run(&self.programs.midward_mid, args, &[], Duration::from_secs(60)).await
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// Writes a file of the stack, so that a later start or reload finds it.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.folder.join(name), text).with_context(|| name.to_owned())
    }

    /// The administrator's key, as the value of an Authorization header.
    pub fn authorization(&self) -> anyhow::Result<String> {
        Ok(format!("Bearer {}", std::fs::read_to_string(self.folder.join("admin-key"))?.trim()))
    }

    pub fn instance_toml(&self) -> String {
        let tls = if self.setup.tls { "self_signed" } else { "off" };
        let mut text = String::from("[server]\nlisten = \"127.0.0.1:0\"\ncall_listen = \"127.0.0.1:0\"\n");
        let _ = writeln!(text, "tls = \"{tls}\"");
        if let Some(url) = &self.setup.public_url {
            let _ = writeln!(text, "public_url = \"{url}\"");
        }
        text.push_str("[store]\npath = \"instance-data\"\n");
        if let Some(url) = &self.setup.postgres {
            let _ = writeln!(text, "[store.postgres]\nurl = \"{url}\"");
        }
        if let Some(bytes) = self.setup.body_limit {
            let _ = writeln!(text, "[limits]\nbody_bytes = {bytes}");
        }
        text
    }

    pub fn mid_toml(&self) -> String {
        let port = self.vault.port();
        let (sample, sdk) = (self.programs.sample_jar(), self.programs.fake_sdk());
        format!(
            r#"[mid]
name = "{MID}"
state_dir = "mid-state"

[policy]
file = "policy.toml"

[jar_host]
dir = "{jars}"

# A customer's own resolver JAR; it runs the AIM client's command line.
[resolvers.cyberark]
kind = "jar"
jar = "{sample}"
connect_ports = [{port}]

[resolvers.cyberark.environment_values]
AIM_CLIPASSWORDSDK_CMD = "{cli}"

[resolvers.cyberark.parameters]
"ext.cred.app_id" = "{APP_ID}"
"ext.cred.safe_name" = "{SAFE}"
"ext.cred.aim_port" = "{port}"

# CyberArk's own JAR, called by the built-in resolver.
[resolvers.cyberark-sdk]
kind = "cyberark_sdk"
jar = "{sdk}"
app_id = "{APP_ID}"
safe = "{SAFE}"
port = {port}
"#,
            jars = self.programs.jars.display(),
            sample = sample.display(),
            sdk = sdk.display(),
            cli = self.programs.clipasswordsdk.display(),
        )
    }

    pub fn policy_toml(&self) -> String {
        let mut text = String::from("version = 1\n");
        for resolver in ["cyberark", "cyberark-sdk"] {
            let name = format!("crm-{resolver}");
            text += &self.policy_rule(&name, OBJECT, resolver, &self.setup.issuer.token_url, &self.api.url());
        }
        text
    }

    /// One rule of the policy.
    pub fn policy_rule(&self, name: &str, credential_id: &str, resolver: &str, token_url: &str, api: &str) -> String {
        let resource = &self.setup.resource;
        format!(
            r#"
[[rule]]
name = "{name}"
credential_id = "{credential_id}"
resolver = "{resolver}"
token_urls = ["{token_url}"]
client_auth = ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"]
scopes = ["read", "write"]
resources = ["{resource}"]
api_origins = ["{api}"]
methods = ["GET", "HEAD", "POST"]
allow_addresses = ["127.0.0.0/8"]
allow_plain_http = true
"#
        )
    }

    pub fn connections_yaml(&self) -> String {
        format!(
            r#"version: 1
oauth_entities:
  - name: third-party
    token_url: {token_url}
    client_auth: {client_auth}
oauth_entity_profiles:
  - name: crm-read
    oauth_entity: third-party
    scopes: [read]
    resource: ["{resource}"]
credentials:
  - name: crm-oauth
    credential_id: {OBJECT}
    resolver: {resolver}
    oauth_entity_profile: crm-read
    applies_to: all
connections:
  - alias: crm
    base_url: {api}/api
    credential: crm-oauth
"#,
            token_url = self.setup.issuer.token_url,
            client_auth = self.setup.client_auth,
            resource = self.setup.resource,
            resolver = self.setup.resolver,
            api = self.api.url(),
        )
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.setup.environment.clone()
    }

    /// The first administrator's key lies in a file of the instance until it is used for the first time.
    fn take_admin_key(&self) -> anyhow::Result<()> {
        let (once, kept) = (self.folder.join("instance-data/first-admin-key"), self.folder.join("admin-key"));
        if !kept.exists() {
            std::fs::copy(&once, &kept).with_context(|| once.display().to_string())?;
        }
        Ok(())
    }
}
