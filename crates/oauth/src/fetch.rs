//! One fetch: secret from the resolver, token from the authorization server, and what to make of a refusal.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use midward_core::{
    AccessToken, Admission, BootTime, Circuit, CircuitRules, ClientMaterial, Clock, Failure, Fingerprint,
    FingerprintKey, Hop, Minted, Persistence, Random, Retry, Trace,
};

use tokio::sync::Notify;

use crate::discovery::EndpointSource;
use crate::dpop::{DpopKey, DpopNonces};
use crate::exchange::{Exchanged, NotExchanged};
use crate::failures;
use crate::in_turn::InTurn;
use crate::reply::{self, Expected, ReplyClass, ReplyError, TokenHttpReply, TokenReply};
use crate::request::{ClientCertificate, TokenHttpRequest, TokenRequestSpec};
use crate::revoke::{self, Revocation};
use crate::turn::{Refused, Turns};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a vault returned. Wiped when dropped, which is as soon as the token request is built.
#[derive(Debug)]
pub struct Material {
    pub material: ClientMaterial,
    /// The vault is changing the secret right now: a refusal may go away by itself.
    pub changing: bool,
    /// The steps inside: JAR, vault.
    pub trace: Trace,
}

/// Where the secret of one credential comes from. Has a deadline of its own.
pub trait MaterialSource: Send + Sync + 'static {
    /// `fresh`: read past every cache.
    fn read(&self, fresh: bool) -> BoxFuture<'_, Result<Material, Failure>>;
}

/// Sends token requests.
pub trait TokenTransport: Send + Sync + 'static {
    /// Sends `request` by POST without following redirects, and reads at most [`TokenHttpReply::MAX_BODY`] bytes.
    fn post(
        &self,
        request: TokenHttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>>;
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFailureKind {
    /// Name not found, connection refused or lost.
    Unreachable,
    /// No complete answer in time.
    TimedOut,
    /// The server's certificate was refused, or there is no common TLS version.
    Tls,
    /// The answer is not HTTP as it must be, or is longer than the limit.
    BadReply,
    /// The address or URL may not be dialled by this MID Server's own rules.
    Refused,
    /// The client certificate from the vault cannot be used; nothing was sent.
    Certificate,
}

/// `detail` is the transport's own text, in one sentence without a full stop; never text of the server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TransportFailure {
    pub kind: TransportFailureKind,
    pub detail: String,
}

/// A token as it was fetched.
#[derive(Clone, Debug)]
pub struct FetchedToken {
    pub token: AccessToken,
    pub scopes: BTreeSet<String>,
    /// The version of the secret that it was minted with.
    pub fingerprint: Option<Fingerprint>,
    /// Of a token that is bound to it (RFC 8705 3): presented to the API too.
    pub certificate: Option<ClientCertificate>,
    /// Of a token that is bound to it (RFC 9449): each call of the API proves it.
    pub dpop: Option<DpopKey>,
}

/// How a fetch ended.
#[derive(Debug)]
pub struct Fetched {
    pub result: Result<Minted<FetchedToken>, FetchFailure>,
    pub trace: Trace,
}

#[derive(Clone, Debug)]
pub struct FetchFailure {
    pub failure: Arc<Failure>,
    pub retry: Retry,
}

impl FetchFailure {
    /// Takes the way to go on from the failure's own persistence.
    pub fn new(failure: Failure) -> Self {
        let retry = match failure.persistence {
            Persistence::Transient => Retry::Backoff,
            Persistence::Permanent => Retry::OnDemand,
        };
        Self { failure: Arc::new(failure), retry }
    }
}

/// The circuit that all profiles of one credential at one server share.
#[derive(Debug, Default)]
pub struct SharedCircuit(Mutex<Circuit>);

impl SharedCircuit {
    /// Closes it: for an operator.
    pub fn close(&self) {
        self.change(|_| (Circuit::Closed, ()));
    }

    pub fn is_open(&self) -> bool {
        self.change(|circuit| {
            let open = circuit.is_open();
            (circuit, open)
        })
    }

