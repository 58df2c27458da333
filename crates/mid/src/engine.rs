//! One lease: document, policy, token, API call, outcome. Every path ends in an outcome with its trace.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use midward_core::{AccessToken, BootTime, CircuitRules, Clock, Failure, FingerprintKey, Hop, Random, Trace};
use midward_net::WayOut;
use midward_oauth::{
    AssertionAlgorithm, AssertionRules, ClientAuth, CredentialRef, DpopNonces, EndpointSource, Expected,
    FixedEndpoints, GrantFetcher, Rejected, Revocation, RevocationEndpoint, TokenCache, TokenHandle, TokenKey,
    TokenRequestSpec,
};
use midward_resolvers::{BoxFuture, Lookup};
use midward_wire::{ApiCall, ApiReply, ConfigDocument, LeaseGrant, Outcome};
use url::Url;

use crate::api::{ApiCallError, ApiCaller, CallToken, Called, proof_refused};
use crate::audit::{Audit, AuditEntry};
use crate::config_cache::{ConfigCache, Configured};
use crate::discovery::{Discoveries, PolicedEndpoints};
use crate::execute::{Execute, Leased};
use crate::grant::grant;
use crate::heartbeat::Resolvers;
use crate::link::Link;
use crate::policy::{Ask, Permit, PolicyStore, Ways, suggest};
use crate::revoke;
use crate::source::ResolverSource;
use crate::token_requests::ReplyRules;
use crate::transport::NetTokenTransport;

/// Before a lease's end from which on nothing is dialled any more; for short leases a tenth of them.
const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// Everything that an engine works with.
pub(crate) struct Engine {
    pub(crate) link: Arc<Link>,
    pub(crate) configs: Arc<ConfigCache<TokenHandle>>,
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) tokens: TokenCache,
    pub(crate) resolvers: Resolvers,
    pub(crate) token_way: WayOut,
    pub(crate) discoveries: Discoveries,
    pub(crate) apis: ApiCaller,
    pub(crate) audit: Arc<Audit>,
    pub(crate) fingerprint_key: FingerprintKey,
    /// What authorization servers want in the next DPoP proof.
    pub(crate) nonces: Arc<DpopNonces>,
    pub(crate) reply_rules: ReplyRules,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

impl Execute for Engine {
    fn execute(&self, leased: Leased) -> BoxFuture<'_, (Outcome, Trace)> {
        Box::pin(async move {
            let mut trace = Trace::default();
            let outcome = self.run(leased, &mut trace).await;
            (outcome, trace)
        })
    }

    fn wipe(&self) {
        self.configs.clear();
        self.tokens.flush(|_| true);
        self.forget_secrets();
    }

    fn revoke_all(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if limit.is_zero() {
                return;
            }
            let results = self.flush(None, limit).await;
            let count = |state| results.iter().filter(|(_, result)| revoke::state(result.as_ref()) == state).count();
            let (revoked, failed) = (count("revoked"), count("failed"));
            if revoked + failed > 0 {
                tracing::info!(revoked, failed, "tokens revoked before the end");
            }
        })
    }
}

impl Engine {
    /// Drops what was derived under another policy: permits decide again, fetchers get their guard anew.
    pub(crate) fn policy_changed(&self) {
        self.configs.clear();
    }

    /// Drops the tokens of one key or all, and takes them back at their servers within `limit`.
    pub(crate) async fn flush(
        &self,
        wanted: Option<&TokenKey>,
        limit: Duration,
    ) -> Vec<(TokenKey, Option<Revocation>)> {
        // The next token comes of a secret that is read anew.
        self.forget_secrets();
        let dropped = self.tokens.flush_all(|key| wanted.is_none_or(|wanted| key == wanted));
        let results = revoke::revoke_all(dropped, limit, &*self.clock).await;
        // Afterwards: what was known of an issuer served to revoke.
        self.discoveries.forget();
        results
    }

    /// Where a resolver keeps secrets for a while, they are gone.
    fn forget_secrets(&self) {
        self.resolvers.load().values().for_each(|resolver| resolver.forget());
    }

    /// The token that a connection uses, once it was used.
    pub(crate) fn key_of(&self, alias: &str) -> Result<TokenKey, Failure> {
        let documents = self.configs.documents();
        let known = documents.iter().filter(|config| config.document.connection.alias == alias);
        known.filter_map(|config| config.derived.get()).map(|handle| handle.key().clone()).next().ok_or_else(|| {
            Failure::permanent(
                Hop::Mid,
                "connection_not_used",
                format!("no call for connection {alias:?} has come to this MID Server since it started"),
                "Make a call first, or ask for --all.",
            )
        })
    }

