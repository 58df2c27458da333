//! What the SDK's errors mean. Amazon's codes are shown only where they are known.

use std::error::Error as StdError;

use midward_core::Failure;
use midward_net::SendError;

use crate::cloud::{Meaning, Why, send_failure};

pub(super) const WHO: &str = "AWS Secrets Manager";
pub(super) const WHO_STS: &str = "AWS STS";
const WHO_METADATA: &str = "the instance metadata service";

/// Codes of Secrets Manager and STS, those that all of Amazon's services share included ("Common Errors").
fn meaning(code: &str) -> Option<(&'static str, Meaning)> {
    const TABLE: &[(Meaning, &[&str])] = &[
        (Meaning::NotFound, &["ResourceNotFoundException"]),
        (Meaning::Denied, &["AccessDeniedException", "AccessDenied", "NotAuthorized", "DecryptionFailure"]),
        (
            Meaning::LoginRefused,
            &[
                "UnrecognizedClientException",
                "InvalidSignatureException",
                "SignatureDoesNotMatch",
                "InvalidClientTokenId",
                "IncompleteSignature",
                "MissingAuthenticationToken",
                "ExpiredTokenException",
                "ExpiredToken",
                "InvalidIdentityToken",
                "IDPRejectedClaim",
                "OptInRequired",
                "RegionDisabledException",
                "RequestExpired",
            ],
        ),
        (Meaning::Disabled, &["InvalidRequestException"]),
        (
            Meaning::BadRequest,
            &["InvalidParameterException", "ValidationException", "ValidationError", "MalformedPolicyDocument"],
        ),
        (
            Meaning::Throttled,
            &[
                "ThrottlingException",
                "Throttling",
                "TooManyRequestsException",
                "RequestLimitExceeded",
                "LimitExceededException",
            ],
        ),
        (
            Meaning::Unavailable,
            &[
                "InternalServiceError",
                "InternalFailure",
                "ServiceUnavailable",
                "ServiceUnavailableException",
                "IDPCommunicationError",
            ],
        ),
    ];
    TABLE.iter().find_map(|(meaning, codes)| codes.iter().find(|known| **known == code).map(|code| (*code, *meaning)))
}

/// `error` is searched for what happened on the way; `code` and `status` are the answer's, when there was one.
pub(super) fn failure(who: &str, code: Option<&str>, status: Option<u16>, error: &(dyn StdError + 'static)) -> Failure {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(Why(failure)) = cause.downcast_ref::<Why>() {
            return failure.clone();
        }
        if let Some(error) = cause.downcast_ref::<SendError>() {
            return send_failure(who, *error);
        }
        next = cause.source();
    }
    let Some(status) = status else {
        return if is_about_credentials(error) {
            Meaning::LoginRefused.failure(WHO_METADATA, "without credentials")
        } else {
            not_understood(who)
        };
    };
    if let Some((code, meaning)) = code.and_then(meaning) {
        return meaning.failure(who, code);
    }
    let meaning = match status {
        401 => Meaning::LoginRefused,
        403 => Meaning::Denied,
        429 => Meaning::Throttled,
        500.. => Meaning::Unavailable,
        _ => Meaning::NotUnderstood,
    };
    meaning.failure(who, &format!("HTTP status {status}"))
}

pub(super) fn not_understood(who: &str) -> Failure {
    Meaning::NotUnderstood.failure(who, "something")
}

/// Only the instance metadata gives credentials without a [`Why`].
fn is_about_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<aws_credential_types::provider::error::CredentialsError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_not_known_is_not_repeated() {
        let error = std::io::Error::other("hunter2");
        for (code, status, expected) in [
            (Some("ResourceNotFoundException"), 400, "vault_not_found"),
            (Some("AccessDeniedException"), 400, "vault_denied"),
            (Some("ExpiredTokenException"), 400, "vault_login_refused"),
            (Some("ThrottlingException"), 400, "vault_throttled"),
            (Some("hunter2"), 400, "vault_answer_invalid"),
            (Some("hunter2"), 403, "vault_denied"),
            (Some("hunter2"), 429, "vault_throttled"),
            (Some("hunter2"), 503, "vault_unavailable"),
            (None, 200, "vault_answer_invalid"),
        ] {
            let failure = failure(WHO, code, Some(status), &error);
            assert_eq!(failure.code, expected);
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }
}
