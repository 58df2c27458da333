//! The MIDs' token endpoint: client credentials grant with `private_key_jwt` (RFC 7523).

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use midward_core::check_name;
use midward_wire::{MidState, SignedState, TokenError, TokenReply, paths};
use serde::{Deserialize, Serialize};

use crate::app::{App, Shared};
use crate::fleet::MidView;
use crate::keys::{hash, hash_text, new_secret};
use crate::problem::Problem;
use crate::store::mids;

/// How long a token is good, in seconds.
const TOKEN_SECONDS: u64 = 300;
/// Longest life of a client assertion that is accepted, in seconds.
const ASSERTION_SECONDS: i64 = 300;
/// What was asked for, in the audit.
const ASKED: &str = "MID token";
/// Longest identifier of an assertion, in bytes: it is kept until the assertion has expired.
const LONGEST_JTI: usize = 200;
/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 30;

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    jti: String,
}

pub(super) async fn token(State(app): State<Shared>, body: Bytes) -> Result<Response, Problem> {
    let mut grant_type = String::new();
    let mut kind = String::new();
    let mut assertion = String::new();
    for (name, value) in url::form_urlencoded::parse(&body) {
        match &*name {
            "grant_type" => grant_type = value.into_owned(),
            "client_assertion_type" => kind = value.into_owned(),
            "client_assertion" => assertion = value.into_owned(),
            _ => {}
        }
    }
    if grant_type != "client_credentials" {
        let why = "only client_credentials is granted";
        return Ok(refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", why, None));
    }
    if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || assertion.len() > 8192 {
        return Ok(invalid_client(&app, None, "a client assertion (RFC 7523) is needed"));
    }
    let Some((mid, claims)) = verify(&app, &assertion).await? else {
        return Ok(invalid_client(&app, None, "the client assertion is not valid"));
    };
    let now = app.clock.wall().unix_seconds();
    if claims.exp <= now - LEEWAY_SECONDS || claims.exp > now + ASSERTION_SECONDS + LEEWAY_SECONDS {
        let why = "the client assertion is expired or lives too long; compare the clocks of both sides";
        return Ok(invalid_client(&app, Some(&mid), why));
    }
    let mut tx = app.store.begin().await?;
    let until = (claims.exp + LEEWAY_SECONDS).saturating_mul(1000);
    if !mids::spend_assertion(&mut *tx, &mid.id, &claims.jti, until).await? {
        return Ok(invalid_client(&app, Some(&mid), "the client assertion was used before"));
    }
    if !matches!(mid.state, MidState::Validated | MidState::Paused) {
        tx.commit().await?;
        // One that waits to be validated asks all the time, and is refused nothing.
        if mid.state == MidState::Invalidated {
            app.audit.refused("invalid_client", &mid.id, ASKED);
        }
        let state = app.signing_key.sign_state(&mid.id, mid.state, &claims.jti);
        let why = format!("the MID is {}", mid.state.name());
        return Ok(refuse(StatusCode::UNAUTHORIZED, "invalid_client", &why, Some(state)));
    }
    let access_token = new_secret("mwt_", &*app.random);
    let expires_at = app.now().saturating_add(i64::try_from(TOKEN_SECONDS * 1000).unwrap_or(0));
    mids::insert_token(&mut *tx, &hash_text(&hash(&access_token)), &mid.id, expires_at).await?;
    tx.commit().await?;
    Ok(json(StatusCode::OK, &TokenReply { access_token, token_type: "Bearer".to_owned(), expires_in: TOKEN_SECONDS }))
}

/// The MID that signed the assertion for this endpoint; expiry and replay are still to be checked.
async fn verify(app: &App, assertion: &str) -> Result<Option<(MidView, Claims)>, Problem> {
    // The key to check with is the claimed sender's; nothing else of an unchecked assertion is used.
    let Ok(claimed) = jsonwebtoken::dangerous::insecure_decode::<Claims>(assertion) else { return Ok(None) };
    // Nobody has another identifier, and not every database could be asked for it.
    if check_name(&claimed.claims.sub).is_err() {
        return Ok(None);
    }
    let Some(mid) = app.fresh_mid(&claimed.claims.sub).await? else { return Ok(None) };
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[format!("{}{}", app.public_url, paths::TOKEN)]);
    validation.set_issuer(&[&mid.id]);
    validation.sub = Some(mid.id.clone());
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    // Checked against the instance's clock, which is a parameter.
    validation.validate_exp = false;
    let Ok(key) = DecodingKey::from_ed_components(&mid.public_key) else { return Ok(None) };
    let claims = jsonwebtoken::decode::<Claims>(assertion, &key, &validation).ok();
    let claims = claims.map(|checked| checked.claims);
    let is_plain = |jti: &str| (1..=LONGEST_JTI).contains(&jti.len()) && !jti.contains(char::is_control);
    Ok(claims.filter(|claims| is_plain(&claims.jti)).map(|claims| (mid, claims)))
}

/// A refusal of the client itself, which the audit counts.
fn invalid_client(app: &App, mid: Option<&MidView>, why: &str) -> Response {
    app.audit.refused("invalid_client", mid.map_or("", |mid| &mid.id), ASKED);
    refuse(StatusCode::UNAUTHORIZED, "invalid_client", why, None)
}

fn refuse(status: StatusCode, error: &str, description: &str, state: Option<SignedState>) -> Response {
    json(status, &TokenError { error: error.to_owned(), error_description: Some(description.to_owned()), state })
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    // RFC 6749 5.1.
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}
