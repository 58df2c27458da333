//! What Conjur's answers mean. Pure; texts of the vault are not repeated.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use midward_core::{ClientMaterial, Failure, Hop, MaterialField, Secret};
use serde::Deserialize;

use super::WHO;
use crate::cloud::{Meaning, Members};

/// "Authenticate": an access token lives 8 minutes.
const DEFAULT_LIFE: Duration = Duration::from_secs(480);

#[derive(Deserialize)]
struct AccessToken {
    payload: String,
    #[serde(rename = "signature")]
    _signature: String,
}

#[derive(Deserialize)]
struct Claims {
    iat: u64,
    #[serde(default)]
    exp: Option<u64>,
}

/// The access token, as it stands in the header, and its life.
pub(super) fn access_token(response: &Response<Bytes>) -> Result<(Secret, Duration), Failure> {
    let token: AccessToken = serde_json::from_slice(response.body()).map_err(|_| not_understood())?;
    let claims =
        URL_SAFE_NO_PAD.decode(token.payload.trim_end_matches('=')).or_else(|_| STANDARD.decode(&token.payload));
    let claims: Option<Claims> = claims.ok().and_then(|claims| serde_json::from_slice(&claims).ok());
    // Only the difference counts: both are by the vault's clock.
    let life = claims.and_then(|claims| claims.exp?.checked_sub(claims.iat)).filter(|seconds| *seconds > 0);
    Ok((Secret::from(STANDARD.encode(response.body())), life.map_or(DEFAULT_LIFE, Duration::from_secs)))
}

/// The values of a batch, by the variables' full names.
pub(super) fn values(
    response: &Response<Bytes>,
    asked: &[(MaterialField, String)],
    client_id: Option<&str>,
) -> Result<ClientMaterial, Failure> {
    // What serde_json says may quote a value.
    let Members(mut members) = serde_json::from_slice(response.body()).map_err(|_| not_understood())?;
    let is_base64 = response.headers().get(CONTENT_ENCODING).is_some_and(|value| value == "base64");
    let mut material = ClientMaterial::new();
    for (field, name) in asked {
        let Some(Some(text)) = members.remove(name) else { return Err(not_understood()) };
        let value = if is_base64 { decoded(&text)? } else { text };
        material = material.with(*field, value);
    }
    if let Some(id) = client_id {
        material = material.with(MaterialField::ClientId, Secret::from(id));
    }
    let lacks = |field| material.field(field).is_none();
    let proof = [MaterialField::ClientSecret, MaterialField::PrivateKey, MaterialField::Certificate];
    if lacks(MaterialField::ClientId) || proof.into_iter().all(lacks) {
        let names: Vec<&str> = asked.iter().map(|(_, name)| name.as_str()).collect();
        return Err(Failure::permanent(
            Hop::Vault,
            "empty_secret",
            format!("a variable that is needed is empty, of {}", names.join(" ")),
            "Give the variables their values, or name others in the resolver's `variables`.",
        ));
    }
    Ok(material)
}

/// An answer to a look-up with another status than was hoped for.
pub(super) fn refusal(response: &Response<Bytes>) -> Failure {
    let status = response.status().as_u16();
    let meaning = match status {
        429 => Meaning::Throttled,
        500.. => Meaning::Unavailable,
        _ if is_page(response) => Meaning::NotUnderstood,
        401 => Meaning::LoginRefused,
        403 => Meaning::Denied,
        404 => return not_found(),
        400 | 406 | 422 => Meaning::BadRequest,
        _ => Meaning::NotUnderstood,
    };
    meaning.failure(WHO, &format!("HTTP status {status}"))
}

/// The same for a sign-in.
pub(super) fn login_refusal(response: &Response<Bytes>) -> Failure {
    let status = response.status().as_u16();
    match status {
        400..=404 | 422 if !is_page(response) => Meaning::LoginRefused.failure(WHO, &format!("HTTP status {status}")),
        _ => refusal(response),
    }
}

fn not_found() -> Failure {
    let action = "Check the credential identifier, the resolver's `variables` and `account`, that each variable has a \
                  value, and that the MID's host or user may read it.";
    Failure { action: action.to_owned(), ..Meaning::NotFound.failure(WHO, "HTTP status 404") }
}