    /// Until when a refused secret is not sent; `None` when nothing speaks against it.
    pub(crate) fn open_until(&self) -> Option<BootTime> {
        self.change(|circuit| {
            let until = circuit.open_until();
            (circuit, until)
        })
    }

    fn refused(&self, print: Fingerprint) -> Option<Arc<Failure>> {
        self.change(|circuit| {
            let failure = circuit.refused(print);
            (circuit, failure)
        })
    }

    fn change<R>(&self, with: impl FnOnce(Circuit) -> (Circuit, R)) -> R {
        let mut circuit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, result) = with(std::mem::take(&mut *circuit));
        *circuit = next;
        result
    }
}

/// Which hop a running fetch waits on; for those whose own deadline ends first.
#[derive(Debug, Default)]
pub struct Progress {
    at_server: AtomicU8,
    urgent: AtomicBool,
    became_urgent: Notify,
}

impl Progress {
    pub fn hop(&self) -> Hop {
        if self.at_server.load(Ordering::Relaxed) == 0 { Hop::Vault } else { Hop::AuthorizationServer }
    }

    pub(crate) fn at_server(&self) {
        self.at_server.store(1, Ordering::Relaxed);
    }

    /// A caller waits for this fetch.
    pub(crate) fn set_urgent(&self) {
        if !self.urgent.swap(true, Ordering::AcqRel) {
            self.became_urgent.notify_one();
        }
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Returns when a caller waits for this fetch.
    pub(crate) async fn urgent(&self) {
        while !self.is_urgent() {
            self.became_urgent.notified().await;
        }
    }

    fn at_vault(&self) {
        self.at_server.store(0, Ordering::Relaxed);
    }
}

/// What a fetch is given by the cache.
#[derive(Clone, Debug, Default)]
pub struct FetchContext {
    pub circuit: Arc<SharedCircuit>,
    pub progress: Arc<Progress>,
    pub turns: Turns,
}

/// Fetches one token. The cache sees to it that one fetch runs at a time for each key.
pub trait TokenFetcher: Send + Sync + 'static {
    fn fetch(&self, context: FetchContext) -> BoxFuture<'_, Fetched>;

    /// Takes a token back at the server (RFC 7009), within `limit`.
    fn revoke<'a>(&'a self, _token: &'a AccessToken, _limit: Duration) -> BoxFuture<'a, Revocation> {
        Box::pin(std::future::ready(Revocation::NoEndpoint))
    }
}

/// One grant without a user: reads the secret, sends it, reads the reply.
pub struct GrantFetcher {
    /// Its token URL is what [`Self::endpoints`] says at each fetch.
    pub spec: TokenRequestSpec,
    pub endpoints: Arc<dyn EndpointSource>,
    pub expected: Expected,
    pub source: Arc<dyn MaterialSource>,
    pub transport: Arc<dyn TokenTransport>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub fingerprint_key: FingerprintKey,
    pub circuit_rules: CircuitRules,
    /// Of all authorization servers.
    pub nonces: Arc<DpopNonces>,
}

impl GrantFetcher {
    /// The token request takes at most this long, all in all.
    pub const DEADLINE: Duration = Duration::from_secs(10);

