//! The token endpoint (RFC 6749 4.4, RFC 8693), introspection (RFC 7662) and revocation (RFC 7009).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{BasicDecoding, OAuthFault, State, TokenRequest};
use crate::http::{Body, Dropped, json, read_body, respond};
use crate::serve::lock;

/// RFC 8693 2.1.
pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// An error answer of RFC 6749 5.2.
struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
}

/// Who asks, and how it showed that.
struct ShownClient {
    client_id: String,
    secret: String,
    method: &'static str,
}

impl TokenRequest {
    /// A request that was dropped before it was read.
    pub(super) fn unread() -> Self {
        Self {
            client_id: String::new(),
            method: "none",
            form: Vec::new(),
            authorization: false,
            error: Some("fault".to_owned()),
        }
    }
}

impl State {
    /// Records a request as unanswered and returns its number.
    pub(super) fn record(&self, headers: &HeaderMap, body: &[u8]) -> usize {
        let form = parse_form(body);
        let shown = self.shown_client(headers, &form);
        let request = TokenRequest {
            client_id: shown.as_ref().map_or_else(|_| String::new(), |shown| shown.client_id.clone()),
            method: shown.map_or("none", |shown| shown.method),
            form: form.into_iter().filter(|(name, _)| name != "client_secret").collect(),
            authorization: headers.contains_key(AUTHORIZATION),
            error: Some("fault".to_owned()),
        };
        let mut requests = lock(&self.requests);
        requests.push(request);
        requests.len() - 1
    }

    /// Answers the request with this number.
    pub(super) fn token(
        &self,
        number: usize,
        headers: &HeaderMap,
        body: &[u8],
        fault: Option<&OAuthFault>,
    ) -> Response<Body> {
        let outcome = self.grant(headers, body, fault);
        if let Some(request) = lock(&self.requests).get_mut(number) {
            request.error = outcome.as_ref().err().map(|error| error.error.to_owned());
        }
        let mut response = match outcome {
            Ok(body) => respond(StatusCode::OK, "application/json", body),
            Err(error) => {
                let body = json!({ "error": error.error, "error_description": error.description });
                let mut response = json(error.status, &body);
                if error.status == StatusCode::UNAUTHORIZED {
                    response
                        .headers_mut()
                        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"token endpoint\""));
                }
                response
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The JSON text of a granted token. Text, not a value: faults put in what no JSON library would write.
    fn grant(&self, headers: &HeaderMap, body: &[u8], fault: Option<&OAuthFault>) -> Result<String, OAuthError> {
        match fault {
            Some(OAuthFault::Error200) => return Err(refusal(StatusCode::OK, "server_error", "ordered")),
            Some(OAuthFault::InvalidClient) => return Err(invalid_client("ordered")),
            Some(OAuthFault::UnauthorizedClient) => {
                return Err(refusal(StatusCode::BAD_REQUEST, "unauthorized_client", "Invalid client secret"));
            }
            _ => {}
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !content_type.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
            return Err(invalid_request("the content type is not application/x-www-form-urlencoded"));
        }
        let form = parse_form(body);
        let shown = self.authenticate(headers, &form)?;
        let single = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let repeated = ["grant_type", "scope", "client_id", "client_secret"];
        if repeated.iter().any(|name| form.iter().filter(|(known, _)| known == name).count() > 1) {
            return Err(invalid_request("a parameter is included more than once"));
        }
        match single("grant_type") {
            Some("client_credentials") => {}
            Some(TOKEN_EXCHANGE) => self.check_exchange(&single)?,
            None => return Err(invalid_request("grant_type is missing")),
            Some(_) => return Err(refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type", "not offered here")),
        }
        let scope = single("scope").unwrap_or("");
        if !self.scope_is_allowed(&shown.client_id, scope) {
            return Err(refusal(StatusCode::BAD_REQUEST, "invalid_scope", "the client may not have this scope"));
        }
        let mut audience: Vec<String> = form
            .iter()
            .filter(|(name, _)| name == "resource" || name == "audience")
            .map(|(_, value)| value.clone())
            .collect();
        if audience.is_empty() {
            audience.push(self.config.default_audience.clone());
        }
        let kept = lock(&self.last_token).clone().filter(|_| fault == Some(&OAuthFault::SameToken));
        let kept = kept.and_then(|token| self.live_claims(&token).map(|claims| (token, claims)));
        let (token, expires_in) = if let Some((token, claims)) = kept {
            let left = claims["exp"].as_i64().unwrap_or(0) - self.config.clock.wall().unix_seconds();
            (token, left.max(0).to_string())
        } else {
            let issued = self
                .issue(&shown.client_id, scope, &audience)
                .map_err(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "signing failed"))?;
            (issued, lock(&self.lifetime).as_secs().to_string())
        };
        *lock(&self.last_token) = Some(token.clone());
        let issued_type = (single("grant_type") == Some(TOKEN_EXCHANGE))
            .then(|| single("requested_token_type").unwrap_or(ACCESS_TOKEN_TYPE));
        Ok(reply(&token, &expires_in, scope, issued_type, fault))
    }

    /// RFC 8693 2.1, 2.2.2.
    fn check_exchange<'a>(&self, single: &impl Fn(&str) -> Option<&'a str>) -> Result<(), OAuthError> {
        let needed = |name| single(name).ok_or(invalid_request("a parameter of the exchange is missing"));
        let (token, kind) = (needed("subject_token")?, needed("subject_token_type")?);
        let known = self.config.subject_tokens.iter().find(|known| known.token == token && known.token_type == kind);
        let known = known.ok_or(invalid_request("the subject token is not acceptable"))?;
        if known.actor_token.as_deref() != single("actor_token")
            || single("actor_token").is_some() != single("actor_token_type").is_some()
        {
            return Err(invalid_request("the actor token is not acceptable"));
        }
        Ok(())
    }

