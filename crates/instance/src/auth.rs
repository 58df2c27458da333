//! Who is asking: API keys and access tokens of the API's clients, access tokens of MIDs. Checks are kept in memory for a
//! short time and dropped at once when something changes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use midward_core::{BootTime, Failure, Hop};
use midward_wire::MidState;

use crate::access_token;
use crate::app::{App, Shared};
use crate::client::{ApiClient, ClientKind, Right};
use crate::keys::{hash, hash_text};
use crate::problem::{Problem, ProblemCode};
use crate::replica;
use crate::store::{StoreError, api_clients, mids};

/// How long a check is believed without asking the database again. It is forgotten as soon as something changes, here or
/// at another replica, and when the others cannot be followed.
const BELIEVED: Duration = Duration::from_mins(1);
/// Most checks kept.
const KEPT: usize = 10_000;

/// What was checked lately.
#[derive(Debug)]
struct Checked<T>(RwLock<Checks<T>>);

#[derive(Debug)]
struct Checks<T> {
    known: HashMap<[u8; 32], (Arc<T>, BootTime)>,
    /// How often all was forgotten: what was read before is not kept after.
    generation: u64,
}

/// Checked API keys and access tokens.
#[derive(Debug, Default)]
pub(crate) struct Clients(Checked<Admission>);

/// A client by one of its keys or tokens.
#[derive(Debug)]
struct Admission {
    client: Arc<ApiClient>,
    /// Unix milliseconds.
    until: Option<i64>,
}

/// Checked tokens: the MID's identifier and when the token expires (unix milliseconds).
#[derive(Debug, Default)]
pub(crate) struct MidTokens(Checked<(String, i64)>);

