//! Who is asking: API keys of callers and administrators, access tokens of MIDs. Checks are kept in memory for a
//! short time and dropped at once when something changes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use midward_core::{BootTime, Failure, Hop};
use midward_wire::MidState;

use crate::app::App;
use crate::keys::{hash, hash_text};
use crate::model::{ApiKey, Role};
use crate::problem::Problem;
use crate::store::{api_keys, mids};

/// How long a check is believed without asking the database.
const BELIEVED: Duration = Duration::from_secs(10);
/// Most checks kept.
const KEPT: usize = 10_000;

type Checked<T> = RwLock<HashMap<[u8; 32], (Arc<T>, BootTime)>>;

/// Checked API keys.
#[derive(Debug, Default)]
pub(crate) struct ApiKeys(Checked<ApiKey>);

/// Checked tokens: the MID's identifier and when the token expires (unix milliseconds).
#[derive(Debug, Default)]
pub(crate) struct MidTokens(Checked<(String, i64)>);

impl ApiKeys {
    pub(crate) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl MidTokens {
    pub(crate) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The API key of a request.
pub(crate) async fn client(app: &App, headers: &HeaderMap) -> Result<Arc<ApiKey>, Problem> {
    let key = bearer(headers).ok_or_else(|| unauthorized("the request has no `Authorization: Bearer` API key"))?;
    let hash = hash(key);
    let now = app.clock.boot();
    if let Some(known) = recall(&app.api_keys.0, &hash, now) {
        return Ok(known);
    }
    let found = api_keys::by_hash(app.store.readers(), &hash_text(&hash)).await?;
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
    remember(&app.api_keys.0, hash, &key, now);
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
    let holder = if let Some(holder) = recall(&app.mid_tokens.0, &hash, now) {
        holder
    } else {
        let found = mids::token(app.store.readers(), &hash_text(&hash)).await?;
        let holder = Arc::new(found.ok_or_else(refused)?);
        remember(&app.mid_tokens.0, hash, &holder, now);
        holder
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

fn recall<T>(checked: &Checked<T>, hash: &[u8; 32], now: BootTime) -> Option<Arc<T>> {
    let checked = checked.read().unwrap_or_else(PoisonError::into_inner);
    let (value, since) = checked.get(hash)?;
    (now.saturating_since(*since) <= BELIEVED).then(|| Arc::clone(value))
}

fn remember<T>(checked: &Checked<T>, hash: [u8; 32], value: &Arc<T>, now: BootTime) {
    let mut checked = checked.write().unwrap_or_else(PoisonError::into_inner);
    if checked.len() >= KEPT {
        checked.clear();
    }
    checked.insert(hash, (Arc::clone(value), now));
}
