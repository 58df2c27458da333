//! Makes the API call that a permit allows.

mod challenge;
mod scrub;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use midward_core::{AccessToken, BootTime, Clock, Failure, Hop, Random, WallTime};
use midward_net::{AddressGuard, NotAfter, ProxyFault, SendError, SendErrorKind, SendOptions, WayOut};
use midward_oauth::{ClientCertificate, DPOP, DpopKey, DpopNonces, Proven, WeakCertificate, clock_off};
use midward_wire::{ApiReply, Bytes64, header_text};
use zeroize::Zeroizing;

pub use self::challenge::Challenge;
use self::scrub::Scrubber;
use crate::policy::PermittedCall;
use crate::transport::identity;

const DEFAULT_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("midward/", env!("CARGO_PKG_VERSION")));

/// Calls APIs over one way out.
#[derive(Clone)]
pub struct ApiCaller {
    way: WayOut,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Most bytes of a reply's body.
    max_body: usize,
    /// Ways with the certificates of bound tokens, for as long as such a token lives.
    identified: Arc<Mutex<Vec<(WeakCertificate, WayOut)>>>,
    /// What APIs want in the next DPoP proof.
    nonces: Arc<DpopNonces>,
}

/// The token of a call, with what it is bound to: a certificate (RFC 8705 3), a key (RFC 9449).
#[derive(Clone, Debug)]
pub struct CallToken {
    pub token: AccessToken,
    /// From here on it is sent no more.
    pub expires: BootTime,
    pub certificate: Option<ClientCertificate>,
    pub dpop: Option<DpopKey>,
}

/// What an API answered.
#[derive(Debug)]
pub struct Called {
    pub reply: ApiReply,
    /// The call was sent twice, because the first answer asked for a nonce.
    pub nonce_sent: bool,
    /// The answer says something against the proof, and so nothing against the token.
    pub challenge: Option<Challenge>,
}

/// A call that brought no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCallError {
    pub failure: Failure,
    /// `false` is a promise: no byte of the request left.
    pub maybe_sent: bool,
}

impl ApiCaller {
    /// `max_body`: most bytes of a reply's body.
    pub fn new(way: WayOut, clock: Arc<dyn Clock>, random: Arc<dyn Random>, max_body: usize) -> Self {
        Self { way, clock, random, max_body, identified: Arc::default(), nonces: Arc::default() }
    }

    /// The proxy on the way, for [`crate::policy::Ways`].
    pub fn proxy_origin(&self) -> Option<&str> {
        self.way.proxy_origin()
    }

    /// Makes the call with the token, and ends it after `timeout` (the connection's) or `remaining` (the lease's),
    /// whichever is less. A connection that turns out to be dead before anything was written is replaced once. Nothing is
    /// written once the token has ended or the time is over, also when a connection comes about only then: the failure is
    /// a time-out, unsent.
    ///
    /// A token that is bound to a key goes with a new proof each time. An API that wants a nonce in it says so once, and
    /// is sent the same call with the nonce, whatever its method: it is the check of the proof that answers so (RFC 9449
    /// 9), before anything is done with the call, and the body is at hand as a whole. A 401 about the token is another
    /// matter, and left to the caller.
    ///
    /// The token is taken out of the reply, should the API echo it: verbatim, and as base64, percent or JSON text (see
    /// [`scrub`]). Compressed bodies are not looked into; identity is asked for, whatever the caller asks.
    pub async fn call(
        &self,
        call: &PermittedCall,
        guard: &AddressGuard,
        body: Bytes,
        with: &CallToken,
        timeout: Duration,
        remaining: Duration,
    ) -> Result<Called, ApiCallError> {
        let start = self.clock.boot();
        let limit = timeout.min(remaining);
        if limit.is_zero() {
            return Err(error(SendError { kind: SendErrorKind::Timeout, maybe_sent: false }));
        }
        let token = &with.token;
        let end = NotAfter { clock: Arc::clone(&self.clock), at: with.expires.min(start + limit) };
        let way = self.way_for(call, with.certificate.as_ref())?;
        let mut retried = false;
        let mut nonce_sent = false;
        let mut nonce = with.dpop.as_ref().and_then(|_| self.nonces.of(&call.target));
        loop {
            let deadline = limit.saturating_sub(self.clock.boot().saturating_since(start));
            let options = SendOptions { deadline, max_body: self.max_body, guard: guard.clone() };
            let request = self.request(call, body.clone(), with, nonce.as_deref())?;
            match way.send_before(request, &options, end.clone()).await {
                Ok(response) => {
                    let mut challenge = None;
                    if with.dpop.is_some() {
                        let fresh = self.nonces.take(&call.target, response.headers());
                        challenge = challenge::of(response.status().as_u16(), response.headers());
                        let in_time = self.clock.boot().saturating_since(start) < limit;
                        if challenge == Some(Challenge::UseNonce) && fresh.is_some() && !nonce_sent && in_time {
                            (nonce, nonce_sent) = (fresh, true);
                            continue;
                        }
                    }
                    return Ok(Called { reply: reply(response, &Scrubber::new(token)), nonce_sent, challenge });
                }
                Err(lost) if !retried && !lost.maybe_sent && lost.kind == SendErrorKind::Closed => retried = true,
                Err(failed) => return Err(error(failed)),
            }
        }
    }
}