impl Clients {
    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

impl MidTokens {
    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

/// Lets only clients through that are within their rate, before anything of their body is read.
pub(crate) async fn clients_only(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let (client, response) = match admit(&app, request.headers()).await {
        Ok(client) => (Some(client), next.run(request).await),
        Err(problem) => (None, problem.into_response()),
    };
    audit_refusal(&app, &response, client.as_ref().map_or("", |client| &client.id), &asked);
    response
}

/// Counts an answer in the audit that refuses who asks.
fn audit_refusal(app: &App, response: &Response, client: &str, asked: &str) {
    let refused =
        matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    if let Some(ProblemCode(code)) = response.extensions().get().filter(|_| refused) {
        app.audit.refused(code, client, asked);
    }
}

/// The client of a request, which is counted.
pub(crate) async fn admit(app: &App, headers: &HeaderMap) -> Result<Arc<ApiClient>, Problem> {
    let client = client(app, headers).await?;
    app.rates.take(&client, app.clock.boot())?;
    Ok(client)
}

/// Lets only MIDs through, before anything of their body is read.
pub(crate) async fn mids_only(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let response = match mid(&app, request.headers()).await {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    audit_refusal(&app, &response, "", &asked);
    response
}

/// The client of a request.
pub(crate) async fn client(app: &App, headers: &HeaderMap) -> Result<Arc<ApiClient>, Problem> {
    let token =
        bearer(headers).ok_or_else(|| unauthorized("the request has no `Authorization: Bearer` key or token"))?;
    let hash = hash(token);
    let now = app.clock.boot();
    let admission = match app.clients.0.recall(&hash, now) {
        Ok(known) => known,
        Err(generation) => {
            let found = if access_token::is_one(token) {
                access_token::holder(app, token).await?
            } else {
                let text = hash_text(&hash);
                app.store.patiently(|| api_clients::by_hash(app.store.readers(), ClientKind::ApiKey, &text)).await?
            };
            let (client, until) = found.ok_or_else(|| unauthorized("the API key or access token is not known"))?;
            if client.first_admin {
                first_use(app).await?;
            }
            let admission = Arc::new(Admission { client: Arc::new(client), until });
            app.clients.0.remember(generation, hash, &admission, now);
            admission
        }
    };
    if admission.until.is_some_and(|until| until <= app.now()) {
        return Err(unauthorized("the API key or access token has expired"));
    }
    Ok(Arc::clone(&admission.client))
}

/// The client of a request that needs a right.
pub(crate) async fn allowed(app: &App, headers: &HeaderMap, right: Right) -> Result<Arc<ApiClient>, Problem> {
    let client = client(app, headers).await?;
    if client.role.may(right) {
        return Ok(client);
    }
    Err(forbidden(&format!("this needs the role {}", right.holders())))
}

/// The first administrator's key was used, so its file is no longer needed.
async fn first_use(app: &App) -> Result<(), StoreError> {
    let file = &app.first_admin_file;
    let mut tx = app.store.begin().await?;
    api_clients::clear_first_admin(&mut *tx).await?;
    tx.commit().await?;
    match std::fs::remove_file(file) {
        Ok(()) => tracing::info!(file = %file.display(), "first administrator's key used: its file is removed"),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "first administrator's key used, but its file cannot be removed: remove it");
        }
    }
    Ok(())
}

/// The identifier of the MID that asks, with its state.
pub(crate) async fn mid(app: &App, headers: &HeaderMap) -> Result<(Arc<(String, i64)>, MidState), Problem> {
    let refused = || {
        let action = "Ask the token endpoint for a new one.";
        let failure =
            Failure::transient(Hop::Instance, "mid_token_refused", "the MID's access token is not valid", action);
        Problem::new(StatusCode::UNAUTHORIZED, failure)
    };
    let token = bearer(headers).ok_or_else(refused)?;
    let hash = hash(token);
    let now = app.clock.boot();
    let holder = match app.mid_tokens.0.recall(&hash, now) {
        Ok(holder) => holder,
        Err(generation) => {
            let text = hash_text(&hash);
            let found = app.store.patiently(|| mids::token(app.store.readers(), &text)).await?;
            let holder = Arc::new(found.ok_or_else(refused)?);
            app.mid_tokens.0.remember(generation, hash, &holder, now);
            holder
        }
    };
    let works = |state: &MidState| matches!(state, MidState::Validated | MidState::Paused);
    let state = match app.fleet.state(&holder.0).filter(works) {
        Some(state) => state,
        // It has a token, so another replica may have let it in a moment ago.
        None => replica::meet(app, &holder.0).await?.filter(works).ok_or_else(refused)?,
    };
    if holder.1 <= app.now() {
        return Err(refused());
    }
    Ok((holder, state))
}

pub(crate) fn forbidden(detail: &str) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        Failure::permanent(
            Hop::Instance,
            "not_allowed",
            detail,
            "Use an API key that may do this: `midward api-key create`.",
        ),
    )
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        Failure::permanent(
            Hop::Caller,
            "unauthorized",
            detail,
            "Give a valid API key (`--key-file` on the command line), or ask the token endpoint for a new token.",
        ),
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= 1024).then(|| token.trim())
}

impl<T> Checked<T> {
    /// What is known, or the generation to remember under.
    fn recall(&self, hash: &[u8; 32], now: BootTime) -> Result<Arc<T>, u64> {
        let checked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match checked.known.get(hash) {
            Some((value, since)) if now.saturating_since(*since) <= BELIEVED => Ok(Arc::clone(value)),
            _ => Err(checked.generation),
        }
    }

    /// Keeps a check, unless something was forgotten since `generation`: it may have been read before that.
    fn remember(&self, generation: u64, hash: [u8; 32], value: &Arc<T>, now: BootTime) {
        let mut checked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if checked.generation != generation {
            return;
        }
        if checked.known.len() >= KEPT {
            checked.known.clear();
        }
        checked.known.insert(hash, (Arc::clone(value), now));
    }

    fn forget(&self) {
        let mut checked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        checked.known.clear();
        checked.generation += 1;
    }
}

impl<T> Default for Checked<T> {
    fn default() -> Self {
        Self(RwLock::new(Checks { known: HashMap::new(), generation: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let (checked, now) = (Checked::default(), BootTime::from_duration(Duration::from_secs(1)));
        let generation = checked.recall(&[1; 32], now).expect_err("unknown");
        checked.forget();
        checked.remember(generation, [1; 32], &Arc::new("deleted meanwhile"), now);
        let generation = checked.recall(&[1; 32], now).expect_err("not kept");
        checked.remember(generation, [1; 32], &Arc::new("found"), now);
        assert_eq!(checked.recall(&[1; 32], now).as_deref(), Ok(&"found"));
    }
}
