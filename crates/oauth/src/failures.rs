//! What users are told: one sentence why, one what to do. Stable codes, no secret, no text of the server's own.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderMap;
use midward_core::{Failure, Hop, MaterialField, Persistence};

use crate::fetch::{TransportFailure, TransportFailureKind};
use crate::metadata::MetadataError;
use crate::reply::{ReplyClass, ReplyError};
use crate::request::{ClientAuth, RequestError};
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
        RequestError::EmptySecret(MaterialField::SubjectToken | MaterialField::ActorToken) => (
            Hop::Vault,
            "empty_secret",
            "Check that the vault's account holds the token to be exchanged, and that the resolver returns it as subject_token (the actor's as actor_token).",
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
        RequestError::ReservedClaim(_) => {
            (Hop::Mid, "reserved_claim", "Remove it from the profile's claims; use the field made for it.")
        }
        RequestError::ColonInClientId => (
            Hop::Mid,
            "client_id_not_sendable",
            "Set the entity's client authentication to client_secret_basic or client_secret_post.",
        ),
        RequestError::Proof(_) => {
            (Hop::Mid, "dpop_proof_failed", "Report this with the MID Server's log: the library that signs has failed.")
        }
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
        TransportFailureKind::Certificate => Failure::permanent(
            Hop::Vault,
            "client_certificate_unusable",
            detail,
            "Store the certificate chain (PEM, leaf first) as certificate, and the leaf's own key (PEM) as private_key.",
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
            "Compare the secret in the vault with the client at the authorization server, and allow the client the profile's grant."
        }
        "invalid_scope" | "scope_narrowed" => {
            "Grant the client the profile's scopes at the authorization server, or change the profile's scopes."
        }
        "invalid_target" => "Correct the profile's resource or audience, or register it at the authorization server.",
        "unsupported_grant_type" => "Enable the profile's grant for this client at the authorization server.",
        "assertion_refused" => {
            "Compare the key in the vault, and issuer, subject, audience and claims of the profile, with what the authorization server expects; check the MID Server's clock."
        }
        "subject_token_refused" => {
            "Check that the token in the vault has not ended, that its type is the profile's subject_token_type, and that the client may exchange it."
        }
        "issued_token_type_unexpected" => {
            "Set the profile's requested_token_type to what the authorization server issues, if an API takes that."
        }
        "dpop_proof_refused" => {
            "Check the MID Server's clock, and that nothing between it and the authorization server changes the URL; the server must know ES256."
        }
        "dpop_required" => "Set dpop_bound_tokens: true for the OAuth entity.",
        "token_not_bound" => {
            "Enable DPoP for the client at the authorization server, or take dpop_bound_tokens out of the OAuth entity."
        }
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

/// The refusal of something that was signed, which counts from the wall clock: says so if that is wrong.
pub(crate) fn with_clock(mut failure: Failure, error: &ReplyError) -> Failure {
    if let Some(off) = error.clock_off {
        let _ = write!(failure.detail, "; the MID Server's clock and the server's differ by {} s", off.as_secs());
        "Set the MID Server's clock right.".clone_into(&mut failure.action);
    }
    failure
}

pub(crate) fn metadata_unavailable(detail: &str) -> Failure {
    Failure::transient(
        Hop::AuthorizationServer,
        "metadata_unavailable",
        detail,
        "Wait: it is tried again by itself; check that the MID Server's host can reach the issuer, or give the entity a token_url.",
    )
}

pub(crate) fn metadata_not_found(detail: &str) -> Failure {
    Failure::permanent(
        Hop::AuthorizationServer,
        "metadata_not_found",
        detail,
        "Correct the entity's issuer, or give the entity a token_url if the server publishes no metadata.",
    )
}

pub(crate) fn dpop_algorithm_unlisted() -> Failure {
    Failure::permanent(
        Hop::AuthorizationServer,
        "dpop_algorithm_unlisted",
        "the issuer's metadata lists algorithms for DPoP proofs, and not ES256, which proofs are signed by; nothing was sent",
        "Enable ES256 for DPoP at the authorization server; its metadata is read again within an hour, or after a flush.",
    )
}

pub(crate) fn metadata_invalid(error: MetadataError) -> Failure {
    Failure::transient(
        Hop::AuthorizationServer,
        "metadata_invalid",
        format!("the issuer's metadata cannot be used: {error}"),
        "Check that the issuer is the authorization server and that no proxy answers in its place, or give the entity a token_url.",
    )
}

pub(crate) fn other_issuer() -> Failure {
    Failure::permanent(
        Hop::AuthorizationServer,
        "metadata_issuer_mismatch",
        "the metadata that was found is for another issuer, so it is not used",
        "Set the entity's issuer to exactly what the server's metadata says, slash at the end included, if that is the right server.",
    )
}

pub(crate) fn of_metadata_transport(failure: &TransportFailure) -> Failure {
    match failure.kind {
        TransportFailureKind::Refused => Failure::permanent(
            Hop::Mid,
            "metadata_not_allowed",
            "the issuer's address is one that the MID Server's policy does not list",
            "Allow the issuer's address in the MID Server's policy, or correct the issuer.",
        ),
        TransportFailureKind::Tls => {
            let ca = "Check the issuer's certificate, and that its CA is in the MID Server's CA bundle for authorization servers.";
            Failure { action: ca.to_owned(), ..metadata_unavailable(&failure.detail) }
        }
        _ => metadata_unavailable(&failure.detail),
    }
}

/// What a refused client proved itself with, by its own name.
pub(crate) fn with_proof(failure: Failure, method: ClientAuth) -> Failure {
    let (proof, action) = match method {
        ClientAuth::ClientSecretBasic
        | ClientAuth::ClientSecretBasicRaw
        | ClientAuth::ClientSecretPost
        | ClientAuth::ClientSecretJwt => return failure,
        ClientAuth::PrivateKeyJwt => (
            "signed assertion",
            "Register the public key that belongs to the vault's private key (and its key id) with the client at the authorization server, and check the assertion's audience and the MID Server's clock; a new key in the vault is picked up by itself within 30 s.",
        ),
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth => (
            "client certificate",
            "Compare the certificate in the vault with what the authorization server knows of the client (its subject and CA, or the certificate itself), and check that it has not expired and that nothing before the server ends TLS; a new one in the vault is picked up by itself within 30 s.",
        ),
    };
    // The sentence is one of ours: nothing of it comes from the server.
    Failure { detail: failure.detail.replace("client secret", proof), action: action.to_owned(), ..failure }
}

/// The refusal of a client whose method the server's metadata does not list.
pub(crate) fn with_unlisted_method(failure: Failure, method: ClientAuth) -> Failure {
    let name = method.name();
    Failure {
        detail: format!("{}; its metadata does not list {name} among its authentication methods", failure.detail),
        action: "Set the entity's client_auth to a method that the server's metadata lists.".to_owned(),
        ..failure
    }
}

pub(crate) fn revocation_refused(status: u16, reason: &str) -> Failure {
    let detail = format!("the authorization server answered {status} to the revocation: {reason}");
    let action = "Revoke the token at the authorization server by hand if it must not live on; it ends by itself.";
    match status {
        408 | 425 | 429 | 500..=599 => {
            Failure::transient(Hop::AuthorizationServer, "revocation_failed", detail, action)
        }
        _ => Failure::permanent(Hop::AuthorizationServer, "revocation_failed", detail, action),
    }
}

pub(crate) fn revocation_not_sent(detail: &str) -> Failure {
    Failure::transient(
        Hop::AuthorizationServer,
        "revocation_failed",
        detail,
        "Revoke the token at the authorization server by hand if it must not live on; it ends by itself.",
    )
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
        "the token's lifetime was over before it could be used",
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