    fn scope_is_allowed(&self, client_id: &str, scope: &str) -> bool {
        let clients = lock(&self.clients);
        let allowed = clients.iter().find(|known| known.client_id == client_id).and_then(|known| known.scopes.clone());
        allowed.is_none_or(|allowed| scope.split_ascii_whitespace().all(|one| allowed.iter().any(|known| known == one)))
    }

    fn authenticate(&self, headers: &HeaderMap, form: &[(String, String)]) -> Result<ShownClient, OAuthError> {
        let shown = self.shown_client(headers, form)?;
        let clients = lock(&self.clients);
        let known = clients.iter().find(|known| known.client_id == shown.client_id);
        if known.is_some_and(|known| known.client_secrets.contains(&shown.secret)) {
            drop(clients);
            Ok(shown)
        } else {
            Err(invalid_client("unknown client, or wrong secret"))
        }
    }

    fn shown_client(&self, headers: &HeaderMap, form: &[(String, String)]) -> Result<ShownClient, OAuthError> {
        let field = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let header = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or(""));
        match (header, field("client_secret")) {
            (Some(_), Some(_)) => Err(invalid_request("two client authentication methods in one request")),
            (Some(header), None) => {
                let (client_id, secret) = self.basic(header).ok_or_else(|| invalid_client("no usable Basic header"))?;
                if field("client_id").is_some_and(|named| named != client_id) {
                    return Err(invalid_request("client_id differs from the authenticated client"));
                }
                Ok(ShownClient { client_id, secret, method: "client_secret_basic" })
            }
            (None, Some(secret)) => {
                let client_id = field("client_id").ok_or_else(|| invalid_client("client_id is missing"))?;
                Ok(ShownClient { client_id, secret, method: "client_secret_post" })
            }
            (None, None) => Err(invalid_client("no client authentication")),
        }
    }

    fn basic(&self, header: &str) -> Option<(String, String)> {
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        match self.config.basic_decoding {
            BasicDecoding::Raw => Some((id.to_owned(), secret.to_owned())),
            BasicDecoding::Form => Some((form_decode(id)?, form_decode(secret)?)),
        }
    }

    /// RFC 7662.
    pub(super) async fn introspect(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let (parts, body) = request.into_parts();
        let form = parse_form(&read_body(body).await?);
        if let Err(error) = self.authenticate(&parts.headers, &form) {
            return Ok(json(error.status, &json!({ "error": error.error })));
        }
        let token = form.iter().find(|(name, _)| name == "token").map_or("", |(_, value)| value);
        let claims = self.live_claims(token);
        let active = claims.is_some();
        let mut answer = claims.unwrap_or_else(|| json!({}));
        answer["active"] = Value::Bool(active);
        Ok(json(StatusCode::OK, &answer))
    }

    /// RFC 7009: 200 also for a token that is unknown.
    pub(super) async fn revoke(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let (parts, body) = request.into_parts();
        let form = parse_form(&read_body(body).await?);
        if let Err(error) = self.authenticate(&parts.headers, &form) {
            return Ok(json(error.status, &json!({ "error": error.error })));
        }
        if let Some((_, token)) = form.iter().find(|(name, _)| name == "token") {
            lock(&self.revoked).push(token.clone());
        }
        Ok(json(StatusCode::OK, &json!({})))
    }
}

fn reply(token: &str, expires_in: &str, scope: &str, issued_type: Option<&str>, fault: Option<&OAuthFault>) -> String {
    let token_type = match fault {
        Some(OAuthFault::TokenType { json }) => json.as_str(),
        _ => "\"Bearer\"",
    };
    let expires_in = match fault {
        Some(OAuthFault::WithoutExpiresIn) => String::new(),
        Some(OAuthFault::ExpiresIn { json }) => format!(",\"expires_in\":{json}"),
        _ => format!(",\"expires_in\":{expires_in}"),
    };
    let granted = match fault {
        Some(OAuthFault::Scope { scope }) => scope,
        _ => scope,
    };
    let scope = if granted.is_empty() { String::new() } else { format!(",\"scope\":{}", json!(granted)) };
    let issued_type = match (fault, issued_type) {
        (Some(OAuthFault::IssuedTokenType { json }), _) if json.is_empty() => String::new(),
        (Some(OAuthFault::IssuedTokenType { json }), _) => format!(",\"issued_token_type\":{json}"),
        (_, Some(named)) => format!(",\"issued_token_type\":{}", json!(named)),
        (_, None) => String::new(),
    };
    format!("{{\"access_token\":\"{token}\",\"token_type\":{token_type}{expires_in}{scope}{issued_type}}}")
}

fn parse_form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

/// Decodes one form-urlencoded value. A `%` that does not begin an escape is refused, as strict servers do.
fn form_decode(value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        return None;
    }
    let spaced = value.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn refusal(status: StatusCode, error: &'static str, description: &'static str) -> OAuthError {
    OAuthError { status, error, description }
}

fn invalid_request(description: &'static str) -> OAuthError {
    refusal(StatusCode::BAD_REQUEST, "invalid_request", description)
}

fn invalid_client(description: &'static str) -> OAuthError {
    refusal(StatusCode::UNAUTHORIZED, "invalid_client", description)
}
