//! The token reply (RFC 6749 5.1, 5.2), without IO. Classified by `error` first and by status second: some servers
//! answer 200 with an error, others 400 without one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use midward_core::{AccessToken, Secret, WallTime};

use crate::grant::{GrantType, TokenExchange};
use crate::json::{self, Members};
use crate::request::TokenRequestSpec;
use crate::retry_after;

/// What the server sent. `Debug` shows no body.
pub struct TokenHttpReply {
    pub status: u16,
    pub headers: http::HeaderMap,
    /// At most [`TokenHttpReply::MAX_BODY`] bytes: the transport stops there.
    pub body: Secret,
}

impl TokenHttpReply {
    /// 64 KiB.
    pub const MAX_BODY: usize = 64 * 1024;
}

impl fmt::Debug for TokenHttpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TokenHttpReply");
        debug.field("status", &self.status).field("body_len", &self.body.len()).finish_non_exhaustive()
    }
}

/// What was asked for, and what to make of what the reply leaves open.
#[derive(Clone, Debug)]
pub struct Expected {
    pub scopes: Vec<String>,
    /// Accept a token with fewer scopes than asked for.
    pub accept_narrower_scope: bool,
    /// The lifetime of a token that came without a usable `expires_in`.
    pub default_lifetime: Duration,
    /// What was asked by; tells what a refusal means.
    pub grant: GrantType,
    /// The token must be bound to the key that the request proved (RFC 9449 5).
    pub dpop: bool,
}

impl Expected {
    /// Five minutes: "never" would outlive the token, a second would ask for one at every call.
    pub const DEFAULT_LIFETIME: Duration = Duration::from_mins(5);
    /// Longest lifetime that is believed.
    pub const MAX_LIFETIME: Duration = Duration::from_hours(24);

    pub fn scopes(scopes: &[String]) -> Self {
        Self {
            scopes: scopes.to_vec(),
            accept_narrower_scope: false,
            default_lifetime: Self::DEFAULT_LIFETIME,
            grant: GrantType::ClientCredentials,
            dpop: false,
        }
    }

    /// Of the reply to this request.
    pub fn of(spec: &TokenRequestSpec) -> Self {
        Self { grant: spec.grant.clone(), dpop: spec.dpop, ..Self::scopes(&spec.scopes) }
    }
}

/// A token that may be used.
#[derive(Debug)]
pub struct TokenReply {
    pub token: AccessToken,
    /// Counts from when the request was sent. Zero: for those who wait, not to be kept.
    pub lifetime: Duration,
    /// What was granted; what was asked for when the server does not say.
    pub scopes: BTreeSet<String>,
}

/// Whose fault a refusal is, and so what may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyClass {
    /// Back off and try again.
    Transient,
    /// Stays until a configuration changes.
    Permanent,
    /// The client or its secret: read the secret again.
    InvalidClient,
    /// Too many requests: wait.
    RateLimited,
}

/// A reply without a usable token. Holds nothing that the server chose freely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authorization server answered {status}: {reason}")]
pub struct ReplyError {
    pub class: ReplyClass,
    /// Stable; `invalid_client`, `token_reply_invalid`, ...
    pub code: &'static str,
    pub status: u16,
    pub reason: &'static str,
    /// The server's `error`, if it is a registered one.
    pub server_error: Option<&'static str>,
    /// How long the server asked to wait, clamped to 1 s .. 5 min.
    pub retry_after: Option<Duration>,
    /// How far this machine's wall clock is off the server's, if that is much.
    pub clock_off: Option<Duration>,
}

/// Reads a reply. `now` is for a `Retry-After` that is a date, and to tell a wrong clock; never for the token's life.
pub fn parse(reply: &TokenHttpReply, expected: &Expected, now: WallTime) -> Result<TokenReply, ReplyError> {
    read(reply, expected, now).map_err(|error| ReplyError { clock_off: clock_off(reply, now), ..error })
}

fn clock_off(reply: &TokenHttpReply, now: WallTime) -> Option<Duration> {
    retry_after::clock_off(reply.headers.get(http::header::DATE)?.to_str().ok()?, now)
}

/// Whether the server wants the same request once more, with the nonce of this reply in its proof (RFC 9449 8).
pub(crate) fn asks_for_nonce(reply: &TokenHttpReply) -> bool {
    // 401 is what resource servers answer; some servers have one code for both.
    matches!(reply.status, 400 | 401)
        && reply.body.len() <= TokenHttpReply::MAX_BODY
        && json::parse(reply.body.expose())
            .is_ok_and(|members| members.error.and_then(registered) == Some("use_dpop_nonce"))
}

