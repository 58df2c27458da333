//! What users are told: one sentence why, one what to do. Stable codes, no secret, no text of the server's own.

use std::time::Duration;

use http::HeaderMap;
use midward_core::{Failure, Hop, MaterialField, Persistence};

use crate::fetch::{TransportFailure, TransportFailureKind};
use crate::reply::{ReplyClass, ReplyError};
use crate::request::RequestError;
use crate::signing_key::KeyError;

pub(crate) fn of_request(error: &RequestError) -> Failure {
    let (hop, code, action) = match error {
        RequestError::EmptySecret(MaterialField::PrivateKey) => (
            Hop::Vault,
            "empty_secret",
            "Check that the vault's account holds the client's private key, and that the resolver returns it as pkey or private_key.",
        ),
        RequestError::NotText(_) => {
            (Hop::Vault, "secret_not_text", "Store it in the vault as text; the resolver must not change its encoding.")
        }
        RequestError::Key(KeyError::WrongType(_)) => (
            Hop::Mid,
            "private_key_unusable",
            "Leave the entity's assertion_algorithm out, or set it to one that fits the type of the key.",
        ),
        RequestError::Key(_) => (
            Hop::Vault,
            "private_key_unusable",
            "Store the key in the vault as PEM without a passphrase (PKCS #8, PKCS #1 or SEC 1): RSA from 2048 bits, EC on P-256, or Ed25519.",
        ),
        RequestError::EmptySecret(_) => (
            Hop::Vault,
            "empty_secret",
            "Check that the vault's account has a user name and a password, and that the resolver maps them to client_id and client_secret.",
        ),
        RequestError::ReservedParameter(_) => (
            Hop::Mid,
            "reserved_parameter",
            "Remove it from the profile's extra parameters; use the field made for it.",
        ),
        RequestError::ColonInClientId => (
            Hop::Mid,
            "client_id_not_sendable",
            "Set the entity's client authentication to client_secret_basic or client_secret_post.",
        ),
        RequestError::BadTokenUrl => (Hop::Mid, "token_url_invalid", "Correct the entity's token URL."),
    };
    Failure::permanent(hop, code, error.to_string(), action)
}

pub(crate) fn of_transport(failure: &TransportFailure) -> Failure {
    let hop = Hop::AuthorizationServer;
    let detail = failure.detail.as_str();
    match failure.kind {
        TransportFailureKind::Unreachable => Failure::transient(
            hop,
            "token_endpoint_unreachable",
            detail,
            "Check from the MID Server's host that the token URL's host and port can be reached, and the proxy if one is configured.",
        ),
        TransportFailureKind::TimedOut => Failure::transient(
            hop,
            "token_endpoint_timeout",
            detail,
            "Check the authorization server's load, and the network between it and the MID Server.",
        ),
        TransportFailureKind::Tls => Failure::transient(
            hop,
            "token_endpoint_tls",
            detail,
            "Check the server's certificate, and that its CA is in the MID Server's CA bundle for authorization servers.",
        ),
        TransportFailureKind::BadReply => Failure::transient(
            hop,
            "token_reply_invalid",
            detail,
            "Check that the token URL is the token endpoint and that no proxy answers in its place.",
        ),
        TransportFailureKind::Refused => Failure::permanent(
            Hop::Mid,
            "token_endpoint_not_allowed",
            detail,
            "Allow the address in the MID Server's policy, or correct the token URL.",
        ),
    }
}

pub(crate) fn token_endpoint_timed_out(limit: Duration) -> Failure {
    of_transport(&TransportFailure {
        kind: TransportFailureKind::TimedOut,
        detail: format!("it did not answer the token request within {} s", limit.as_secs()),
    })
}

