//! Queued requests.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midward_core::{Failure, Hop};
use midward_telemetry::TraceContext;
use midward_wire::{ApiCall, Bytes64, Outcome, ReplayRule, header_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::Instrument as _;

use super::page::{Page, PageQuery};
use super::submit;
use super::{Body, body, parse};
use crate::app::{App, Shared};
use crate::at_rest::not_kept;
use crate::auth;
use crate::check;
use crate::client::{ApiClient, Right};
use crate::extract::{Params, Segments};
use crate::problem::Problem;
use crate::queue::{Submitted, Wants};
use crate::store::request_list::{self, Filter};
use crate::store::requests::{self, FAILED, LEASED, Priority, QUEUED, REPLIED, RequestRow, UNKNOWN};
use crate::traces::{Answered, Traced};

/// Longest time that a request may stay in the queue.
const LONGEST_EXPIRY: Duration = Duration::from_hours(7 * 24);
/// How long a caller waits for its request to be accepted.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);
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
    let began = app.clock.boot();
    let client = auth::client(&app, &headers).await?;
    let mut new: NewRequest = parse(&body(content, app.limits.body_bytes)?)?;
    let traced = Traced::enter(&app, began, &headers, TraceContext::take(&mut new.headers));
    let (id, connection) = (app.new_id(), new.connection.clone());
    let answer = queue(&app, &client, &id, new, &traced).instrument(traced.log(&id)).await;
    let (status, id, failure) = match &answer {
        Ok((status, id)) => (*status, id, None),
        Err(problem) => (problem.status, &id, Some(&*problem.failure)),
    };
    let connection = Some(&*connection).filter(|_| failure.is_none_or(|failure| failure.hop != Hop::Caller));
    let (method, route) = (&Method::POST, "/api/v1/requests");
    traced.end(&app, &Answered { method, route, request_id: id, connection, status, failure });
    let (status, id) = answer?;
    let location = format!("/api/v1/requests/{id}");
    Ok((status, [(header::LOCATION, location)], Json(json!({ "id": id }))).into_response())
}

/// Queues a request under `id`, or finds the one that was submitted under its key before.
async fn queue(
    app: &App,
    client: &ApiClient,
    id: &str,
    new: NewRequest,
    traced: &Traced,
) -> Result<(StatusCode, String), Problem> {
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
    if new.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 200 || key.contains('\0')) {
        return Err(Problem::bad_request(
            "invalid_key",
            "idempotency_key is empty, longer than 200 bytes, or holds a NUL",
            "Give 1 to 200 bytes of text.",
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
    let route = submit::route(app, client, &new.connection).await?;
    let expires_in = Duration::from_millis(new.expires_in_ms.unwrap_or(app.limits.expires_in_ms)).min(LONGEST_EXPIRY);
    let call =
        ApiCall { method: new.method, path: new.path, headers: new.headers, body: Bytes64(body), replay: new.replay };
    let terms = submit::Terms {
        priority: new.priority,
        idempotency_key: new.idempotency_key,
        not_before: new.not_before,
        patience: ACCEPTED_WITHIN,
        retries: true,
        traced,
    };
    match submit::submit(app, client, &route, id.to_owned(), call, expires_in, terms).await? {
        Submitted::New(id) => Ok((StatusCode::ACCEPTED, id)),
        Submitted::Known(id) => Ok((StatusCode::OK, id)),
        Submitted::KeyReused(id) => Err(submit::key_reused().with_request(&id)),
        Submitted::Full => Err(Problem::queue_full()),
    }
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
    Segments(id): Segments<String>,
    Params(query): Params<WaitQuery>,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(&app, &headers).await?;
    // Registered before looking, so that an outcome in between is not missed.
    let waiting = app.waiters.wait(&id, Wants::Record);
    let row = visible(&app, &client, &id).await?;
    if row.outcome.is_some() || query.wait_ms == 0 {
        return shown(&app, &client, &row).await.map(Json);
    }
    let wait = Duration::from_millis(query.wait_ms).min(LONGEST_WAIT);
    submit::wait(&app, &id, waiting, wait, None).await;
    let row = visible(&app, &client, &id).await?;
    shown(&app, &client, &row).await.map(Json)
}

/// Ends a request that waits and that no MID has or may have sent; it is not sent then. One that waits for its next
/// attempt ends as its last one did.
pub(super) async fn cancel(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(id): Segments<String>,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(&app, &headers).await?;
    let row = visible(&app, &client, &id).await?;
    if row.client_id != client.id && !client.role.may(Right::CancelAllRequests) {
        return Err(auth::forbidden("only the client that submitted a request, or an operator, may cancel it"));
    }
    let failure = Failure::permanent(
        Hop::Caller,
        "cancelled",
        "the request was cancelled while no MID Server had it, and is not sent",
        "Submit it again if it is wanted after all.",
    );
    if submit::withdraw(&app, Some(&client), &id, failure).await?.is_none() {
        let failure = Failure::permanent(
            Hop::Instance,
            "too_late_to_cancel",
            "a MID Server has the request or may have sent it, or it has ended",
            format!("See how it ended: `midward get requests {id}`."),
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure).with_request(&id));
    }
    tracing::info!(client = client.name, request = id, "a request was cancelled");
    let row = visible(&app, &client, &id).await?;
    shown(&app, &client, &row).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    limit: Option<u32>,
    /// Identifier of the last request of the page before.
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    connection: Option<String>,
    #[serde(default)]
    state: Option<RequestState>,
    /// Identifier of the client that submitted it.
    #[serde(default)]
    client: Option<String>,
}

pub(super) async fn list(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<ListQuery>,
) -> Result<Json<Value>, Problem> {
    list_those(&app, &headers, query, false).await
}

/// A page of requests, of all or of those that failed after their last attempt.
pub(super) async fn list_those(
    app: &App,
    headers: &HeaderMap,
    query: ListQuery,
    dead: bool,
) -> Result<Json<Value>, Problem> {
    let client = auth::client(app, headers).await?;
    let page = Page::of(&PageQuery { limit: query.limit, after: query.before })?;
    for name in [&query.connection, &query.client].into_iter().flatten() {
        check::name("filter", name)?;
    }
    let filter = Filter {
        // Of others, one who may not see them finds none.
        clients: [(!client.role.may(Right::SeeAllRequests)).then_some(client.id.as_str()), query.client.as_deref()],
        connection: query.connection.as_deref(),
        state: query.state.map(RequestState::number),
        dead,
        before: &page.after,
    };
    let mut items = Vec::new();
    for id in request_list::ids(app.store.readers(), &filter, page.to_read()).await? {
        items.extend(requests::find(app.store.readers(), &id).await?.map(|row| summary(app, &row)));
    }
    Ok(page.answer(items, |request| request["id"].as_str().unwrap_or_default().to_owned()))
}

/// A request's state by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestState {
    Queued,
    Leased,
    Replied,
    Failed,
    Unknown,
}

