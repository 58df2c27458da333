//! What is encrypted in the database, and with which keys: their names only.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::app::Shared;
use crate::auth;
use crate::client::Right;
use crate::problem::Problem;

pub(super) async fn show(State(app): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadRecords).await?;
    let current = app.at_rest.current();
    Ok(Json(json!({ "encrypted": current.is_some(), "key": current, "older_keys": app.at_rest.older() })))
}
