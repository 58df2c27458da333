//! Clients of the API: keys, and OAuth clients. A secret is in the answer that makes it and nowhere else.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use midward_core::{Failure, Hop};
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{Page, PageQuery};
use super::{Body, body, parse};
use crate::app::{App, Shared};
use crate::auth;
use crate::check;
use crate::client::{ApiClient, ClientKind, Right, Role};
use crate::extract::{Params, Segments};
use crate::keys::{hash, hash_text, new_secret};
use crate::problem::Problem;
use crate::store::api_clients;

/// Longest life of a secret, in seconds: ten years.
const LONGEST_LIFE: u64 = 10 * 366 * 86_400;
/// Longest time that two secrets are good side by side, in seconds.
const LONGEST_OVERLAP: u64 = 30 * 86_400;

/// Behind the path of one kind of client: all of them, one, its rotation.
pub(super) const BELOW: [&str; 3] = ["", "/{name}", "/{name}/rotate"];

/// The paths of one kind of client, below `path`.
pub(super) fn routes(path: &str, kind: ClientKind) -> Router<Shared> {
    let [all, item, rotation] = BELOW.map(|below| format!("{path}{below}"));
    Router::new()
        .route(
            &all,
            get(move |app, headers, query| list(kind, app, headers, query))
                .post(move |app, headers, content| create(kind, app, headers, content)),
        )
        .route(
            &item,
            get(move |app, headers, name| one(kind, app, headers, name))
                .delete(move |app, headers, name| delete(kind, app, headers, name)),
        )
        .route(&rotation, post(move |app, headers, name, content| rotate(kind, app, headers, name, content)))
}

async fn list(
    kind: ClientKind,
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadClients).await?;
    let page = Page::of(&query)?;
    let found = api_clients::page(app.store.readers(), kind, &page.after, page.to_read()).await?;
    Ok(page.answer(found, |client| client.name.clone()))
}

