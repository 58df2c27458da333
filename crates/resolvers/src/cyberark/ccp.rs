//! The adapter over the Central Credential Provider: one request for each look-up, over kept connections.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use midward_core::{Clock, Failure, Hop, Trace};
use midward_net::{SendError, SendErrorKind, TlsFault};
use tokio::sync::Semaphore;
use url::Url;

use super::account::Account;
use super::cli::{busy, check_property};
use super::config::{CcpApi, CyberArkCcpConfig};
use super::criteria::Search;
use super::door::Door;
use super::{rest, soap};
use crate::cloud::{check_endpoint, limit, misconfigured, send_failure, timeout_failure, told};
use crate::cyberark_codes::cyberark_failure;
use crate::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

const WHO: &str = "the Central Credential Provider";

const WANTS_CERTIFICATE: &str = "If the web service wants a client certificate, set `certificate_file` and `key_file`, or `pfx_file`; else see its log.";

/// What either interface answered.
pub(super) enum Answer {
    Account(Account),
    /// CyberArk's error code.
    Refused(String),
}

pub(crate) struct CcpResolver {
    name: String,
    config: CyberArkCcpConfig,
    search: Search,
    endpoint: Url,
    door: Door,
    permits: Semaphore,
    clock: Arc<dyn Clock>,
}

impl CcpResolver {
    pub(crate) fn new(name: &str, config: &CyberArkCcpConfig, context: &ResolverContext) -> Result<Self, Failure> {
        check_endpoint("url", &config.own.url)?;
        if config.own.url.scheme() != "https" {
            return Err(misconfigured("url must be https: a secret comes back"));
        }
        let search = config.account.search(Some(&config.query));
        search.check()?;
        check_property(&config.query.client_id_property)?;
        let CyberArkCcpConfig { own, account, .. } = config;
        let fixed = account.app_id.chars().chain(account.reason.as_deref().unwrap_or_default().chars());
        if account.app_id.is_empty() || fixed.into_iter().any(char::is_control) {
            return Err(misconfigured("app_id is empty, or app_id or reason holds a control character"));
        }
        if own.service.split('/').any(|part| part == "." || part == "..") || own.service.chars().any(char::is_control) {
            return Err(misconfigured("service is not the name of a web service"));
        }
        let path = match own.api {
            CcpApi::Rest => rest::PATH,
            CcpApi::Soap => soap::PATH,
        };
        let endpoint = rest::endpoint(config, path)?;
        let door = Door::new(&context.vaults, config)?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            search,
            endpoint,
            door,
            permits: Semaphore::new(usize::from(own.concurrency.max(1))),
            clock: Arc::clone(&context.clock),
        })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        let criteria = self.search.criteria(lookup)?;
        let request = || match self.config.own.api {
            CcpApi::Rest => rest::request(&self.endpoint, &self.config, &criteria),
            CcpApi::Soap => soap::request(&self.endpoint, &self.config, &criteria),
        };
        let mut asked = request()?;
        let begin = self.clock.boot();
        let Ok(Ok(_permit)) = tokio::time::timeout(limit, self.permits.acquire()).await else {
            return Err(busy(limit));
        };
        let ready = self.clock.boot();
        let left = || limit.saturating_sub(self.clock.boot().saturating_since(begin));
        let network = self.door.network()?;
        let mut is_first = true;
        let response = loop {
            match network.send_once(asked, left()).await {
                Ok(response) => break response,
                // A kept connection, which the web server closed while it lay idle.
                Err(SendError { kind: SendErrorKind::Closed, .. }) if is_first => asked = request()?,
                Err(SendError { kind: SendErrorKind::Timeout, .. }) => return Err(timeout_failure(WHO, Some(limit))),
                Err(error) => return Err(self.not_sent(error)),
            }
            is_first = false;
        };
        let mut trace = Trace::default();
        trace.push(Hop::Vault, format!("{WHO} answered"), self.clock.boot().saturating_since(ready));
        let status = response.status();
        let property = &self.config.query.client_id_property;
        let answer = match self.config.own.api {
            CcpApi::Rest => rest::read(response.body(), property),
            CcpApi::Soap => soap::read(response.body(), property),
        };
        let account = match answer {
            // An account in anything but a 200 is somebody else's answer.
            Ok(Answer::Account(account)) if status == StatusCode::OK => account,
            Ok(Answer::Refused(code)) => return Err(cyberark_failure(&code)),
            Ok(Answer::Account(_)) => {
                return Err(self
                    .by_status(status)
                    .unwrap_or_else(|| not_understood("an account with an error's status")));
            }
            Err(failure) => return Err(self.by_status(status).unwrap_or(failure)),
        };
        let changing = account.changing;
        let material = account.material(property, self.config.query.content)?;
        Ok(Resolution { material, changing, trace })
    }

    fn not_sent(&self, error: SendError) -> Failure {
        let mut failure = send_failure(WHO, error);
        // A web server that misses a certificate ends the connection, with an alert that may get lost.
        let ended = matches!(error.kind, SendErrorKind::Closed | SendErrorKind::Tls(TlsFault::Alert));
        if ended && !self.door.is_identified() {
            WANTS_CERTIFICATE.clone_into(&mut failure.action);
        }
        failure
    }

    /// Answers without CyberArk's code come from the web server, or from what stands before it.
    fn by_status(&self, status: StatusCode) -> Option<Failure> {
        let said = format!("{WHO}'s web server answered {}", status.as_u16());
        match status.as_u16() {
            401 | 403 => Some(Failure::permanent(
                Hop::Vault,
                "vault_login_refused",
                format!("{said} without a code of CyberArk's"),
                if self.door.is_identified() {
                    "Check that the client certificate is valid, and that the web server trusts its issuer."
                } else {
                    WANTS_CERTIFICATE
                },
            )),
            404 => Some(Failure::transient(
                Hop::Vault,
                "vault_answer_invalid",
                format!("{said}: there is no such web service"),
                "Check the resolver's `url`, `service` and `api`.",
            )),
            429 | 500.. => Some(Failure::transient(
                Hop::Vault,
                "vault_unavailable",
                format!("{said}: it cannot serve now"),
                "It is asked again by itself; if it lasts, look at the web server's log.",
            )),
            _ => None,
        }
    }
}

impl fmt::Debug for CcpResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CcpResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for CcpResolver {
    fn kind(&self) -> &'static str {
        super::config::CCP_KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, self.look_up(lookup, limit(self.config.query.timeout_ms, deadline)))
    }

    /// The files of the client certificate are read; nobody is asked.
    fn report(&self) -> ResolverReport {
        match self.door.network() {
            Ok(_) => ResolverReport::Ready,
            Err(failure) => ResolverReport::Unusable(failure.to_string()),
        }
    }
}

pub(super) fn not_understood(what: &str) -> Failure {
    Failure::transient(
        Hop::Vault,
        "vault_answer_invalid",
        format!("{WHO} answered {what}"),
        "Check that the resolver's `url` and `service` lead to the CCP, and not to a proxy's page.",
    )
}