fn not_understood() -> Failure {
    Meaning::NotUnderstood.failure(WHO, "something")
}

fn decoded(text: &Secret) -> Result<Secret, Failure> {
    STANDARD.decode(text.expose()).map(Secret::new).map_err(|_| not_understood())
}

/// A proxy's, for example. Conjur's own errors are JSON, or empty.
fn is_page(response: &Response<Bytes>) -> bool {
    let html = response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    html && !response.body().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Bytes::from(body.to_owned())).expect("a response")
    }

    fn token(claims: &str) -> String {
        let payload = URL_SAFE_NO_PAD.encode(claims);
        format!(r#"{{"protected":"e30=","payload":"{payload}","signature":"c2ln"}}"#)
    }

    #[test]
    fn a_token_lives_as_long_as_it_says_or_480_seconds() {
        for (claims, seconds) in [
            (r#"{"sub":"host/a","iat":1700000000}"#, 480),
            (r#"{"sub":"host/a","iat":1700000000,"exp":1700000060}"#, 60),
            (r#"{"sub":"host/a","iat":1700000000,"exp":1600000000}"#, 480),
            ("no JSON", 480),
        ] {
            let body = token(claims);
            let (header, life) = access_token(&response(200, &[], &body)).expect("a token");
            assert_eq!((header.expose_str(), life.as_secs()), (Some(STANDARD.encode(&body).as_str()), seconds));
        }
        for bad in ["", "<html>", "{}", r#""text""#] {
            assert_eq!(access_token(&response(200, &[], bad)).expect_err(bad).code, "vault_answer_invalid");
        }
    }

    #[test]
    fn values_are_read_by_their_full_names_and_decoded_where_they_are_encoded() {
        let asked = [
            (MaterialField::ClientId, "a:variable:crm/client_id".to_owned()),
            (MaterialField::ClientSecret, "a:variable:crm/client_secret".to_owned()),
        ];
        let read = |headers: &[(&str, &str)], id: &str, secret: &str| {
            let body = format!(r#"{{"a:variable:crm/client_secret":"{secret}","a:variable:crm/client_id":"{id}"}}"#);
            values(&response(200, headers, &body), &asked, None).map_err(|failure| failure.code)
        };
        let encoded = [("content-encoding", "base64")];
        for material in [read(&encoded, "aWQ=", "czoscw=="), read(&[], "id", "s:,s")] {
            let material = material.expect("complete");
            assert_eq!(material.field(MaterialField::ClientId).map(Secret::expose), Some(&b"id"[..]));
            assert_eq!(material.field(MaterialField::ClientSecret).map(Secret::expose), Some(&b"s:,s"[..]));
        }
        assert_eq!(read(&encoded, "aWQ=", "no base64").err().as_deref(), Some("vault_answer_invalid"));
        assert_eq!(read(&encoded, "aWQ=", "").err().as_deref(), Some("empty_secret"));
        let other = response(200, &[], r#"{"a:variable:other":"x"}"#);
        assert_eq!(values(&other, &asked, None).expect_err("other names").code, "vault_answer_invalid");
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let html = [("content-type", "text/html")];
        for (status, headers, body, code) in [
            (401, &[][..], "", "vault_login_refused"),
            (403, &[], "", "vault_denied"),
            (404, &[], r#"{"error":{"code":"not_found"}}"#, "vault_not_found"),
            (404, &html, "<html>canary", "vault_answer_invalid"),
            (403, &html, "<html>canary", "vault_answer_invalid"),
            (422, &[], "{}", "vault_bad_request"),
            (429, &[], "", "vault_throttled"),
            (503, &html, "<html>", "vault_unavailable"),
            (302, &[], "", "vault_answer_invalid"),
        ] {
            assert_eq!(refusal(&response(status, headers, body)).code, code, "{status}");
        }
        assert_eq!(login_refusal(&response(404, &[], "")).code, "vault_login_refused");
        assert_eq!(login_refusal(&response(401, &html, "<html>")).code, "vault_answer_invalid");
        assert_eq!(login_refusal(&response(500, &[], "")).code, "vault_unavailable");
    }
}
