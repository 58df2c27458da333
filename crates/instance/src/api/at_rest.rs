//! What is encrypted in the database, and with which keys: their names only.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::app::Shared;
use crate::auth;
use crate::client::Right;
use crate::problem::Problem;
use crate::retention::gone_before;

pub(super) async fn show(State(app): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadRecords).await?;
    let current = app.at_rest.current();
    let mut tx = app.store.readers().begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    let missing = app.at_rest.missing(&mut tx, gone_before(&app.retention, now)).await?;
    Ok(Json(json!({
        "encrypted": current.is_some(),
        "key": current,
        "older_keys": app.at_rest.older(),
        "missing_keys": missing,
    })))
}
