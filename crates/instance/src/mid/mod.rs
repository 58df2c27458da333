//! The MIDs' side of the instance (`/mid/v1`).

mod audit;
mod enroll;
mod form;
mod incarnation;
pub(crate) mod pulses;
mod token;
mod work;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use midward_core::{Failure, Hop};
use midward_wire::{VERSION, paths};
use serde::de::DeserializeOwned;

use crate::app::Shared;
use crate::auth;
use crate::intake;
use crate::problem::Problem;

/// Largest message with outcomes, in bytes. An API's answer may be larger than any request: a MID that could not
/// deliver it would try for long, and hold up what comes after it.
const OUTCOMES: usize = 32 * 1024 * 1024;
/// Largest message of one who has not shown yet who it is, in bytes, and the time it may take.
const FIRST_MESSAGE: usize = 16 * 1024;
const FIRST_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn router(app: &Shared) -> Router<Shared> {
    let strangers = Router::new()
        .route(paths::ENROLL, post(enroll::enroll))
        .route(paths::TOKEN, post(token::token))
        .route_layer(DefaultBodyLimit::max(FIRST_MESSAGE))
        .route_layer(from_fn(in_time));
    Router::new()
        .route(paths::CHECKPOINTS, get(audit::checkpoints))
        .route(paths::HEARTBEAT, post(work::heartbeat))
        .route(paths::LEASE, post(work::lease))
        .route(&format!("{}/{{digest}}", paths::CONFIG), get(work::config))
        .route(&format!("{}/{{sha256}}", paths::JARS), get(work::jar))
        .route(paths::OUTCOMES, post(work::outcomes).layer(DefaultBodyLimit::max(OUTCOMES)))
        .route(paths::RELEASE, post(work::release))
        .route_layer(from_fn_with_state(Arc::clone(app), intake::mids))
        .route_layer(from_fn_with_state(Arc::clone(app), auth::mids_only))
        .merge(strangers)
}

/// For those who have not shown who they are.
pub(crate) async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(FIRST_DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        let action = "Send the whole message at once.";
        let failure = Failure::transient(Hop::Caller, "message_too_slow", "the message did not come in time", action);
        Problem::new(StatusCode::REQUEST_TIMEOUT, failure).into_response()
    })
}

/// A message of the wire protocol.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request(
            "message_not_understood",
            format!("the message is not one of protocol version {VERSION}: {error}"),
            "Use versions of Midward on both sides that go together.",
        )
    })
}

fn check_version(version: u32) -> Result<(), Problem> {
    if version == VERSION {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        Failure::permanent(
            Hop::Instance,
            "protocol_version",
            format!("this instance speaks protocol version {VERSION}, not {version}"),
            "Use versions of Midward on both sides that go together.",
        ),
    ))
}