async fn one(
    kind: ClientKind,
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
) -> Result<Json<ApiClient>, Problem> {
    auth::allowed(&app, &headers, Right::ReadClients).await?;
    named(&app, kind, &name).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClient {
    name: String,
    role: Role,
    /// Aliases of the connections that a caller may use.
    #[serde(default)]
    connections: Vec<String>,
    #[serde(default)]
    expires_in_seconds: Option<u64>,
    #[serde(default)]
    requests_per_second: Option<u32>,
}

async fn create(
    kind: ClientKind,
    State(app): State<Shared>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let by = auth::allowed(&app, &headers, Right::ChangeClients).await?;
    let new: NewClient = parse(&body(content, app.limits.body_bytes)?)?;
    check::name(kind.noun(), &new.name)?;
    if new.connections.len() > 1000 {
        return Err(Problem::bad_request("invalid_record", "more than 1000 connections are named", "Name fewer."));
    }
    new.connections.iter().try_for_each(|alias| check::name("connection", alias))?;
    let secret = new_secret(kind.secret_prefix(), &*app.random);
    let client = ApiClient {
        id: app.new_id(),
        kind,
        name: new.name,
        role: new.role,
        connections: new.connections,
        prefix: prefix(&secret),
        first_admin: false,
        created_at: app.now(),
        expires_at: end(&app, new.expires_in_seconds)?,
        previous_expires_at: None,
        requests_per_second: new.requests_per_second,
    };
    let mut tx = app.store.begin_change().await?;
    if !api_clients::insert(&mut *tx, &client, &hash_text(&hash(&secret))).await? {
        let failure = Failure::permanent(
            Hop::Caller,
            "name_taken",
            format!("there is a client of the API named {} already", client.name),
            "Choose another name, or delete that one first.",
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure));
    }
    let details = json!({ "of": client });
    let pending = app.audit.change(&mut tx, app.now(), &by, "client_made", details).await?;
    tx.commit().await?;
    pending.settle();
    tracing::info!(client = by.name, made = client.name, role = client.role.name(), "a client of the API was made");
    Ok(handed_out(StatusCode::CREATED, &client, &secret))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// How long the present secret stays good beside the new one.
    #[serde(default = "one_day")]
    overlap_seconds: u64,
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

fn one_day() -> u64 {
    86_400
}

async fn rotate(
    kind: ClientKind,
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
    content: Body,
) -> Result<Response, Problem> {
    let by = auth::allowed(&app, &headers, Right::ChangeClients).await?;
    let content = body(content, app.limits.body_bytes)?;
    let rotation: Rotation = parse(&if content.is_empty() { "{}".into() } else { content })?;
    if rotation.overlap_seconds > LONGEST_OVERLAP {
        return Err(invalid_ttl("overlap_seconds", 0, LONGEST_OVERLAP));
    }
    let present = named(&app, kind, &name).await?;
    let secret = new_secret(kind.secret_prefix(), &*app.random);
    let overlap = (app.clock.wall() + Duration::from_secs(rotation.overlap_seconds)).unix_millis();
    let client = ApiClient {
        prefix: prefix(&secret),
        expires_at: end(&app, rotation.expires_in_seconds)?,
        previous_expires_at: Some(present.expires_at.map_or(overlap, |ends| ends.min(overlap))),
        ..present
    };
    let mut tx = app.store.begin_change().await?;
    if !api_clients::rotate(&mut *tx, &client, &hash_text(&hash(&secret))).await? {
        return Err(Problem::not_found(kind.noun(), &name));
    }
    let details = json!({ "of": client });
    let pending = app.audit.change(&mut tx, app.now(), &by, "client_rotated", details).await?;
    tx.commit().await?;
    pending.settle();
    app.clients.forget();
    tracing::info!(client = by.name, rotated = name, "a client of the API got another secret");
    Ok(handed_out(StatusCode::OK, &client, &secret))
}

async fn delete(
    kind: ClientKind,
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Problem> {
    let by = auth::allowed(&app, &headers, Right::ChangeClients).await?;
    let mut tx = app.store.begin_change().await?;
    if !api_clients::delete(&mut *tx, kind, &name).await? {
        return Err(Problem::not_found(kind.noun(), &name));
    }
    let details = json!({ "kind": kind.name(), "name": name });
    let pending = app.audit.change(&mut tx, app.now(), &by, "client_deleted", details).await?;
    tx.commit().await?;
    pending.settle();
    app.clients.forget();
    tracing::info!(client = by.name, deleted = name, "a client of the API was deleted");
    Ok(StatusCode::NO_CONTENT)
}

async fn named(app: &App, kind: ClientKind, name: &str) -> Result<ApiClient, Problem> {
    let found = api_clients::named(app.store.readers(), kind, name).await?;
    found.ok_or_else(|| Problem::not_found(kind.noun(), name))
}

fn prefix(secret: &str) -> String {
    secret.chars().take(10).collect()
}

/// When a secret ends that lives for so long.
fn end(app: &App, seconds: Option<u64>) -> Result<Option<i64>, Problem> {
    let Some(seconds) = seconds else { return Ok(None) };
    if !(1..=LONGEST_LIFE).contains(&seconds) {
        return Err(invalid_ttl("expires_in_seconds", 1, LONGEST_LIFE));
    }
    Ok(Some((app.clock.wall() + Duration::from_secs(seconds)).unix_millis()))
}

fn invalid_ttl(field: &str, least: u64, most: u64) -> Problem {
    let detail = format!("{field} is not between {least} and {most}");
    Problem::bad_request("invalid_ttl", detail, "Choose another time.")
}

fn handed_out(status: StatusCode, client: &ApiClient, secret: &str) -> Response {
    let mut shown = json!(client);
    match client.kind {
        ClientKind::ApiKey => shown["key"] = secret.into(),
        ClientKind::OauthClient => {
            shown["client_id"] = client.id.clone().into();
            shown["client_secret"] = secret.into();
        }
    }
    (status, [(header::CACHE_CONTROL, "no-store")], Json(shown)).into_response()
}