impl ApiCaller {
    fn way_for(&self, call: &PermittedCall, certificate: Option<&ClientCertificate>) -> Result<WayOut, ApiCallError> {
        let Some(certificate) = certificate else { return Ok(self.way.clone()) };
        let unusable = |detail: &str| ApiCallError {
            failure: Failure::permanent(
                Hop::Mid,
                "certificate_not_presentable",
                format!("the token is bound to a client certificate, and {detail}"),
                "Use https for the connection's base URL; the certificate and its key come from the vault.",
            ),
            maybe_sent: false,
        };
        if call.target.scheme() != "https" {
            return Err(unusable("without TLS it cannot be shown to the API"));
        }
        let mut identified = self.identified.lock().unwrap_or_else(PoisonError::into_inner);
        identified.retain(|(known, _)| !known.is_gone());
        if let Some((_, way)) = identified.iter().find(|(known, _)| known.is(certificate)) {
            return Ok(way.clone());
        }
        let identity = identity(certificate).map_err(|error| unusable(&error.to_string()))?;
        let way = self.way.identified(&identity);
        identified.push((certificate.downgrade(), way.clone()));
        Ok(way)
    }
}

impl ApiCaller {
    fn request(
        &self,
        call: &PermittedCall,
        body: Bytes,
        with: &CallToken,
        nonce: Option<&str>,
    ) -> Result<Request<Bytes>, ApiCallError> {
        let mut request = request(call, body, with)?;
        if let Some(key) = &with.dpop {
            let of = Proven { method: call.method.as_str(), url: &call.target, nonce, token: Some(&with.token) };
            let proof = key.proof(&of, self.clock.wall(), &*self.random).map_err(|failed| ApiCallError {
                failure: Failure::permanent(
                    Hop::Mid,
                    "dpop_proof_failed",
                    failed.to_string(),
                    "Report this with the MID Server's log: the library that signs has failed.",
                ),
                maybe_sent: false,
            })?;
            request.headers_mut().insert(DPOP, proof);
        }
        Ok(request)
    }
}

impl std::fmt::Debug for ApiCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiCaller").field("way", &self.way).field("max_body", &self.max_body).finish_non_exhaustive()
    }
}

fn request(call: &PermittedCall, body: Bytes, with: &CallToken) -> Result<Request<Bytes>, ApiCallError> {
    let unsendable = || error(SendError { kind: SendErrorKind::BadRequest, maybe_sent: false });
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.target.as_str().parse().map_err(|_| unsendable())?;
    let headers = request.headers_mut();
    *headers = call.headers.clone();
    headers.entry(USER_AGENT).or_insert(DEFAULT_USER_AGENT);
    // Whatever the caller wished for: a compressed answer that echoes the token could not be scrubbed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let scheme = if with.dpop.is_some() { "DPoP " } else { "Bearer " };
    headers.insert(AUTHORIZATION, authorization(scheme, &with.token).ok_or_else(unsendable)?);
    Ok(request)
}

