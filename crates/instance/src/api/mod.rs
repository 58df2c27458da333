//! The REST API (`/api/v1`).

mod apply;
mod at_rest;
mod audit;
pub(crate) mod call;
mod clients;
mod dead_letters;
mod etag;
mod jars;
mod metrics;
mod mids;
mod openapi;
mod page;
mod records;
mod requests;
mod submit;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state, map_response_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use midward_core::{Failure, Hop};
use serde::de::DeserializeOwned;

use crate::app::Shared;
use crate::auth;
use crate::client::ClientKind;
use crate::intake;
use crate::problem::Problem;

/// Everything on the first listener: API, health, and the MIDs' side.
pub(crate) fn router(app: Shared) -> Router {
    // A body of a call travels as base64 inside JSON.
    let limit = app.limits.body_bytes.saturating_mul(3) / 2 + 64 * 1024;
    Router::new()
        .route("/api/v1/apply", post(apply::apply))
        .route("/api/v1/clusters", get(records::list::<crate::model::Cluster>))
        .route("/api/v1/clusters/{name}", records::one::<crate::model::Cluster>())
        .route("/api/v1/connections", get(records::list::<crate::model::Connection>))
        .route("/api/v1/connections/{name}", records::one::<crate::model::Connection>())
        .route("/api/v1/credentials", get(records::list::<crate::model::Credential>))
        .route("/api/v1/credentials/{name}", records::one::<crate::model::Credential>())
        .route("/api/v1/oauth-entities", get(records::list::<crate::model::OAuthEntity>))
        .route("/api/v1/oauth-entities/{name}", records::one::<crate::model::OAuthEntity>())
        .route("/api/v1/oauth-entity-profiles", get(records::list::<crate::model::OAuthEntityProfile>))
        .route("/api/v1/oauth-entity-profiles/{name}", records::one::<crate::model::OAuthEntityProfile>())
        .route("/api/v1/mids", get(mids::list))
        .route("/api/v1/mids/enroll-tokens", post(mids::enroll_token))
        .route("/api/v1/mids/{name}", get(mids::one))
        .route("/api/v1/mids/{name}/rekey", post(mids::rekey))
        .route("/api/v1/mids/{name}/{action}", post(mids::act))
        .merge(clients::routes("/api/v1/api-keys", ClientKind::ApiKey))
        .merge(clients::routes("/api/v1/oauth-clients", ClientKind::OauthClient))
        .route("/api/v1/at-rest", get(at_rest::show))
        .route("/api/v1/audit/blocks", get(audit::blocks))
        .route("/api/v1/audit/checkpoints", get(audit::checkpoints))
        .route("/api/v1/audit/keys", get(audit::keys))
        .route("/api/v1/jars", get(jars::list))
        .route(
            "/api/v1/jars/{name}",
            axum::routing::put(jars::put).delete(jars::delete).layer(DefaultBodyLimit::max(jars::LARGEST)),
        )
        .route("/api/v1/requests", get(requests::list).post(requests::submit))
        .route("/api/v1/requests/{id}", get(requests::one))
        .route("/api/v1/requests/{id}/cancel", post(requests::cancel))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/{id}/redrive", post(dead_letters::redrive))
        .route("/metrics", get(metrics::metrics))
        .route_layer(from_fn_with_state(Arc::clone(&app), intake::callers))
        .route_layer(from_fn_with_state(Arc::clone(&app), auth::clients_only))
        .route(
            "/api/v1/oauth/token",
            post(token::token).layer(DefaultBodyLimit::max(token::LARGEST)).layer(from_fn(crate::mid::in_time)),
        )
        .route("/api/v1/openapi.json", get(openapi::document))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .merge(crate::mid::router(&app))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(limit))
        .layer(map_response_with_state(Arc::clone(&app), see_store))
        .with_state(app)
}

/// Lets the instance stop when an answer tells that its disk failed.
pub(crate) async fn see_store(State(app): State<Shared>, response: Response) -> Response {
    if let Some(error) = response.extensions().get() {
        app.broken.see(error);
    }
    response
}

/// A database that does not answer within this time is not there.
const READY_WITHIN: Duration = Duration::from_secs(2);

async fn ready(State(app): State<Shared>) -> Response {
    // A table's row: a constant would be found without the database's files.
    let asked = sqlx::query("SELECT COUNT(*) FROM settings").fetch_one(app.store.readers());
    let alive = tokio::time::timeout(READY_WITHIN, asked).await.is_ok_and(|answer| answer.is_ok());
    if alive && app.queue.is_running() && app.broken.error().is_none() && !app.stop.leaving.is_cancelled() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

pub(crate) async fn no_such_path() -> Problem {
    let failure = Failure::permanent(
        Hop::Caller,
        "unknown_path",
        "there is nothing at this path",
        "See /api/v1/openapi.json for what there is; calls go to the second address.",
    );
    Problem::new(StatusCode::NOT_FOUND, failure)
}

async fn no_such_method() -> Problem {
    let failure = Failure::permanent(
        Hop::Caller,
        "method_not_allowed",
        "this path does not have this method",
        "See /api/v1/openapi.json for what there is.",
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, failure)
}

/// Fields that people put secrets into.
const SECRETS: &[&str] = &[
    "client_secret",
    "password",
    "secret",
    "private_key",
    "client_id",
    "token",
    "access_token",
    "passphrase",
    "subject_token",
    "actor_token",
];

/// JSON that a caller sent. A field that looks like a secret is told apart from a mistyped one.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        if SECRETS.iter().any(|name| text.contains(&format!("unknown field `{name}`"))) {
            return Problem::bad_request(
                "secret_refused",
                "the document holds a field for a secret; secrets never go to the instance",
                "Remove it, put the secret into the vault, and give its credential_id.",
            );
        }
        Problem::bad_request("invalid_json", format!("the body is not what belongs here: {text}"), "Correct the body.")
    })
}

/// Bodies that are too large, in the API's own form of error.
pub(crate) type Body = Result<Bytes, axum::extract::rejection::BytesRejection>;

pub(crate) fn body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::too_large(limit)
        } else {
            Problem::bad_request("body_unreadable", "the body ended early or could not be read", "Send it again.")
        }
    })
}