fn read(reply: &TokenHttpReply, expected: &Expected, now: WallTime) -> Result<TokenReply, ReplyError> {
    let error = |class, code, reason| ReplyError {
        class,
        code,
        status: reply.status,
        reason,
        server_error: None,
        retry_after: None,
        clock_off: None,
    };
    let invalid = |reason| error(ReplyClass::Transient, "token_reply_invalid", reason);

    let coded = reply.headers.get_all(http::header::CONTENT_ENCODING).iter().any(|value| {
        let value = value.as_bytes().trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    });
    let members = if coded {
        Err("it uses a content coding, though none was asked for")
    } else if reply.body.len() > TokenHttpReply::MAX_BODY {
        Err("its body is longer than 64 KiB")
    } else {
        json::parse(reply.body.expose()).map_err(json::Malformed::reason)
    };

    let wait = || retry_after::wait(&reply.headers, now);
    match members {
        Ok(members) if members.error.is_some() || (members.error_code.is_some() && members.access_token.is_none()) => {
            let named = members.error.or(members.error_code).and_then(registered);
            Err(by_error(reply.status, named, wait(), expected))
        }
        Ok(members) if reply.status == 200 => token(&members, expected).map_err(|(code, reason)| match code {
            "scope_narrowed" | "issued_token_type_unexpected" | "token_not_bound" => {
                error(ReplyClass::Permanent, code, reason)
            }
            _ => error(ReplyClass::Transient, code, reason),
        }),
        Err(reason) if reply.status == 200 => Err(invalid(reason)),
        _ => Err(by_status(reply.status, wait())),
    }
}

fn by_error(status: u16, named: Option<&'static str>, wait: Option<Duration>, expected: &Expected) -> ReplyError {
    let grant = &expected.grant;
    let Some(named) = named else {
        let mut error = by_status(status, wait);
        if status == 200 {
            error = ReplyError { class: ReplyClass::Permanent, code: "token_request_refused", ..error };
        }
        return ReplyError { reason: "it reported an error that is not a registered one", ..error };
    };
    let (class, code, reason) = match named {
        "invalid_client" => {
            (ReplyClass::InvalidClient, "invalid_client", "it does not accept the client id or the client secret")
        }
        "unauthorized_client" => (
            ReplyClass::InvalidClient,
            "unauthorized_client",
            "it does not accept the client secret, or the client may not use this grant",
        ),
        // RFC 7523 3.1. The key may have been rotated, so it is treated like a wrong secret.
        "invalid_grant" if matches!(grant, GrantType::JwtBearer(_)) => {
            (ReplyClass::InvalidClient, "assertion_refused", "it does not accept the signed assertion")
        }
        // RFC 8693 2.2.2 says invalid_request, others invalid_grant. The vault may hold a newer token.
        "invalid_grant" | "invalid_request" if matches!(grant, GrantType::TokenExchange(_)) => (
            ReplyClass::InvalidClient,
            "subject_token_refused",
            "it does not accept the token that was to be exchanged, or a parameter of the exchange",
        ),
        "invalid_scope" => (ReplyClass::Permanent, "invalid_scope", "it does not grant the scopes asked for"),
        "invalid_target" => (ReplyClass::Permanent, "invalid_target", "it does not know the resource or audience"),
        "unsupported_grant_type" => {
            (ReplyClass::Permanent, "unsupported_grant_type", "it does not offer this grant to this client")
        }
        "temporarily_unavailable" | "server_error" => {
            (ReplyClass::Transient, "token_endpoint_unavailable", "it reported a fault of its own")
        }
        // The clock may be set right, or what rewrites the URL: it heals by itself.
        "invalid_dpop_proof" if expected.dpop => {
            (ReplyClass::Transient, "dpop_proof_refused", "it does not accept the DPoP proof")
        }
        "use_dpop_nonce" if expected.dpop => {
            (ReplyClass::Transient, "dpop_proof_refused", "it asks for a DPoP nonce other than the one it gave")
        }
        "invalid_dpop_proof" | "use_dpop_nonce" => {
            (ReplyClass::Permanent, "dpop_required", "it grants this client only tokens that are bound to a key (DPoP)")
        }
        "slow_down" => (ReplyClass::RateLimited, "rate_limited", "it asked for fewer requests"),
        _ if status == 429 => return ReplyError { server_error: Some(named), ..by_status(status, wait) },
        _ => (ReplyClass::Permanent, "token_request_refused", "it refused the request"),
    };
    ReplyError { class, code, status, reason, server_error: Some(named), retry_after: wait, clock_off: None }
}

fn by_status(status: u16, wait: Option<Duration>) -> ReplyError {
    let (class, code, reason) = match status {
        401 => (ReplyClass::InvalidClient, "invalid_client", "it does not accept the client"),
        429 => (ReplyClass::RateLimited, "rate_limited", "it asked for fewer requests"),
        408 | 425 | 500..=599 => {
            (ReplyClass::Transient, "token_endpoint_unavailable", "it reported a fault of its own")
        }
        300..=399 => {
            (ReplyClass::Permanent, "token_endpoint_redirects", "it redirects, and redirects are not followed")
        }
        200 => (ReplyClass::Transient, "token_reply_invalid", "its answer holds no token"),
        201..=299 => (ReplyClass::Permanent, "token_reply_invalid", "a token comes with status 200 only"),
        404 | 405 | 410 => {
            (ReplyClass::Permanent, "token_endpoint_not_found", "there is no token endpoint at this URL")
        }
        400..=499 => (ReplyClass::Permanent, "token_request_refused", "it refused the request without a reason"),
        _ => (ReplyClass::Transient, "token_reply_invalid", "its status is not one of HTTP"),
    };
    ReplyError { class, code, status, reason, server_error: None, retry_after: wait, clock_off: None }
}