impl RequestState {
    const fn of(number: i64) -> Self {
        match number {
            QUEUED => Self::Queued,
            LEASED => Self::Leased,
            REPLIED => Self::Replied,
            FAILED => Self::Failed,
            _ => Self::Unknown,
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Queued => QUEUED,
            Self::Leased => LEASED,
            Self::Replied => REPLIED,
            Self::Failed => FAILED,
            Self::Unknown => UNKNOWN,
        }
    }
}

pub(super) async fn visible(app: &App, client: &ApiClient, id: &str) -> Result<RequestRow, Problem> {
    let row = requests::find(app.store.readers(), id).await?;
    let seen = |row: &RequestRow| client.role.may(Right::SeeAllRequests) || row.client_id == client.id;
    row.filter(seen).ok_or_else(|| Problem::not_found("request", id))
}

pub(super) fn summary(app: &App, row: &RequestRow) -> Value {
    json!({
        "id": row.id,
        "connection": row.connection,
        "state": RequestState::of(row.state),
        "client": row.client_id,
        "method": row.method,
        "path": app.at_rest.path(&row.id, &row.path).ok(),
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

/// A header's value as JSON can hold it: its UTF-8, if it is that.
fn readable(value: &str) -> String {
    String::from_utf8(header_bytes(value)).unwrap_or_else(|_| value.to_owned())
}

async fn shown(app: &App, client: &ApiClient, row: &RequestRow) -> Result<Value, Problem> {
    let mut value = summary(app, row);
    if let Some(column) = &row.outcome {
        value["trace"] = serde_json::from_str(row.trace.as_deref().unwrap_or("[]")).unwrap_or_default();
        match app.at_rest.outcome(app.store.readers(), &row.id, column.clone()).await? {
            Ok(Outcome::Replied { reply }) => {
                value["status"] = reply.status.into();
                if row.reduced {
                    value["body_unavailable"] = json!(not_kept());
                } else if row.client_id == client.id || client.role.may(Right::SeeAllBodies) {
                    value["headers"] =
                        reply.headers.iter().map(|(name, value)| json!([name, readable(value)])).collect();
                    value["body_base64"] = STANDARD.encode(&reply.body.0).into();
                }
            }
            Ok(Outcome::Failed { failure } | Outcome::Unknown { failure }) => value["failure"] = json!(failure),
            Err(why) => value["body_unavailable"] = json!(why.failure()),
        }
    } else if row.state == QUEUED
        && let Some(route) = app.routes.find(&app.store, &app.fleet, &row.connection).await?
        && !app.fleet.serves(&route, app.clock.boot())
    {
        value["waiting_because"] = json!(app.fleet.explain(&route, app.clock.boot()));
    }
    Ok(value)
}
