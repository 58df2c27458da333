//! The stack that is measured: the real programs, a warm token unless said otherwise.

use std::time::Duration;

use anyhow::Context as _;
use midward_demo::stack::{Issuer, Programs, Setup, Stack};
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::postgres::Postgres;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};

use crate::load::Target;

const RESOURCE: &str = "https://bench.example/api";
const CLIENT_ID: &str = "bench-client";
const SECRET: &str = "bench-secret";

pub(crate) struct Bench {
    // Dropped in this order: programs first, their folder last.
    pub(crate) stack: Stack,
    pub(crate) server: AuthorizationServer,
    _folder: tempfile::TempDir,
    _database: Option<Postgres>,
}

impl Bench {
    pub(crate) async fn start(programs: &Programs) -> anyhow::Result<Self> {
        Self::launch(programs, false, None).await
    }

    /// The instance on PostgreSQL, with that database's own durability.
    pub(crate) async fn start_on_postgres(programs: &Programs) -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(Postgres::start).await??;
        Self::launch(programs, false, Some(server)).await
    }

    /// The instance serves HTTPS with a CA of its own.
    pub(crate) async fn start_with_tls(programs: &Programs, on_postgres: bool) -> anyhow::Result<Self> {
        let server = if on_postgres { Some(tokio::task::spawn_blocking(Postgres::start).await??) } else { None };
        Self::launch(programs, true, server).await
    }

    async fn launch(programs: &Programs, tls: bool, database: Option<Postgres>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = AuthorizationServer::start(AuthorizationServerConfig {
            clients: vec![OAuthClient::new(CLIENT_ID, SECRET)],
            lifetime: Duration::from_secs(3600),
            ..AuthorizationServerConfig::default()
        })?;
        let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let postgres = database.as_ref().map(Postgres::new_database).transpose()?;
        let setup = Setup { tls, postgres, ..Setup::new(issuer, RESOURCE, CLIENT_ID, SECRET) };
        let stack = Stack::start(programs.clone(), setup, api, folder.path()).await?;
        Ok(Self { stack, server, _folder: folder, _database: database })
    }

    /// A call through instance and MID Server.
    pub(crate) fn through(&self) -> anyhow::Result<Target> {
        Ok(Target {
            address: self.stack.call_addr,
            path: "/api/v1/connections/crm/call/hello".to_owned(),
            authorization: Some(self.stack.authorization()?),
        })
    }

    /// The same call straight to the API, with a token of its own.
    pub(crate) fn direct(&self) -> anyhow::Result<Target> {
        let token = self.server.issue(CLIENT_ID, "read", RESOURCE)?;
        Ok(Target {
            address: self.stack.api.addr(),
            path: "/api/hello".to_owned(),
            authorization: Some(format!("Bearer {token}")),
        })
    }

    /// A token request of its own on a connection of its own, as the MID Server sends it; returns the status.
    pub(crate) async fn token_request_alone(&self) -> anyhow::Result<u16> {
        let form = format!(
            "grant_type=client_credentials&scope=read&resource={}&client_id={CLIENT_ID}&client_secret={SECRET}",
            RESOURCE.replace(':', "%3A").replace('/', "%2F")
        );
        let request = http::Request::post(self.server.token_url())
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(bytes::Bytes::from(form))?;
        Ok(midward_fakes::client::send(request, None).await?.status().as_u16())
    }

    /// Queues a call; returns its identifier.
    pub(crate) async fn submit(&self) -> anyhow::Result<String> {
        let call = serde_json::json!({ "connection": "crm", "method": "GET", "path": "/hello" });
        let request = http::Request::post(format!("http://{}/api/v1/requests", self.stack.api_addr))
            .header(http::header::AUTHORIZATION, self.stack.authorization()?)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(bytes::Bytes::from(call.to_string()))?;
        let answer = midward_fakes::client::send(request, None).await?;
        let answer: serde_json::Value = serde_json::from_slice(answer.body())?;
        Ok(answer["id"].as_str().with_context(|| answer.to_string())?.to_owned())
    }

    /// Where a queued call stands.
    pub(crate) async fn request_state(&self, id: &str) -> anyhow::Result<String> {
        let request = http::Request::get(format!("http://{}/api/v1/requests/{id}", self.stack.api_addr))
            .header(http::header::AUTHORIZATION, self.stack.authorization()?)
            .body(bytes::Bytes::new())?;
        let answer = midward_fakes::client::send(request, None).await?;
        let answer: serde_json::Value = serde_json::from_slice(answer.body())?;
        Ok(answer["state"].as_str().with_context(|| answer.to_string())?.to_owned())
    }
}
