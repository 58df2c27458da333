//! What a vault answered, as a failure. Texts are ours; a remote party's appear nowhere.

use std::time::Duration;

use midward_core::{Failure, Hop};
use midward_net::{SendError, SendErrorKind};

/// A [`Failure`] on its way through an SDK's errors.
#[cfg(any(feature = "aws", feature = "azure"))]
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Why(pub(crate) Failure);

/// What an error code or a status means, whatever the vault calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    NotFound,
    /// Signed in, but not for this secret.
    Denied,
    /// The resolver's own credentials were refused.
    LoginRefused,
    /// There is no value to be had: disabled, destroyed, or scheduled for deletion.
    Disabled,
    BadRequest,
    Throttled,
    Unavailable,
    /// Not an answer of this vault: a proxy's page, or something that cannot be read.
    NotUnderstood,
}

impl Meaning {
    /// `who` is the vault's name, `code` one of the codes that we know, or a status.
    pub(crate) fn failure(self, who: &str, code: &str) -> Failure {
        let hop = Hop::Vault;
        let said = format!("{who} answered {code}");
        match self {
            Self::NotFound => Failure::permanent(
                hop,
                "vault_not_found",
                format!("{said}: no such secret"),
                "Check the credential identifier against the secret's name, and the resolver's region, vault or project.",
            ),
            Self::Denied => Failure::permanent(
                hop,
                "vault_denied",
                format!("{said}: the MID may not read this secret"),
                "Give the MID's identity the right to read this secret's value (and to use the key that it is encrypted \
                 with).",
            ),
            Self::LoginRefused => Failure::permanent(
                hop,
                "vault_login_refused",
                format!("{said}: the MID's own credentials were refused"),
                "Check what the resolver signs in with, that it is not revoked or expired, and this machine's clock.",
            ),
            Self::Disabled => Failure::permanent(
                hop,
                "vault_secret_disabled",
                format!("{said}: the secret has no value that can be read"),
                "Enable the secret or its version, or cancel its deletion.",
            ),
            Self::BadRequest => Failure::permanent(
                hop,
                "vault_bad_request",
                format!("{said}: it did not accept the question"),
                "Check the credential identifier and the resolver's settings.",
            ),
            Self::Throttled => Failure::transient(
                hop,
                "vault_throttled",
                format!("{said}: too many requests"),
                "It is asked again by itself; if it lasts, raise the vault's quota.",
            ),
            Self::Unavailable => Failure::transient(
                hop,
                "vault_unavailable",
                format!("{said}: it cannot serve now"),
                "It is asked again by itself; if it lasts, look at the vault's own status.",
            ),
            Self::NotUnderstood => Failure::transient(
                hop,
                "vault_answer_invalid",
                format!("{said}, which is not an answer of such a vault"),
                "Check that the resolver's endpoint leads to the vault, and not to a proxy's page.",
            ),
        }
    }
}

/// The exchange brought no answer.
pub(crate) fn send_failure(who: &str, error: SendError) -> Failure {
    let hop = Hop::Vault;
    match error.kind {
        SendErrorKind::Timeout => timeout_failure(who, None),
        SendErrorKind::Tls(fault) => Failure::transient(
            hop,
            "vault_tls",
            format!("no TLS with {who}: {fault}"),
            "Check its certificate, and the CA in `[ways_out.vaults]`.",
        ),
        SendErrorKind::BodyTooLarge { .. } | SendErrorKind::Protocol(_) => Failure::transient(
            hop,
            "vault_answer_invalid",
            format!("{who} gave no usable answer: {}", error.kind),
            "Check that the resolver's endpoint leads to the vault, and not to a proxy's page.",
        ),
        kind => Failure::transient(
            hop,
            "vault_unreachable",
            format!("{who} was not reached: {kind}"),
            "Check the network and the proxy in `[ways_out.vaults]`; it is asked again by itself.",
        ),
    }
}

pub(crate) fn timeout_failure(who: &str, limit: Option<Duration>) -> Failure {
    let within = limit.map_or_else(|| "in time".to_owned(), |limit| format!("within {} ms", limit.as_millis()));
    Failure::transient(
        Hop::Vault,
        "vault_timeout",
        format!("{who} did not answer {within}"),
        "Check the network between the MID and the vault; raise `timeout_ms` if it is only slow.",
    )
}

/// A setting that cannot work.
pub(crate) fn misconfigured(detail: impl Into<String>) -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "resolver_misconfigured",
        detail,
        "Correct the resolver's section in `mid.toml`; see the manual's page on its kind.",
    )
}
