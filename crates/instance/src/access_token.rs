//! Access tokens of the API's OAuth clients: JWTs (RFC 9068) that live for five minutes, signed with the instance's key.
//! What a client may do is not in them: it is looked up, so a change holds at once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::client::{ApiClient, ClientKind};
use crate::store::{StoreError, api_clients, instance_keys};

/// How long a token is good, in seconds.
pub(crate) const SECONDS: i64 = 300;
const TYPE: &str = "at+jwt";

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    /// Unix seconds.
    exp: i64,
}

/// Whether a bearer token is meant as one of these. API keys hold no dot.
pub(crate) fn is_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

pub(crate) fn issue(app: &App, client: &ApiClient) -> String {
    let now = app.clock.wall().unix_seconds();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "EdDSA", "typ": TYPE, "kid": app.signing_key.id() }));
    let claims = part(json!({
        "iss": app.public_url,
        "aud": app.instance_id,
        "sub": client.id,
        "client_id": client.id,
        "iat": now,
        "exp": now + SECONDS,
        "jti": app.new_id(),
    }));
    let input = format!("{header}.{claims}");
    let signature = app.signing_key.sign(input.as_bytes());
    format!("{input}.{signature}")
}

/// The client that a token was issued to by any instance on this database, and until when it is good (unix
/// milliseconds). `None`: it is not one of ours, or its client is gone.
pub(crate) async fn holder(app: &App, token: &str) -> Result<Option<(ApiClient, Option<i64>)>, StoreError> {
    let Some(key) = key(app, token).await? else { return Ok(None) };
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[&app.instance_id]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    // Checked at each use, against the instance's clock, which is a parameter.
    validation.validate_exp = false;
    let decoded =
        DecodingKey::from_ed_components(&key).and_then(|key| jsonwebtoken::decode::<Claims>(token, &key, &validation));
    let Ok(claims) = decoded.map(|decoded| decoded.claims) else { return Ok(None) };
    let client = api_clients::by_id(app.store.readers(), &claims.sub).await?;
    Ok(client.filter(|client| client.kind == ClientKind::OauthClient).map(|client| {
        let token_ends = claims.exp.saturating_mul(1000);
        let until = client.expires_at.map_or(token_ends, |ends| ends.min(token_ends));
        (client, Some(until))
    }))
}

/// The public key that the token says it is signed with.
async fn key(app: &App, token: &str) -> Result<Option<String>, StoreError> {
    let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(None) };
    let Some(id) = header.kid.filter(|_| header.typ.as_deref() == Some(TYPE)) else { return Ok(None) };
    if id == app.signing_key.id() {
        return Ok(Some(app.signing_key.public()));
    }
    let others = instance_keys::all(app.store.readers()).await?;
    Ok(others.into_iter().find(|(other, _)| *other == id).map(|(_, key)| key))
}