    async fn run(&self, context: &FetchContext, trace: &mut Trace) -> Result<Minted<FetchedToken>, FetchFailure> {
        let circuit = &*context.circuit;
        let now = self.clock.boot();
        let admission = circuit.change(|state| state.admit(now, &self.circuit_rules));
        let (fresh, refused) = match admission {
            Admission::Go => (false, None),
            Admission::Trial => (true, None),
            Admission::Reread { refused } => (true, Some(refused)),
            Admission::Refuse { failure, .. } => {
                trace.push(Hop::Mid, "circuit open: nothing was sent", Duration::ZERO);
                return Err(self.probe(failure, circuit));
            }
        };
        let located = &self.locate(context, trace).await?;
        let first = self.read(fresh, context, trace).await?;
        let print = first.material.fingerprint(&self.fingerprint_key);
        let trial = fresh && refused.is_none();
        if !trial && let Some(failure) = circuit.refused(print) {
            trace.push(Hop::Mid, "the vault still returns the refused secret: nothing was sent", Duration::ZERO);
            return Err(self.probe(failure, circuit));
        }

        let (print, error, changing, turn) =
            match self.send(located, first, print, fresh, trial, Refused::default(), context, trace).await? {
                Ok(minted) => {
                    circuit.close();
                    return Ok(minted);
                }
                Err(refusal) => refusal,
            };
        // `turn` lives until the circuit knows: whoever waits to send the same secret sees it.
        if fresh {
            return Err(self.refuse(located, print, &error, changing, circuit));
        }
        // The secret may just have been rotated: read it past every cache, and try once more if it is another one.
        let again = match self.read(true, context, trace).await {
            Ok(again) => again,
            Err(failure) => {
                // Not sent again either way: until the vault answers, this secret counts as refused.
                self.refuse(located, print, &error, changing, circuit);
                return Err(failure);
            }
        };
        let new = again.material.fingerprint(&self.fingerprint_key);
        if new == print {
            return Err(self.refuse(located, print, &error, changing || again.changing, circuit));
        }
        match self.send(located, again, new, true, false, turn, context, trace).await? {
            Ok(minted) => {
                circuit.close();
                Ok(minted)
            }
            Err((print, error, changing, _turn)) => Err(self.refuse(located, print, &error, changing, circuit)),
        }
    }

    /// The request with the endpoint that it goes to.
    async fn locate(&self, context: &FetchContext, trace: &mut Trace) -> Result<Located, FetchFailure> {
        context.progress.at_server();
        let asked = self.clock.boot();
        let endpoints = self.endpoints.endpoints().await;
        let took = self.clock.boot().saturating_since(asked);
        match endpoints {
            Ok(endpoints) => {
                if took >= Duration::from_millis(1) {
                    trace.push(Hop::AuthorizationServer, "token endpoint looked up", took);
                }
                if self.spec.dpop && endpoints.lacks_dpop_algorithm {
                    // It would refuse every proof, and hardly any server says so clearly.
                    let failure = failures::dpop_algorithm_unlisted();
                    trace.push(failure.hop, failure.code.as_str(), took);
                    return Err(FetchFailure::new(failure));
                }
                let spec = TokenRequestSpec { token_url: endpoints.token_url, ..self.spec.clone() };
                Ok(Located { spec, lacks_method: endpoints.lacks_method })
            }
            Err(failure) => {
                trace.push(failure.hop, failure.code.as_str(), took);
                Err(FetchFailure::new(failure))
            }
        }
    }

    pub(crate) async fn read(
        &self,
        fresh: bool,
        context: &FetchContext,
        trace: &mut Trace,
    ) -> Result<Material, FetchFailure> {
        context.progress.at_vault();
        let asked = self.clock.boot();
        let read = self.source.read(fresh).await;
        let took = self.clock.boot().saturating_since(asked);
        match read {
            Ok(mut material) => {
                if material.trace.0.is_empty() {
                    trace.push(Hop::Vault, "secret read", took);
                }
                trace.0.append(&mut material.trace.0);
                Ok(material)
            }
            Err(failure) => {
                trace.push(failure.hop, failure.code.as_str(), took);
                Err(FetchFailure::new(failure))
            }
        }
    }

