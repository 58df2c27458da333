//! What the SDK's errors mean. Texts of the vault and of Entra ID are not repeated.

use std::error::Error as StdError;

use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use midward_core::Failure;
use midward_net::SendError;
use serde_json::Value;

use crate::cloud::{Meaning, Why, send_failure};

pub(super) const WHO: &str = "Azure Key Vault";
pub(super) const WHO_ENTRA: &str = "Microsoft Entra ID";
pub(super) const WHO_METADATA: &str = "the instance metadata service";

/// "Azure Key Vault REST API Error Codes".
pub(super) fn of_vault(error: &Error) -> Failure {
    if let Some(failure) = on_the_way(WHO, error) {
        return failure;
    }
    let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() else {
        return Meaning::NotUnderstood.failure(WHO, "something");
    };
    let (code, inner) = raw_response.as_deref().map(codes).unwrap_or_default();
    let status = u16::from(*status);
    let meaning = match status {
        401 => Meaning::LoginRefused,
        403 if inner.as_deref() == Some("SecretDisabled") => Meaning::Disabled,
        403 => Meaning::Denied,
        404 if code.as_deref() == Some("SecretNotFound") => Meaning::NotFound,
        400 if code.is_some() => Meaning::BadRequest,
        429 => Meaning::Throttled,
        500.. => Meaning::Unavailable,
        _ => Meaning::NotUnderstood,
    };
    meaning.failure(WHO, &format!("HTTP status {status}"))
}

/// `who` gives access tokens.
pub(super) fn of_credentials(who: &str, error: &Error) -> Failure {
    if let Some(failure) = on_the_way(who, error) {
        return failure;
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(status) = cause.downcast_ref::<Error>().and_then(Error::http_status) {
            let status = u16::from(status);
            let meaning = match status {
                429 => Meaning::Throttled,
                500.. => Meaning::Unavailable,
                _ => Meaning::LoginRefused,
            };
            return meaning.failure(who, &format!("HTTP status {status}"));
        }
        next = cause.source();
    }
    Meaning::NotUnderstood.failure(who, "something")
}

fn on_the_way(who: &str, error: &Error) -> Option<Failure> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(Why(failure)) = cause.downcast_ref::<Why>() {
            return Some(failure.clone());
        }
        if let Some(error) = cause.downcast_ref::<SendError>() {
            return Some(send_failure(who, *error));
        }
        next = cause.source();
    }
    None
}

/// `error.code` and `error.innererror.code` of an answer.
fn codes(response: &RawResponse) -> (Option<String>, Option<String>) {
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (text(&body["error"]["code"]), text(&body["error"]["innererror"]["code"]))
}
