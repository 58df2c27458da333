//! What MIDs keep of the audit.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use midward_wire::{CheckpointsReply, VERSION};

use crate::app::Shared;
use crate::auth;
use crate::problem::Problem;
use crate::store::audit;

/// Most checkpoints in one answer.
const MOST: i64 = 20;

pub(super) async fn checkpoints(
    State(app): State<Shared>,
    headers: HeaderMap,
) -> Result<Json<CheckpointsReply>, Problem> {
    auth::mid(&app, &headers).await?;
    let checkpoints = audit::newest_checkpoints(app.store.readers(), MOST).await?;
    Ok(Json(CheckpointsReply { version: VERSION, checkpoints }))
}