    /// The connections whose calls use a token.
    pub(crate) fn connections_of(&self, key: &TokenKey) -> Vec<String> {
        let documents = self.configs.documents();
        let users = documents.iter().filter(|config| config.derived.get().is_some_and(|handle| handle.key() == key));
        let mut aliases: Vec<String> = users.map(|config| config.document.connection.alias.clone()).collect();
        aliases.sort_unstable();
        aliases.dedup();
        aliases
    }

    async fn run(&self, leased: Leased, trace: &mut Trace) -> Outcome {
        let ends = dial_until(&leased);
        let began = self.clock.boot();
        let config = match self.configs.document(leased.config()).await {
            Ok(config) => config,
            Err(failure) => return Outcome::Failed { failure: *failure },
        };
        let grant = leased.grant;
        let permit = match self.decide(&config.document, Some(&grant), trace, began) {
            Ok(permit) => permit,
            Err(failure) => return Outcome::Failed { failure },
        };
        let handle = config.derived.get_or_init(|| self.handle(&config.document, &permit));
        let outcome = self.call(&config, &permit, handle, &grant.call, ends, trace).await;
        tracing::debug!(request = grant.request_id, rule = permit.rule, outcome = describe(&outcome), "call ended");
        self.audit.record(AuditEntry::Call {
            at: self.clock.wall(),
            request_id: grant.request_id,
            connection: config.document.connection.alias.clone(),
            credential_id: config.document.credential.credential_id.clone(),
            rule: permit.rule,
            method: grant.call.method,
            origin: permit.call.map(|call| call.target.origin().ascii_serialization()).unwrap_or_default(),
            outcome: describe(&outcome),
        });
        outcome
    }

    fn decide(
        &self,
        document: &ConfigDocument,
        grant: Option<&LeaseGrant>,
        trace: &mut Trace,
        began: BootTime,
    ) -> Result<Permit, Failure> {
        let enrollment = self.link.enrollment();
        let ask = Ask {
            instance_id: &enrollment.instance_id,
            instance_name: &enrollment.instance_url,
            config: document,
            call: grant.map(|grant| &grant.call),
            ways: Ways { token_proxy: self.token_way.proxy_origin(), api_proxy: self.apis.proxy_origin() },
        };
        let decision = self.policy.decide(&ask);
        let took = self.clock.boot().saturating_since(began);
        match decision {
            Ok(permit) => {
                trace.push(Hop::Policy, format!("allowed by rule {}", permit.rule), took);
                Ok(permit)
            }
            Err(refusal) => {
                trace.push(Hop::Policy, "refused", took);
                self.audit.record(AuditEntry::Refusal {
                    at: self.clock.wall(),
                    reference: refusal.reference.clone(),
                    request_id: grant.map(|grant| grant.request_id.clone()).unwrap_or_default(),
                    connection: document.connection.alias.clone(),
                    credential_id: document.credential.credential_id.clone(),
                    code: refusal.code.to_owned(),
                    explanation: refusal.explanation.clone(),
                    suggestion: suggest(&ask),
                });
                Err(refusal.failure())
            }
        }
    }

    /// The way to the token of one document, under what policy permitted.
    fn handle(&self, document: &ConfigDocument, permit: &Permit) -> TokenHandle {
        let profile = &document.profile;
        let credential = &document.credential;
        let address = Url::parse(&document.connection.base_url).ok().and_then(|url| url.host_str().map(str::to_owned));
        let spec = TokenRequestSpec {
            token_url: placeholder(document, permit),
            grant: grant(profile, permit),
            client_auth: client_auth(profile.client_auth),
            scopes: profile.scopes.clone(),
            audience: profile.audience.clone(),
            resource: profile.resource.clone(),
            extra_parameters: profile.extra_parameters.clone(),
            assertion: AssertionRules {
                audience: permit.assertion_audience.clone(),
                algorithm: profile.assertion_algorithm.map(assertion_algorithm),
            },
            certificate_bound: profile.certificate_bound_tokens,
            dpop: profile.dpop_bound_tokens,
        };
        let lookup = Lookup { credential_id: credential.credential_id.clone(), address, fresh: false };
        let mut key = TokenKey::new(
            CredentialRef {
                instance: self.link.enrollment().instance_id.clone(),
                credential_id: lookup.credential_id.clone(),
                address: lookup.address.clone(),
                resolver: credential.resolver.clone(),
            },
            &spec,
        );
        if let Some(issuer) = discovered_at(document, permit) {
            key = key.discovered_at(issuer);
        }
        let fetcher = GrantFetcher {
            endpoints: self.endpoints(document, permit, spec.client_auth),
            expected: self.reply_rules.apply(&key.client.token_url, Expected::of(&spec)),
            spec,
            source: Arc::new(ResolverSource::new(
                Arc::clone(&self.resolvers),
                credential.resolver.clone(),
                lookup,
                Arc::clone(&self.clock),
            )),
            transport: Arc::new(NetTokenTransport::new(self.token_way.clone(), permit.guard.clone())),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            fingerprint_key: self.fingerprint_key.clone(),
            circuit_rules: CircuitRules::default(),
            nonces: Arc::clone(&self.nonces),
        };
        self.tokens.handle(key, Arc::new(fetcher))
    }

