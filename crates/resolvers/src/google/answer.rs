//! What Google's answers mean. Pure. Their texts are not repeated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use midward_core::{AccessToken, Failure, Secret};
use serde::Deserialize;
use std::time::Duration;
use zeroize::Zeroizing;

use crate::cloud::Meaning;

pub(super) const WHO: &str = "Google Secret Manager";
pub(super) const WHO_TOKENS: &str = "Google's token endpoint";
pub(super) const WHO_METADATA: &str = "the instance metadata service";

/// A secret's version.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) value: Secret,
    pub(super) version: Option<String>,
}

/// "Method: projects.secrets.versions.access".
pub(super) fn payload(status: StatusCode, body: &[u8]) -> Result<Payload, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        name: String,
        payload: Inner,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Inner {
        #[serde(default)]
        data: Option<String>,
        /// An int64, which Google's JSON writes as text.
        #[serde(default)]
        data_crc32c: Option<String>,
    }
    if status != StatusCode::OK {
        return Err(refused(status, body));
    }
    let not_understood = || Meaning::NotUnderstood.failure(WHO, "something");
    let Answer { name, payload } = serde_json::from_slice(body).map_err(|_| not_understood())?;
    let data = Zeroizing::new(payload.data.unwrap_or_default());
    let value = Secret::new(STANDARD.decode(data.as_bytes()).map_err(|_| not_understood())?);
    if let Some(sum) = payload.data_crc32c
        && sum.parse() != Ok(crc32c(value.expose()))
    {
        return Err(Meaning::NotUnderstood.failure(WHO, "a value with another checksum"));
    }
    Ok(Payload { value, version: name.rsplit_once("/versions/").map(|(_, version)| version.to_owned()) })
}

/// "Errors" of Google's API design guide: an object with a canonical status beside HTTP's.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    #[derive(Deserialize)]
    struct Answer {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        status: String,
    }
    let said = serde_json::from_slice::<Answer>(body).ok().map(|answer| answer.error.status);
    let meaning = match (status.as_u16(), said.as_deref()) {
        (401, _) => Meaning::LoginRefused,
        (429, _) => Meaning::Throttled,
        (500.., _) => Meaning::Unavailable,
        (403, Some("PERMISSION_DENIED")) => Meaning::Denied,
        (404, Some("NOT_FOUND")) => Meaning::NotFound,
        // The version is disabled or destroyed.
        (400, Some("FAILED_PRECONDITION")) => Meaning::Disabled,
        (400, Some(_)) => Meaning::BadRequest,
        _ => Meaning::NotUnderstood,
    };
    meaning.failure(WHO, &format!("HTTP status {}", status.as_u16()))
}

/// An access token and how long it lives.
pub(super) fn token(who: &str, status: StatusCode, body: &[u8]) -> Result<(AccessToken, Duration), Failure> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        expires_in: u64,
    }
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "error")]
        _error: String,
    }
    let shown = format!("HTTP status {}", status.as_u16());
    if status != StatusCode::OK {
        let refused = serde_json::from_slice::<Refusal>(body).is_ok();
        return Err(match status.as_u16() {
            429 => Meaning::Throttled,
            500.. => Meaning::Unavailable,
            400..=403 if refused => Meaning::LoginRefused,
            // The metadata service knows no such service account.
            404 if who == WHO_METADATA => Meaning::LoginRefused,
            _ => Meaning::NotUnderstood,
        }
        .failure(who, &shown));
    }
    let answer = serde_json::from_slice::<Answer>(body).ok();
    let read = answer.and_then(|answer| {
        let token = AccessToken::new(Secret::from(answer.access_token))?;
        Some((token, Duration::from_secs(answer.expires_in.min(86_400))))
    });
    read.ok_or_else(|| Meaning::NotUnderstood.failure(who, "something"))
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { REVERSED } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_value_is_read_with_its_version_and_checked() {
        let body =
            br#"{"name":"projects/1/secrets/crm/versions/3","payload":{"data":"aHVudGVyMg==","dataCrc32c":"X"}}"#;
        let body = String::from_utf8_lossy(body).replace('X', &crc32c(b"hunter2").to_string());
        let read = payload(StatusCode::OK, body.as_bytes()).expect("a value");
        assert_eq!((read.value.expose(), read.version.as_deref()), (b"hunter2".as_slice(), Some("3")));
        for bad in [body.replace("aHV", "aHW"), body.replace("==", ""), body.replace("name", "nom")] {
            assert_eq!(payload(StatusCode::OK, bad.as_bytes()).expect_err("broken").code, "vault_answer_invalid");
        }
    }

    #[test]
    fn a_refusal_counts_only_in_googles_own_words() {
        let said = |status: u16, word: &str| {
            let body = format!(r#"{{"error":{{"code":{status},"message":"canary","status":"{word}"}}}}"#);
            let failure =
                payload(StatusCode::from_u16(status).expect("a status"), body.as_bytes()).expect_err("refused");
            assert!(!failure.to_string().contains("canary"));
            failure.code
        };
        for (status, word, code) in [
            (404, "NOT_FOUND", "vault_not_found"),
            (404, "OTHER", "vault_answer_invalid"),
            (403, "PERMISSION_DENIED", "vault_denied"),
            (403, "", "vault_answer_invalid"),
            (400, "FAILED_PRECONDITION", "vault_secret_disabled"),
            (400, "INVALID_ARGUMENT", "vault_bad_request"),
            (401, "UNAUTHENTICATED", "vault_login_refused"),
            (429, "RESOURCE_EXHAUSTED", "vault_throttled"),
            (503, "UNAVAILABLE", "vault_unavailable"),
            (302, "", "vault_answer_invalid"),
        ] {
            assert_eq!(said(status, word), code, "{status} {word}");
        }
    }

    #[test]
    fn a_token_is_legal_and_lives_a_day_at_most() {
        let read = |status: u16, body: &str| {
            token(WHO_TOKENS, StatusCode::from_u16(status).expect("a status"), body.as_bytes())
        };
        let (_, life) = read(200, r#"{"access_token":"a","expires_in":1000000000000}"#).expect("a token");
        assert_eq!(life, Duration::from_secs(86_400));
        for (status, body, code) in [
            (200, r#"{"access_token":"a b","expires_in":1}"#, "vault_answer_invalid"),
            (200, r#"{"access_token":"a"}"#, "vault_answer_invalid"),
            (200, "<html>", "vault_answer_invalid"),
            (400, r#"{"error":"invalid_grant","error_description":"canary"}"#, "vault_login_refused"),
            (400, "canary", "vault_answer_invalid"),
            (500, "", "vault_unavailable"),
        ] {
            assert_eq!(read(status, body).expect_err(body).code, code, "{status} {body}");
        }
    }
}
