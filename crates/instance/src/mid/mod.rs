//! The MIDs' side of the instance (`/mid/v1`).

mod enroll;
mod token;
mod work;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use midward_core::{Failure, Hop};
use midward_wire::{VERSION, paths};
use serde::de::DeserializeOwned;

use crate::app::Shared;
use crate::problem::Problem;

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route(paths::ENROLL, post(enroll::enroll))
        .route(paths::TOKEN, post(token::token))
        .route(paths::HEARTBEAT, post(work::heartbeat))
        .route(paths::LEASE, post(work::lease))
        .route(&format!("{}/{{digest}}", paths::CONFIG), get(work::config))
        .route(paths::OUTCOMES, post(work::outcomes))
        .route(paths::RELEASE, post(work::release))
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
