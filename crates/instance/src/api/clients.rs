//! API keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use midward_core::{Failure, Hop};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, body, page, parse};
use crate::app::Shared;
use crate::auth;
use crate::check;
use crate::keys::{hash, hash_text, new_secret};
use crate::model::{ApiKey, Role};
use crate::problem::Problem;
use crate::store::api_keys;

pub(super) async fn list(State(app): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::administrator(&app, &headers).await?;
    Ok(page(api_keys::all(app.store.readers()).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    name: String,
    role: Role,
    /// Aliases of the connections that a caller may use.
    #[serde(default)]
    connections: Vec<String>,
}

/// The key itself is in this answer and nowhere else.
pub(super) async fn create(
    State(app): State<Shared>,
    headers: HeaderMap,
    content: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    auth::administrator(&app, &headers).await?;
    let new: NewKey = parse(&body(content, app.limits.body_bytes)?)?;
    check::name("API key", &new.name)?;
    new.connections.iter().try_for_each(|alias| check::name("connection", alias))?;
    let secret = new_secret("mwk_", &*app.random);
    let key = ApiKey {
        id: app.new_id(),
        name: new.name,
        role: new.role,
        connections: new.connections,
        prefix: secret.chars().take(10).collect(),
        first_admin: false,
        created_at: app.now(),
    };
    let mut tx = app.store.begin().await?;
    if !api_keys::insert(&mut *tx, &key, &hash_text(&hash(&secret))).await? {
        let failure = Failure::permanent(
            Hop::Caller,
            "name_taken",
            format!("there is an API key named {} already", key.name),
            "Choose another name, or delete that one first.",
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure));
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(json!({ "name": key.name, "role": key.role, "prefix": key.prefix, "key": secret }))))
}

pub(super) async fn delete(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    auth::administrator(&app, &headers).await?;
    let mut tx = app.store.begin_change().await?;
    if !api_keys::delete(&mut *tx, &name).await? {
        return Err(Problem::not_found("API key", &name));
    }
    tx.commit().await?;
    app.api_keys.forget();
    Ok(StatusCode::NO_CONTENT)
}