/// The header's buffer is wiped with the last copy of its value.
fn authorization(scheme: &str, token: &AccessToken) -> Option<HeaderValue> {
    let token = token.expose();
    let mut text = Zeroizing::new(Vec::with_capacity(scheme.len() + token.len()));
    text.extend_from_slice(scheme.as_bytes());
    text.extend_from_slice(token.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Why an API's answer is no reason to drop the token, for the trace. A proof counts from the wall clock, so a wrong one is
/// told of where the API's `Date` gives it away.
pub(crate) fn proof_refused(challenge: Challenge, reply: &ApiReply, now: WallTime) -> String {
    let date = reply.headers.iter().find(|(name, _)| name == "date").map(|(_, value)| value.as_str());
    let clock = date.and_then(|date| clock_off(date, now));
    match (challenge, clock) {
        (_, Some(off)) => format!(
            "the API refuses the DPoP proof; the MID Server's clock and the API's differ by {} s: set it right",
            off.as_secs()
        ),
        (Challenge::UseNonce, None) => "the API asks for a DPoP nonce other than the one it gave".to_owned(),
        (Challenge::InvalidProof, None) => {
            "the API refuses the DPoP proof: check what changes the URL on the way to it".to_owned()
        }
    }
}

fn reply(response: Response<Bytes>, scrubber: &Scrubber) -> ApiReply {
    let (parts, body) = response.into_parts();
    let mut body = Vec::from(body);
    scrubber.scrub(&mut body);
    let named: Vec<HeaderName> = named_by_connection(&parts.headers);
    let headers = parts
        .headers
        .iter()
        .filter(|(name, _)| !is_hop_by_hop(name) && !named.contains(name))
        .map(|(name, value)| {
            let mut value = value.as_bytes().to_vec();
            scrubber.scrub(&mut value);
            (name.as_str().to_owned(), header_text(&value))
        })
        .collect();
    ApiReply { status: parts.status.as_u16(), headers, body: Bytes64(body) }
}

/// RFC 9110 7.6.1. Content-Length stays: it tells something in the answer to HEAD, and scrubbing keeps lengths.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "proxy-authentication-info")
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

fn error(error: SendError) -> ApiCallError {
    let (hop, code, action) = advice(error.kind);
    let detail = format!("the API gave no usable answer: {}", error.kind);
    let permanent = matches!(
        error.kind,
        SendErrorKind::Refused(_) | SendErrorKind::BadRequest | SendErrorKind::BodyTooLarge { .. }
    );
    let failure = match error.kind {
        SendErrorKind::Refused(class) => {
            tracing::warn!(class = class.name(), "the API's name resolves to an address that the policy does not list");
            // Which address a name has inside the network is nothing for the instance.
            Failure::permanent(hop, code, "the API's address is one that the MID Server's policy does not list", action)
        }
        _ if permanent => Failure::permanent(hop, code, detail, action),
        _ => Failure::transient(hop, code, detail, action),
    };
    ApiCallError { failure, maybe_sent: error.maybe_sent }
}

const fn advice(kind: SendErrorKind) -> (Hop, &'static str, &'static str) {
    match kind {
        SendErrorKind::Refused(_) => (
            Hop::Policy,
            "policy_address",
            "If it is meant to be called, list the address in the rule's allow_addresses on the MID's host.",
        ),
        SendErrorKind::Dns | SendErrorKind::Connect(_) | SendErrorKind::Closed => (
            Hop::Api,
            "api_unreachable",
            "Check that the API is up, and that the MID Server's host can reach the host and port of the base URL.",
        ),
        SendErrorKind::NoFiles => (
            Hop::Mid,
            "no_file_descriptors",
            "Raise the MID Server's limit of open files (LimitNOFILE= of its unit), or lower max_concurrent.",
        ),
        SendErrorKind::Tls(_) => (
            Hop::Api,
            "api_tls",
            "Check the API's certificate, and the ca_file of the MID's way out to APIs if a private CA signed it.",
        ),
        SendErrorKind::Proxy(ProxyFault::Authentication) => (
            Hop::Mid,
            "api_proxy_authentication",
            "Check username and password_file of the proxy in the MID's way out to APIs.",
        ),
        SendErrorKind::Proxy(_) => {
            (Hop::Mid, "api_proxy", "Check the proxy of the MID's way out to APIs, and what it allows.")
        }
        SendErrorKind::Timeout => {
            (Hop::Api, "api_timeout", "Check the API's load, or raise the connection's timeout or the caller's wait.")
        }
        SendErrorKind::BodyTooLarge { .. } => {
            (Hop::Api, "api_reply_too_large", "Ask the API for less at a time, or raise the MID's limit for replies.")
        }
        SendErrorKind::Protocol(_) => {
            (Hop::Api, "api_bad_reply", "Check that the base URL names an HTTP API, and what stands before it.")
        }
        SendErrorKind::BadRequest => {
            (Hop::Mid, "api_bad_request", "Check the connection's base URL and the call's path.")
        }
    }
}

#[cfg(test)]
mod tests;
