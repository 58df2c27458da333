//! Requests to Conjur's API, and signing in to it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderValue, Method, Request, Response};
use midward_core::{ClientMaterial, Failure, MaterialField, Secret};
use zeroize::Zeroizing;

use super::WHO;
use super::answer::{access_token, login_refusal};
use super::config::{ConjurAuth, ConjurConfig};
use crate::cloud::{Network, check_endpoint, misconfigured, read_line, read_shared_line, send_failure};
use crate::hashicorp_vault::segment;
use crate::session::{Door, Grant, Upkeep};
use crate::{BoxFuture, ResolverContext};

pub(super) struct Client {
    auth: ConjurAuth,
    base: String,
    account: String,
    network: Network,
    limit: Duration,
}

impl Client {
    pub(super) fn new(config: &ConjurConfig, context: &ResolverContext) -> Result<Self, Failure> {
        check_endpoint("url", &config.url)?;
        let texts = match &config.auth {
            ConjurAuth::ApiKey { login, .. } => vec![("auth.login", login)],
            ConjurAuth::Jwt { service_id, host, .. } => {
                let host = host.as_ref().map(|host| ("auth.host", host));
                [("auth.service_id", service_id)].into_iter().chain(host).collect()
            }
        };
        for (name, text) in texts.into_iter().chain([("account", &config.account)]) {
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(misconfigured(format!("{name} must be a name")));
            }
        }
        Ok(Self {
            auth: config.auth.clone(),
            base: config.url.as_str().trim_end_matches('/').to_owned(),
            account: config.account.clone(),
            network: Network::to_vault(&context.vaults, Some(&config.url)),
            limit: Duration::from_millis(config.timeout_ms),
        })
    }

    /// The full name of a variable.
    pub(super) fn full_name(&self, variable: &str) -> String {
        format!("{}:variable:{variable}", self.account)
    }

    /// Several variables at once: all of them, or none.
    pub(super) async fn batch<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        token: &Secret,
    ) -> Result<Response<Bytes>, Failure> {
        let names: Vec<String> = names.map(segment).collect();
        let text = Zeroizing::new(format!("Token token=\"{}\"", token.expose_str().unwrap_or_default()));
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| misconfigured("the token cannot be a header's value"))?;
        value.set_sensitive(true);
        let request = Request::builder()
            .uri(format!("{}/secrets?variable_ids={}", self.base, names.join(",")))
            .header(AUTHORIZATION, value)
            // So that a value that is no text comes whole, too.
            .header(ACCEPT_ENCODING, "base64");
        self.send(request, Bytes::new()).await
    }

    async fn sign_in_with(&self, proof: ClientMaterial) -> Result<Grant, Failure> {
        let secret = proof.field(MaterialField::ClientSecret).map(Secret::expose).unwrap_or_default();
        let account = segment(&self.account);
        let (path, content_type, body) = match &self.auth {
            ConjurAuth::ApiKey { login, .. } => {
                let path = format!("authn/{account}/{}/authenticate", segment(login));
                (path, "text/plain", Bytes::copy_from_slice(secret))
            }
            ConjurAuth::Jwt { service_id, host, .. } => {
                let host = host.as_ref().map(|host| format!("/{}", segment(host))).unwrap_or_default();
                let path = format!("authn-jwt/{}/{account}{host}/authenticate", segment(service_id));
                let jwt = percent_encoding::percent_encode(secret, percent_encoding::NON_ALPHANUMERIC);
                (path, "application/x-www-form-urlencoded", Bytes::from(format!("jwt={jwt}")))
            }
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/{path}", self.base))
            .header("content-type", content_type);
        let answer = self.send(request, body).await?;
        if answer.status() != 200 {
            return Err(login_refusal(&answer));
        }
        let (token, life) = access_token(&answer)?;
        Ok(Grant { token, life: Some(life), upkeep: Upkeep::AsNeeded })
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Bytes>, Failure> {
        let request = request.body(body).map_err(|_| misconfigured("url cannot be asked"))?;
        self.network.send(request, self.limit).await.map_err(|error| send_failure(WHO, error))
    }
}

impl Door for Client {
    fn proof(&self) -> Result<ClientMaterial, Failure> {
        let secret = match &self.auth {
            ConjurAuth::ApiKey { api_key_file, .. } => read_line("auth.api_key_file", api_key_file)?,
            ConjurAuth::Jwt { token_file, shared_token_file: true, .. } => {
                read_shared_line("auth.token_file", token_file)?
            }
            ConjurAuth::Jwt { token_file, .. } => read_line("auth.token_file", token_file)?,
        };
        Ok(ClientMaterial::new().with(MaterialField::ClientSecret, secret))
    }

    fn sign_in(&self, proof: ClientMaterial) -> BoxFuture<'_, Result<Grant, Failure>> {
        Box::pin(self.sign_in_with(proof))
    }

    /// There is no such thing: another token costs as much.
    fn renew<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Result<Option<Grant>, Failure>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}