    /// The outer error ends the fetch; the inner one is a refusal of the client, after which the secret is read again.
    #[expect(clippy::too_many_arguments, reason = "the state of one fetch, which has no meaning beyond it")]
    async fn send(
        &self,
        located: &Located,
        material: Material,
        print: Fingerprint,
        fresh: bool,
        trial: bool,
        after: Refused,
        context: &FetchContext,
        trace: &mut Trace,
    ) -> Result<Result<Minted<FetchedToken>, (Fingerprint, ReplyError, bool, Refused)>, FetchFailure> {
        let InTurn { turn, material, print } = self.in_turn(material, print, fresh, after, context, trace).await?;
        let changing = material.changing;
        if !trial && let Some(failure) = context.circuit.refused(print) {
            trace.push(Hop::Mid, "refused to another profile of this credential: nothing was sent", Duration::ZERO);
            return Err(self.probe(failure, &context.circuit));
        }
        let exchanged = match self.exchange(&located.spec, material.material, trace).await {
            Ok(exchanged) => exchanged,
            Err(NotExchanged::Unbuilt(error)) => return Err(FetchFailure::new(failures::of_request(&error))),
            Err(NotExchanged::Failed(failure)) => {
                let failure = FetchFailure::new(failure);
                turn.failed(&failure);
                return Err(failure);
            }
        };
        let Exchanged { reply, requested, lead, took, certificate, dpop } = exchanged;
        let error = match reply::parse(&reply, &self.expected, self.clock.wall()) {
            Ok(TokenReply { token, lifetime, scopes }) => {
                turn.proved();
                trace.push(Hop::AuthorizationServer, "token granted", took);
                let certificate = certificate.filter(|_| located.spec.certificate_bound);
                let token = FetchedToken { token, scopes, fingerprint: Some(print), certificate, dpop };
                return Ok(Ok(Minted { token, requested, lifetime, lead }));
            }
            Err(error) => error,
        };
        trace.push(Hop::AuthorizationServer, format!("answered {}: {}", error.status, error.code), took);
        tracing::warn!(
            status = error.status,
            code = error.code,
            body_len = reply.body.len(),
            content_type = failures::content_type(&reply.headers),
            "token request refused"
        );
        if matches!(error.code, "token_endpoint_not_found" | "token_endpoint_redirects") {
            self.endpoints.forget();
        }
        if error.class == ReplyClass::InvalidClient {
            return Ok(Err((print, error, changing, turn.refused())));
        }
        let retry = match (error.class, error.retry_after) {
            (ReplyClass::Permanent, _) => Retry::OnDemand,
            (_, Some(wait)) => Retry::After(wait),
            (_, None) => Retry::Backoff,
        };
        let mut failure = failures::of_reply(&error);
        if error.code == "dpop_proof_refused" {
            failure = failures::with_clock(failure, &error);
        }
        let failure = FetchFailure { failure: Arc::new(failure), retry };
        turn.failed(&failure);
        Err(failure)
    }

    /// The server refuses a secret that the vault still returns.
    fn refuse(
        &self,
        located: &Located,
        print: Fingerprint,
        error: &ReplyError,
        changing: bool,
        circuit: &SharedCircuit,
    ) -> FetchFailure {
        if changing {
            return FetchFailure::new(failures::secret_changing());
        }
        let mut failure = failures::of_reply(error);
        if matches!(error.code, "invalid_client" | "unauthorized_client") && self.spec.grant.authenticates_client() {
            failure = failures::with_proof(failure, self.spec.client_auth);
        }
        if error.code == "assertion_refused" || self.spec.client_auth.is_signed() {
            failure = failures::with_clock(failure, error);
        }
        if located.lacks_method && matches!(error.code, "invalid_client" | "unauthorized_client") {
            failure = failures::with_unlisted_method(failure, self.spec.client_auth);
        }
        let failure = Arc::new(failure);
        let now = self.clock.boot();
        circuit.change(|state| (state.opened(now, print, Arc::clone(&failure), &self.circuit_rules), ()));
        self.probe(failure, circuit)
    }

    fn probe(&self, failure: Arc<Failure>, circuit: &SharedCircuit) -> FetchFailure {
        let at = circuit.change(|state| {
            let at = state.retry_at();
            (state, at)
        });
        let after = at.map_or(Duration::ZERO, |at| at.saturating_since(self.clock.boot()));
        FetchFailure { failure, retry: Retry::Probe(after) }
    }
}

/// A request whose endpoint is known.
struct Located {
    spec: TokenRequestSpec,
    /// The server's metadata does not list the client's authentication method.
    lacks_method: bool,
}

impl TokenFetcher for GrantFetcher {
    fn fetch(&self, context: FetchContext) -> BoxFuture<'_, Fetched> {
        Box::pin(async move {
            let mut trace = Trace::default();
            let result = self.run(&context, &mut trace).await;
            Fetched { result, trace }
        })
    }

    fn revoke<'a>(&'a self, token: &'a AccessToken, limit: Duration) -> BoxFuture<'a, Revocation> {
        Box::pin(revoke::revoke(self, token, limit))
    }
}