/// The values of `error` that are registered for, or sent by, token endpoints (IANA OAuth Extensions Error registry).
/// Nothing else of what a server writes there is shown to anybody.
fn registered(raw: &str) -> Option<&'static str> {
    const REGISTERED: [&str; 16] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
        "temporarily_unavailable",
        "server_error",
        "slow_down",
        "invalid_dpop_proof",
        "use_dpop_nonce",
        "unsupported_token_type",
        "invalid_request_object",
        "authorization_pending",
    ];
    let text = json::ascii_string(raw)?;
    REGISTERED.into_iter().find(|known| known.as_bytes() == text.as_slice())
}

type Refusal = (&'static str, &'static str);

fn token(members: &Members<'_>, expected: &Expected) -> Result<TokenReply, Refusal> {
    const INVALID: &str = "token_reply_invalid";
    let raw = members.access_token.ok_or((INVALID, "it holds no access_token"))?;
    let mut text = json::ascii_string(raw).ok_or((INVALID, "its access_token is not text of visible characters"))?;
    let token = AccessToken::new(Secret::new(std::mem::take(&mut *text)))
        .ok_or((INVALID, "its access_token is empty, over 16 KiB, or not of visible characters"))?;
    let token_type = members.token_type.and_then(json::ascii_string).ok_or((INVALID, "it names no token_type"))?;
    match (expected.dpop, token_type.as_slice()) {
        (false, kind) if kind.eq_ignore_ascii_case(b"bearer") => {}
        (true, kind) if kind.eq_ignore_ascii_case(b"dpop") => {}
        // Whoever sees it can use it: never taken for what was asked for (RFC 9449 5).
        (true, kind) if kind.eq_ignore_ascii_case(b"bearer") => {
            return Err(("token_not_bound", "its token is not bound to the key (token_type is Bearer, not DPoP)"));
        }
        (true, _) => return Err((INVALID, "its token_type is not DPoP")),
        (false, _) => return Err((INVALID, "its token_type is not Bearer")),
    }
    if let GrantType::TokenExchange(exchange) = &expected.grant {
        check_issued_type(members, exchange)?;
    }
    let asked: BTreeSet<String> = expected.scopes.iter().cloned().collect();
    let scopes = match members.scope {
        None => asked,
        Some(raw) => {
            let granted = granted(raw).ok_or((INVALID, "its scope is not text"))?;
            if !expected.accept_narrower_scope && !asked.is_subset(&granted) {
                return Err(("scope_narrowed", "it granted fewer scopes than asked for"));
            }
            granted
        }
    };
    Ok(TokenReply { token, lifetime: lifetime(members.expires_in, expected.default_lifetime), scopes })
}

/// RFC 8693 2.2.1: the type is always there. Any other than the one asked for is no token for an API.
fn check_issued_type(members: &Members<'_>, exchange: &TokenExchange) -> Result<(), Refusal> {
    let raw = members.issued_token_type.ok_or(("token_reply_invalid", "it names no issued_token_type"))?;
    let issued = json::ascii_string(raw).ok_or(("token_reply_invalid", "its issued_token_type is not text"))?;
    let is_expected = std::str::from_utf8(&issued).is_ok_and(|issued| exchange.is_answered_by(issued));
    is_expected.then_some(()).ok_or(("issued_token_type_unexpected", "it issued another type of token than asked for"))
}

/// A list in text (RFC 6749 3.3), or, from some servers, an array of texts.
fn granted(raw: &str) -> Option<BTreeSet<String>> {
    if raw.starts_with('[') {
        return serde_json::from_str(raw).ok();
    }
    let text = json::ascii_string(raw)?;
    Some(std::str::from_utf8(&text).ok()?.split_ascii_whitespace().map(str::to_owned).collect())
}

/// `expires_in` as a number or as a number in text; anything else counts as absent.
fn lifetime(raw: Option<&str>, default: Duration) -> Duration {
    let seconds = raw
        .map(|raw| raw.trim_matches('"').trim())
        .filter(|text| text.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite());
    match seconds {
        None => default,
        Some(seconds) if seconds < 1.0 => Duration::ZERO,
        Some(seconds) => Duration::try_from_secs_f64(seconds.floor()).unwrap_or(Expected::MAX_LIFETIME),
    }
    .min(Expected::MAX_LIFETIME)
}
