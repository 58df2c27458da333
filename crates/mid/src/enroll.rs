//! Enrollment: a one-time token from an administrator and a key made on this host.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, header};
use midward_core::{Failure, Hop, Secret};
use midward_wire::{EnrollReply, EnrollRequest, EnrollToken, VERSION, paths};

use crate::http::InstanceHttp;
use crate::link::check_version;
use crate::state::{Enrollment, StateDir};

const DEADLINE: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 64 * 1024;

/// Reads an enrollment token.
pub fn decode_token(text: &str) -> Result<EnrollToken, Failure> {
    let token = EnrollToken::decode(text).map_err(|error| {
        Failure::permanent(
            Hop::Mid,
            "enroll_token_invalid",
            error.to_string(),
            "Give the whole line that the instance printed, by --token-file or stdin.",
        )
    })?;
    check_origin(&token.instance_url)?;
    Ok(token)
}

/// Registers this MID Server and writes its state. The key never leaves the host; what an earlier enrollment left is
/// replaced only after the instance has accepted the new one.
pub async fn enroll(
    token: &EnrollToken,
    name: &str,
    state: &StateDir,
    http: &dyn InstanceHttp,
) -> Result<EnrollReply, Failure> {
    state.probe()?;
    // Should the answer get lost, the same token with the same key gives the same registration.
    let (key, public_key) = if let Some(key) = state.staged_key(&token.secret)? {
        with_public(key)?
    } else {
        let (key, public_key) = generate_key()?;
        state.stage_key(&token.secret, &key)?;
        (key, public_key)
    };
    let message = EnrollRequest { version: VERSION, secret: token.secret.clone(), name: name.to_owned(), public_key };
    let origin = token.instance_url.trim_end_matches('/');
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{origin}{}", paths::ENROLL))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Bytes::from(serde_json::to_vec(&message).unwrap_or_default()))
        .map_err(|error| refused(error.to_string()))?;
    let answer = http.exchange(request, DEADLINE, MAX_ANSWER).await.map_err(|error| {
        Failure::transient(
            Hop::Instance,
            "instance_unreachable",
            format!("{origin} cannot be reached: {error}"),
            "Check the network and [ways_out.instance], then enroll again with the same token.",
        )
    })?;
    if !answer.status().is_success() {
        if answer.status().is_client_error() {
            state.unstage_key(&token.secret)?;
        }
        return Err(refused(format!("the instance answered {}", answer.status().as_u16())));
    }
    let reply: EnrollReply = serde_json::from_slice(answer.body())
        .map_err(|_| refused("the answer is not an instance's: something else may have answered".to_owned()))?;
    check_version(reply.version).map_err(|error| refused(error.to_string()))?;
    let enrollment = Enrollment {
        instance_url: origin.to_owned(),
        instance_id: token.instance_id.clone(),
        instance_key: token.instance_key.clone(),
        mid_id: reply.mid_id.clone(),
        name: reply.name.clone(),
    };
    enrollment.pinned_key()?;
    state.save(&enrollment, token.ca_pem.as_deref(), &key)?;
    state.unstage_key(&token.secret)?;
    Ok(reply)
}

/// PKCS #8 of a new Ed25519 key, and its public half (base64url).
fn generate_key() -> Result<(Secret, String), Failure> {
    let failed =
        |_| Failure::permanent(Hop::Mid, "key_not_made", "no key could be made", "Check the host's random source.");
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let document = pair.to_pkcs8().map_err(failed)?;
    Ok((Secret::new(document.as_ref().to_vec()), URL_SAFE_NO_PAD.encode(pair.public_key())))
}

fn with_public(key: Secret) -> Result<(Secret, String), Failure> {
    let pair = Ed25519KeyPair::from_pkcs8(key.expose()).map_err(|_| {
        Failure::permanent(
            Hop::Mid,
            "mid_key_invalid",
            "the key that an earlier enrollment left behind is damaged",
            "Remove enroll-*.p8 from the state folder, and ask for a new enrollment token.",
        )
    })?;
    let public_key = URL_SAFE_NO_PAD.encode(pair.public_key());
    Ok((key, public_key))
}

/// `https`, or plain `http` to a loopback address.
fn check_origin(url: &str) -> Result<(), Failure> {
    let bad =
        |detail: &str| Failure::permanent(Hop::Mid, "enroll_token_invalid", detail, "Ask for a new enrollment token.");
    let parsed = url::Url::parse(url).map_err(|_| bad("its instance address is not a URL"))?;
    let loopback = match parsed.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => Err(bad("its instance address is neither https nor on the loopback")),
    }
}

fn refused(detail: String) -> Failure {
    Failure::permanent(
        Hop::Instance,
        "enroll_refused",
        detail,
        "Ask for a new enrollment token (`midward mid enroll-token`): each works once, and not for ever.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_the_loopback() {
        for good in ["https://midward.example", "http://127.0.0.1:80", "http://[::1]:8440"] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
        for bad in ["http://midward.example", "http://10.0.0.1", "http://localhost", "ftp://127.0.0.1", "x"] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_generated_key_loads_again() {
        let (key, public) = generate_key().expect("made");
        let pair = Ed25519KeyPair::from_pkcs8(key.expose()).expect("loads");
        assert_eq!(URL_SAFE_NO_PAD.encode(pair.public_key()), public);
    }
}