pub(crate) fn of_reply(error: &ReplyError) -> Failure {
    let action = match error.code {
        "invalid_client" => {
            "Compare client id and secret in the vault with the client at the authorization server; a new secret in the vault is picked up by itself within 30 s."
        }
        "unauthorized_client" => {
            "Compare the secret in the vault with the client at the authorization server, and allow the client the client credentials grant."
        }
        "invalid_scope" | "scope_narrowed" => {
            "Grant the client the profile's scopes at the authorization server, or change the profile's scopes."
        }
        "invalid_target" => "Correct the profile's resource or audience, or register it at the authorization server.",
        "unsupported_grant_type" => "Enable the client credentials grant at the authorization server.",
        "rate_limited" => "Wait: it is tried again by itself; raise the client's limit if this happens often.",
        "token_endpoint_unavailable" => {
            "Wait: it is tried again by itself; look at the authorization server if it lasts."
        }
        "token_endpoint_redirects" => {
            "Set the token URL to the address that it redirects to, if that is the right one."
        }
        "token_endpoint_not_found" => "Correct the entity's token URL.",
        "token_request_refused" => {
            "Check the profile's grant, scopes and extra parameters against the authorization server's log."
        }
        _ => "Check that the token URL is the token endpoint and that no proxy answers in its place.",
    };
    let mut detail = format!("the authorization server answered {}: {}", error.status, error.reason);
    if let Some(named) = error.server_error {
        detail.push_str(", error ");
        detail.push_str(named);
    }
    match error.class {
        ReplyClass::Transient | ReplyClass::RateLimited => {
            Failure::transient(Hop::AuthorizationServer, error.code, detail, action)
        }
        ReplyClass::Permanent | ReplyClass::InvalidClient => {
            Failure::permanent(Hop::AuthorizationServer, error.code, detail, action)
        }
    }
}

pub(crate) fn secret_changing() -> Failure {
    Failure::transient(
        Hop::Vault,
        "secret_changing",
        "the authorization server refused the secret, and the vault is changing it right now",
        "Wait: the new secret is read by itself.",
    )
}

/// It told this client to wait, and this profile of it has not been sent.
pub(crate) fn server_is_paused() -> Failure {
    Failure::transient(
        Hop::AuthorizationServer,
        "rate_limited",
        "the authorization server told this client to wait, so nothing was sent",
        "Wait: it is tried again by itself; raise the client's limit if this happens often.",
    )
}

pub(crate) fn too_late() -> Failure {
    Failure::transient(
        Hop::AuthorizationServer,
        "token_expired_on_arrival",
        "the token's lifetime was over before the reply had arrived",
        "Lengthen the lifetime of access tokens at the authorization server, or look why it answers so slowly.",
    )
}

/// A fetch was dropped or panicked.
pub(crate) fn fetch_died() -> Failure {
    Failure::transient(
        Hop::Mid,
        "token_fetch_ended",
        "the task that fetched the token ended without a result",
        "It is tried again by itself; report this with the MID Server's log if it happens again.",
    )
}

pub(crate) fn fetch_too_long(hop: Hop, limit: Duration) -> Failure {
    Failure::transient(
        hop,
        "token_fetch_timeout",
        format!("fetching a token took longer than {} s", limit.as_secs()),
        "Look at the load and the health of this part.",
    )
}

/// A caller's own time is over; the fetch goes on.
pub(crate) fn waited_too_long(hop: Hop, limit: Duration) -> Failure {
    Failure::transient(
        hop,
        "token_wait_timeout",
        format!("there was no token within the {} ms that this call had left", limit.as_millis()),
        "The fetch goes on: try again; give the call more time if this happens often.",
    )
}

/// The media type of a reply as far as it is a well-known one: the rest is the server's own text.
pub(crate) fn content_type(headers: &HeaderMap) -> &'static str {
    const KNOWN: [&str; 6] =
        ["application/json", "text/html", "text/plain", "application/xml", "text/xml", "application/problem+json"];
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else { return "none" };
    let media = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    KNOWN.into_iter().find(|known| media.eq_ignore_ascii_case(known.as_bytes())).unwrap_or("other")
}

/// Whether a failure may go away by itself.
pub(crate) fn is_transient(failure: &Failure) -> bool {
    failure.persistence == Persistence::Transient
}
