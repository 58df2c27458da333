//! The token endpoint for the API's own clients: client credentials grant (RFC 6749 4.4).

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::access_token;
use crate::app::{App, Shared};
use crate::client::{ApiClient, ClientKind};
use crate::keys::{hash, hash_text};
use crate::problem::Problem;
use crate::store::api_clients;

/// Longest form that is read, in bytes.
pub(super) const LARGEST: usize = 16 * 1024;

#[derive(Default)]
struct Form {
    grant_type: String,
    scope: String,
    client_id: String,
    client_secret: String,
}

pub(super) async fn token(State(app): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let Some(form) = form(&body) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "invalid_request", "a parameter is given twice"));
    };
    if form.grant_type != "client_credentials" {
        let error = if form.grant_type.is_empty() { "invalid_request" } else { "unsupported_grant_type" };
        return Ok(refuse(StatusCode::BAD_REQUEST, error, "only grant_type=client_credentials is granted"));
    }
    if !form.scope.is_empty() {
        return Ok(refuse(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            "a client's role says what it may do; give no scope",
        ));
    }
    let Some((id, secret)) = credentials(&headers, form) else {
        return Ok(refuse(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "give client_id and client_secret, as Basic authentication or in the form, not both",
        ));
    };
    let Some(client) = authenticate(&app, &id, &secret).await? else {
        app.audit.refused("invalid_client", "", "token");
        return Ok(refuse(StatusCode::UNAUTHORIZED, "invalid_client", "client_id or client_secret is not valid"));
    };
    app.rates.take(&client, app.clock.boot())?;
    let token = access_token::issue(&app, &client);
    let reply = json!({ "access_token": token, "token_type": "Bearer", "expires_in": access_token::SECONDS });
    Ok(answer(StatusCode::OK, &reply))
}

async fn authenticate(app: &App, id: &str, secret: &str) -> Result<Option<ApiClient>, Problem> {
    // A secret has 256 random bits, so finding its hash tells nothing about another one's.
    let hash = hash_text(&hash(secret));
    let found = api_clients::by_hash(app.store.readers(), ClientKind::OauthClient, &hash).await?;
    let now = app.now();
    let is_good = |(client, until): &(ApiClient, Option<i64>)| client.id == id && until.is_none_or(|until| until > now);
    Ok(found.filter(is_good).map(|(client, _)| client))
}

/// `None`: a parameter is there twice (RFC 6749 3.2).
fn form(body: &[u8]) -> Option<Form> {
    let mut form = Form::default();
    for (name, value) in url::form_urlencoded::parse(body) {
        let field = match &*name {
            "grant_type" => &mut form.grant_type,
            "scope" => &mut form.scope,
            "client_id" => &mut form.client_id,
            "client_secret" => &mut form.client_secret,
            _ => continue,
        };
        if !field.is_empty() {
            return None;
        }
        *field = value.into_owned();
    }
    Some(form)
}

/// Identifier and secret, from the one place where they are (RFC 6749 2.3.1).
fn credentials(headers: &HeaderMap, form: Form) -> Option<(String, String)> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let given = !form.client_id.is_empty() && !form.client_secret.is_empty();
        return given.then_some((form.client_id, form.client_secret));
    };
    if !form.client_secret.is_empty() {
        return None;
    }
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    // Ours hold nothing that the form encoding changes, so it does not matter whether a client applied it.
    (form.client_id.is_empty() || form.client_id == id).then(|| (id.to_owned(), secret.to_owned()))
}

fn refuse(status: StatusCode, error: &str, description: &str) -> Response {
    let mut response = answer(status, &json!({ "error": error, "error_description": description }));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = header::HeaderValue::from_static("Basic realm=\"midward\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    // RFC 6749 5.1.
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_one_place() {
        let basic = |text: &str| {
            let mut headers = HeaderMap::new();
            let value = format!("Basic {}", STANDARD.encode(text));
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            headers
        };
        let parsed = |body: &str| form(body.as_bytes()).expect("no doubles");
        let pair = Some(("a".to_owned(), "b".to_owned()));
        assert_eq!(credentials(&basic("a:b"), parsed("")), pair);
        assert_eq!(credentials(&basic("a:b"), parsed("client_id=a")), pair);
        assert_eq!(credentials(&basic("a:b"), parsed("client_id=c")), None);
        assert_eq!(credentials(&basic("a:b"), parsed("client_id=a&client_secret=b")), None);
        assert_eq!(credentials(&HeaderMap::new(), parsed("client_id=a&client_secret=b")), pair);
        assert_eq!(credentials(&HeaderMap::new(), parsed("client_id=a")), None);
        assert!(form(b"grant_type=x&grant_type=y").is_none());
    }
}
