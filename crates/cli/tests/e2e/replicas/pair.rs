//! Two instances on one PostgreSQL behind TCP balancers, and a MID Server: each of them can be killed.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use midward_demo::process::{Daemon, wait_for};
use midward_demo::stack::{Issuer, Setup, Stack};
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::balancer::Balancer;
use midward_fakes::postgres::Postgres;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::Value;

use super::RECOVERY;
use crate::support::{CLIENT_ID, CLIENT_SECRET, RESOURCE, programs};

/// The programs, and what stands between them.
pub(super) struct Pair {
    // Programs first, their folder last.
    pub(super) stack: Stack,
    second: Option<Daemon>,
    /// Each instance's two addresses: the API's and that of synchronous calls.
    addresses: [(SocketAddr, SocketAddr); 2],
    pub(super) balancer: Balancer,
    /// The one before the addresses of synchronous calls.
    pub(super) calls: Balancer,
    postgres: Arc<Postgres>,
    _server: AuthorizationServer,
    _folder: tempfile::TempDir,
}

impl Pair {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let postgres = Arc::new(tokio::task::spawn_blocking(Postgres::start_without_fsync).await??);
        let (balancer, calls) = (Balancer::start()?, Balancer::start()?);
        let clients = vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET)];
        let server = AuthorizationServer::start(AuthorizationServerConfig { clients, ..Default::default() })?;
        let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, CLIENT_SECRET);
        setup.public_url = Some(balancer.url());
        setup.postgres = Some(postgres.new_database()?);
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        let own = "path = \"instance-data\"\n";
        let second = "path = \"second-data\"\nkeys = \"instance-data\"\n";
        stack.write("second.toml", &stack.instance_toml().replace(own, second))?;
        let first = (stack.api_addr, stack.call_addr);
        let addresses = [first, first];
        let mut pair =
            Self { stack, second: None, addresses, balancer, calls, postgres, _server: server, _folder: folder };
        pair.start_second().await?;
        pair.stack.apply().await?;
        pair.stack.enroll_mid(true).await?;
        pair.stack.start_mid().await?;
        // Slow enough for kills to hit calls that are under way.
        pair.stack.api.set_fault(HttpFault::Slow { millis: 20 }, None);
        Ok(pair)
    }

    async fn start_second(&mut self) -> anyhow::Result<()> {
        let folder = &self.stack.folder;
        let ready = folder.join("second-data/listen.json");
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let config = folder.join("second.toml");
        let args = [OsStr::new("instance"), OsStr::new("--config"), config.as_os_str()];
        let log = folder.join("logs/second.log");
        let mut daemon = Daemon::start("the second instance", &self.stack.programs.midward, args, &[], &log)?;
        let listening: Value = wait_for("the second instance's start", RECOVERY, async || {
            daemon.check()?;
            let Ok(text) = std::fs::read(&ready) else { return Ok(None) };
            Ok(serde_json::from_slice(&text).ok())
        })
        .await?;
        self.second = Some(daemon);
        let address = |name: &str| anyhow::Ok(listening[name].as_str().context("an address")?.parse()?);
        self.addresses[1] = (address("api_addr")?, address("call_addr")?);
        self.balance(&self.addresses);
        Ok(())
    }

    fn balance(&self, between: &[(SocketAddr, SocketAddr)]) {
        let (apis, calls): (Vec<_>, Vec<_>) = between.iter().copied().unzip();
        self.balancer.set_targets(&apis);
        self.calls.set_targets(&calls);
    }

    pub(super) async fn kill_instance(&mut self, which: usize) -> anyhow::Result<()> {
        if which == 0 {
            self.stack.instance.take().context("an instance")?.kill().await?;
            self.balance(&self.addresses[1..]);
            self.stack.start_instance().await?;
            self.addresses[0] = (self.stack.api_addr, self.stack.call_addr);
            self.balance(&self.addresses);
            return Ok(());
        }
        self.second.take().context("a second instance")?.kill().await?;
        self.balance(&self.addresses[..1]);
        self.start_second().await
    }

    pub(super) async fn kill_mid(&mut self) -> anyhow::Result<()> {
        self.stack.mid.take().context("a MID Server")?.kill().await?;
        self.stack.spawn_mid()
    }

    pub(super) async fn kill_postgres(&self) -> anyhow::Result<()> {
        let postgres = Arc::clone(&self.postgres);
        tokio::task::spawn_blocking(move || postgres.crash().and_then(|()| postgres.resume())).await??;
        Ok(())
    }
}