    /// Where the token request of a document goes: fixed, or looked up at the issuer and put before the rule.
    fn endpoints(
        &self,
        document: &ConfigDocument,
        permit: &Permit,
        client_auth: ClientAuth,
    ) -> Arc<dyn EndpointSource> {
        let Some(issuer) = discovered_at(document, permit) else {
            let revocation = permit.revocation_url.clone().map_or(RevocationEndpoint::None, RevocationEndpoint::At);
            return Arc::new(FixedEndpoints::new(placeholder(document, permit), revocation));
        };
        Arc::new(PolicedEndpoints {
            metadata: self.discoveries.of(issuer, &permit.guard),
            permit: Permit { call: None, ..permit.clone() },
            client_auth,
            connection: document.connection.alias.clone(),
            credential_id: document.credential.credential_id.clone(),
            policy: Arc::clone(&self.policy),
            audit: Arc::clone(&self.audit),
            clock: Arc::clone(&self.clock),
            refused: std::sync::Mutex::default(),
        })
    }

    async fn call(
        &self,
        config: &Configured<TokenHandle>,
        permit: &Permit,
        handle: &TokenHandle,
        call: &ApiCall,
        ends: BootTime,
        trace: &mut Trace,
    ) -> Outcome {
        let Some(permitted) = &permit.call else {
            // Policy was asked about a call, so it permitted one.
            return Outcome::Failed { failure: too_late() };
        };
        let body = Bytes::copy_from_slice(&call.body.0);
        let replay_methods = config.document.connection.replay_methods.as_deref();
        let mut refused: Option<(ApiReply, AccessToken)> = None;
        loop {
            let is_repeated = refused.is_some();
            let granted = match handle.cached() {
                Some(granted) => Ok(granted),
                None => handle.token(ends.saturating_since(self.clock.boot())).await,
            };
            let granted = match (granted, refused.take()) {
                // Some servers issue one token until it ends: what was refused is not tried again.
                (Ok(granted), Some((reply, token))) if *granted.token() == token => {
                    trace.push(Hop::Mid, "the authorization server issued the refused token again", Duration::ZERO);
                    return Outcome::Replied { reply };
                }
                (Ok(granted), _) => granted,
                // The API's own answer says more than why there is no other token to try.
                (Err(failure), Some((reply, _))) => {
                    trace.push(failure.hop, format!("no other token ({})", failure.code), Duration::ZERO);
                    return Outcome::Replied { reply };
                }
                (Err(failure), None) => return Outcome::Failed { failure },
            };
            trace.0.extend(granted.trace().0);
            let now = self.clock.boot();
            if now >= ends {
                return Outcome::Failed { failure: too_late() };
            }
            let with = CallToken {
                token: granted.token().clone(),
                expires: granted.expires(),
                certificate: granted.certificate().cloned(),
                dpop: granted.dpop().cloned(),
            };
            drop(granted);
            let timeout = Duration::from_millis(config.document.connection.timeout_ms);
            let remaining = ends.saturating_since(now);
            let result = self.apis.call(permitted, &permit.guard, body.clone(), &with, timeout, remaining).await;
            let took = self.clock.boot().saturating_since(now);
            let Called { reply, nonce_sent, challenge } = match result {
                Ok(called) => called,
                // It took so long to get a connection. Another token may still make it within the lease.
                Err(error) if !error.maybe_sent && !is_repeated && self.clock.boot() >= with.expires => {
                    trace.push(Hop::Api, "the token ended before a connection was there: nothing was sent", took);
                    continue;
                }
                Err(error) => {
                    trace.push(Hop::Api, format!("{} failed ({})", call.method, error.failure.code), took);
                    return outcome_of(error);
                }
            };
            let again = if nonce_sent { " (sent again with the DPoP nonce that it asked for)" } else { "" };
            trace.push(Hop::Api, format!("{} answered {}{again}", call.method, reply.status), took);
            if let Some(challenge) = challenge {
                // Another token would be refused for the same reason, so this one stays.
                trace.push(Hop::Mid, proof_refused(challenge, &reply, self.clock.wall()), Duration::ZERO);
                return Outcome::Replied { reply };
            }
            if reply.status != 401 || is_repeated {
                return Outcome::Replied { reply };
            }
            // Only the token that was refused is dropped: another call may have brought a new one meanwhile.
            let rejected = handle.reject(&with.token);
            let what = match rejected {
                Rejected::Kept => "token refused, as those before it: kept for now, and not asked for anew",
                _ if !call.may_repeat(replay_methods) => return Outcome::Replied { reply },
                Rejected::Dropped => "token refused: dropped, one more try",
                Rejected::Replaced => "token refused: one more try with the one that replaced it",
            };
            trace.push(Hop::Mid, what, Duration::ZERO);
            if rejected == Rejected::Kept {
                return Outcome::Replied { reply };
            }
            refused = Some((reply, with.token));
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("link", &self.link).field("configs", &self.configs).finish_non_exhaustive()
    }
}

/// When nothing may be dialled any more: the lease less its margin, or nobody waits.
fn dial_until(leased: &Leased) -> BootTime {
    let margin = LEASE_MARGIN.min(Duration::from_millis(leased.grant.lease_ms / 10));
    leased.lease_ends().saturating_sub(margin).min(leased.expires())
}

/// The issuer whose metadata names the token endpoint, if no token URL was configured.
fn discovered_at<'a>(document: &'a ConfigDocument, permit: &Permit) -> Option<&'a str> {
    document.profile.issuer.as_deref().filter(|_| permit.token_url.is_none())
}

