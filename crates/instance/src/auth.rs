//! Who is asking: API keys of callers and administrators, access tokens of MIDs. Checks are kept in memory for a
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

use crate::app::{App, Shared};
use crate::keys::{hash, hash_text};
use crate::model::{ApiKey, Role};
use crate::problem::Problem;
use crate::store::{api_keys, mids};

/// How long a check is believed without asking the database.
const BELIEVED: Duration = Duration::from_secs(10);
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

/// Checked API keys.
#[derive(Debug, Default)]
pub(crate) struct ApiKeys(Checked<ApiKey>);

/// Checked tokens: the MID's identifier and when the token expires (unix milliseconds).
#[derive(Debug, Default)]
pub(crate) struct MidTokens(Checked<(String, i64)>);

impl ApiKeys {
    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

impl MidTokens {
    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

/// Lets only requests with an API key through, before anything of their body is read.
pub(crate) async fn clients_only(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match client(&app, request.headers()).await {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Lets only MIDs through, before anything of their body is read.
pub(crate) async fn mids_only(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match mid(&app, request.headers()).await {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The API key of a request.
pub(crate) async fn client(app: &App, headers: &HeaderMap) -> Result<Arc<ApiKey>, Problem> {
    let key = bearer(headers).ok_or_else(|| unauthorized("the request has no `Authorization: Bearer` API key"))?;
    let hash = hash(key);
    let now = app.clock.boot();
    let generation = match app.api_keys.0.recall(&hash, now) {
        Ok(known) => return Ok(known),
        Err(generation) => generation,
    };
    let text = hash_text(&hash);
    let found = app.store.patiently(|| api_keys::by_hash(app.store.readers(), &text)).await?;
    let key = found.ok_or_else(|| unauthorized("the API key is not known"))?;
    if key.first_admin {
        let mut tx = app.store.begin().await?;
        api_keys::clear_first_admin(&mut *tx).await?;
        tx.commit().await?;
        match std::fs::remove_file(&app.first_admin_file) {
            Ok(()) => {
                tracing::info!(file = %app.first_admin_file.display(), "first administrator's key used: its file is removed");
            }
            Err(error) => {
                tracing::warn!(file = %app.first_admin_file.display(), %error, "first administrator's key used, but its file cannot be removed: remove it");
            }
        }
    }
    let key = Arc::new(key);
    app.api_keys.0.remember(generation, hash, &key, now);
    Ok(key)
}

/// The API key of a request that only administrators may make.
pub(crate) async fn administrator(app: &App, headers: &HeaderMap) -> Result<Arc<ApiKey>, Problem> {
    let key = client(app, headers).await?;
    if key.role == Role::Administrator { Ok(key) } else { Err(forbidden("this needs the role administrator")) }
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
    let state = app.fleet.state(&holder.0).ok_or_else(refused)?;
    if holder.1 <= app.now() || !matches!(state, MidState::Validated | MidState::Paused) {
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
            "Give a valid API key (`--key-file` on the command line).",
        ),
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= 512).then(|| token.trim())
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
