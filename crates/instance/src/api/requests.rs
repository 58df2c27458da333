//! Queued requests.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midward_core::{Failure, Hop};
use midward_wire::{ApiCall, Bytes64, Outcome, ReplayRule};
use serde::Deserialize;
use serde_json::{Value, json};

use super::submit::{self, ended};
use super::{Body, body, page, parse};
use crate::app::{App, Shared};
use crate::auth;
use crate::check;
use crate::model::{ApiKey, Role};
use crate::problem::Problem;
use crate::queue::{Submitted, Wants};
use crate::store::requests::{self, FAILED, LEASED, Priority, QUEUED, REPLIED, RequestRow};

/// Longest time that a request may stay in the queue.
const LONGEST_EXPIRY: Duration = Duration::from_hours(7 * 24);
/// Longest that an answer is held back.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRequest {
    connection: String,
    method: String,
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Text; or `body_base64`.
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
    #[serde(default)]
    replay: ReplayRule,
    #[serde(default)]
    expires_in_ms: Option<u64>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    priority: Priority,
    /// Unix milliseconds; its expiry counts from then.
    #[serde(default)]
    not_before: i64,
}

pub(super) async fn submit(State(app): State<Shared>, headers: HeaderMap, content: Body) -> Result<Response, Problem> {
    let client = auth::client(&app, &headers).await?;
    let new: NewRequest = parse(&body(content, app.limits.body_bytes)?)?;
    check::method(&new.method)?;
    check::path(&new.path)?;
    check::headers(&new.headers)?;
    let body = match (new.body, new.body_base64) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request("two_bodies", "both body and body_base64 are given", "Give one of them."));
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(encoded)) => STANDARD.decode(encoded).map_err(|_| {
            Problem::bad_request("invalid_body", "body_base64 is not base64", "Encode it as RFC 4648 says.")
        })?,
        (None, None) => Vec::new(),
    };
    if body.len() > app.limits.body_bytes {
        return Err(Problem::too_large(app.limits.body_bytes));
    }
    if new.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 200) {
        return Err(Problem::bad_request(
            "invalid_key",
            "idempotency_key is empty or longer than 200 bytes",
            "Shorten it.",
        ));
    }
    let latest = (app.clock.wall() + LONGEST_EXPIRY).unix_millis();
    if !(0..=latest).contains(&new.not_before) {
        return Err(Problem::bad_request(
            "invalid_not_before",
            "not_before is not a time in unix milliseconds within the next seven days",
            "Give an earlier time, or leave it out.",
        ));
    }
    let route = submit::route(&app, &client, &new.connection).await?;
    let expires_in = Duration::from_millis(new.expires_in_ms.unwrap_or(app.limits.expires_in_ms)).min(LONGEST_EXPIRY);
    let call =
        ApiCall { method: new.method, path: new.path, headers: new.headers, body: Bytes64(body), replay: new.replay };
    let terms = submit::Terms {
        priority: new.priority,
        idempotency_key: new.idempotency_key,
        not_before: new.not_before,
        retries: true,
    };
    let submitted = submit::submit(&app, &client, &route, app.new_id(), call, expires_in, terms).await?;
    let (status, id) = match submitted {
        Submitted::New(id) => (StatusCode::ACCEPTED, id),
        Submitted::Known(id) => (StatusCode::OK, id),
        Submitted::KeyReused(id) => return Err(submit::key_reused().with_request(&id)),
    };
    let location = format!("/api/v1/requests/{id}");
    Ok((status, [(header::LOCATION, location)], Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn one(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(&app, &headers).await?;
    // Registered before looking, so that an outcome in between is not missed.
    let waiting = app.waiters.wait(&id, Wants::Record);
    let row = visible(&app, &client, &id).await?;
    if row.outcome.is_some() || query.wait_ms == 0 {
        return shown(&app, &row).await.map(Json);
    }
    let wait = Duration::from_millis(query.wait_ms).min(LONGEST_WAIT);
    submit::wait(&app, &id, waiting, wait, None).await;
    let row = visible(&app, &client, &id).await?;
    shown(&app, &row).await.map(Json)
}

/// Ends a request that no MID was given yet; it is never sent then.
pub(super) async fn cancel(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(&app, &headers).await?;
    visible(&app, &client, &id).await?;
    let failure = Failure::permanent(
        Hop::Caller,
        "cancelled",
        "the request was cancelled before a MID Server took it; it was never sent",
        "Submit it again if it is wanted after all.",
    );
    if submit::withdraw(&app, &id, failure).await?.is_none() {
        let failure = Failure::permanent(
            Hop::Instance,
            "too_late_to_cancel",
            "a MID Server was given the request, or it has ended",
            format!("See how it ended: `midward get requests {id}`."),
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure).with_request(&id));
    }
    tracing::info!(client = client.name, request = id, "a request was cancelled");
    let row = visible(&app, &client, &id).await?;
    shown(&app, &row).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    pub(super) limit: Option<u16>,
    /// Identifier of the last request of the page before.
    #[serde(default)]
    pub(super) before: String,
}

pub(super) async fn list(
    State(app): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(&app, &headers).await?;
    let whose = if client.role == Role::Administrator { "" } else { &client.id };
    let limit = i64::from(query.limit.unwrap_or(50).clamp(1, 500));
    let rows = requests::list(app.store.readers(), whose, &query.before, limit).await?;
    Ok(page(rows.iter().map(|row| summary(&app, row)).collect()))
}

pub(super) async fn visible(app: &App, client: &ApiKey, id: &str) -> Result<RequestRow, Problem> {
    let row = requests::find(app.store.readers(), id).await?;
    let seen = |row: &RequestRow| client.role == Role::Administrator || row.client_id == client.id;
    row.filter(seen).ok_or_else(|| Problem::not_found("request", id))
}

pub(super) fn summary(app: &App, row: &RequestRow) -> Value {
    let state = match row.state {
        QUEUED => "queued",
        LEASED => "leased",
        REPLIED => "replied",
        FAILED => "failed",
        _ => "unknown",
    };
    json!({
        "id": row.id,
        "connection": row.connection,
        "state": state,
        "method": row.method,
        "path": row.path,
        "epoch": row.epoch,
        "mid": row.mid_id.as_deref().map(|id| app.fleet.name(id).unwrap_or_else(|| id.to_owned())),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "finished_at": row.finished_at,
        "not_before": Some(row.not_before).filter(|time| *time > 0),
        "attempts": row.attempts + 1,
        "dead": row.dead,
    })
}

async fn shown(app: &App, row: &RequestRow) -> Result<Value, Problem> {
    let mut value = summary(app, row);
    if let Some(ended) = ended(row)? {
        value["trace"] = serde_json::from_str(&ended.trace).unwrap_or_default();
        match &*ended.outcome {
            Outcome::Replied { reply } => {
                value["status"] = reply.status.into();
                value["headers"] = json!(reply.headers);
                value["body_base64"] = STANDARD.encode(&reply.body.0).into();
            }
            Outcome::Failed { failure } | Outcome::Unknown { failure } => value["failure"] = json!(failure),
        }
    } else if row.state == QUEUED
        && let Some(route) = app.routes.find(&app.store, &app.fleet, &row.connection).await?
        && !app.fleet.serves(&route, app.clock.boot())
    {
        value["waiting_because"] = json!(app.fleet.explain(&route, app.clock.boot()));
    }
    Ok(value)
}