/// The token URL; until metadata names it, one that the rule lists, which is never sent to.
fn placeholder(document: &ConfigDocument, permit: &Permit) -> Url {
    let listed = permit.token_url.as_ref().or_else(|| permit.token_urls.first());
    match listed {
        Some(url) => url.clone(),
        // A rule without token URLs is refused when the policy is read.
        None => unreachable!("rule {} lists no token URL for {}", permit.rule, document.connection.alias),
    }
}

fn too_late() -> Failure {
    Failure::transient(
        Hop::Mid,
        "request_expired",
        "the request's time was over before the API was called; nothing was sent",
        "Send the request again, with more time if the vault or authorization server is slow.",
    )
}

fn outcome_of(error: ApiCallError) -> Outcome {
    let mut failure = error.failure;
    if !error.maybe_sent {
        return Outcome::Failed { failure };
    }
    failure.detail += "; it may have acted on the call";
    failure.action = format!("Before you repeat the call, check at the API whether it was made. {}", failure.action);
    Outcome::Unknown { failure }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Replied { reply } => format!("replied {}", reply.status),
        Outcome::Failed { failure } => format!("failed {}", failure.code),
        Outcome::Unknown { failure } => format!("unknown {}", failure.code),
    }
}

const fn client_auth(wire: midward_wire::ClientAuth) -> ClientAuth {
    match wire {
        midward_wire::ClientAuth::ClientSecretBasic => ClientAuth::ClientSecretBasic,
        midward_wire::ClientAuth::ClientSecretBasicRaw => ClientAuth::ClientSecretBasicRaw,
        midward_wire::ClientAuth::ClientSecretPost => ClientAuth::ClientSecretPost,
        midward_wire::ClientAuth::ClientSecretJwt => ClientAuth::ClientSecretJwt,
        midward_wire::ClientAuth::PrivateKeyJwt => ClientAuth::PrivateKeyJwt,
        midward_wire::ClientAuth::TlsClientAuth => ClientAuth::TlsClientAuth,
        midward_wire::ClientAuth::SelfSignedTlsClientAuth => ClientAuth::SelfSignedTlsClientAuth,
    }
}

pub(crate) const fn assertion_algorithm(wire: midward_wire::AssertionAlgorithm) -> AssertionAlgorithm {
    match wire {
        midward_wire::AssertionAlgorithm::Rs256 => AssertionAlgorithm::Rs256,
        midward_wire::AssertionAlgorithm::Ps256 => AssertionAlgorithm::Ps256,
        midward_wire::AssertionAlgorithm::Es256 => AssertionAlgorithm::Es256,
        midward_wire::AssertionAlgorithm::EdDsa => AssertionAlgorithm::EdDsa,
    }
}
