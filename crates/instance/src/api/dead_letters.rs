//! Queued requests that failed after their last attempt.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use midward_core::{Failure, Hop};
use serde_json::{Value, json};

use super::requests::{self, ListQuery, visible};
use super::submit;
use crate::app::Shared;
use crate::at_rest::not_kept;
use crate::auth;
use crate::extract::{Params, Segments};
use crate::problem::Problem;
use crate::queue::Job;
use crate::queue::room::Amount;
use crate::store::outcomes::{self, Redrive};

pub(super) async fn list(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<ListQuery>,
) -> Result<Json<Value>, Problem> {
    requests::list_those(&app, &headers, query, true).await
}

/// Queues it again with all its attempts, by its connection as it is now.
pub(super) async fn redrive(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(id): Segments<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let client = auth::client(&app, &headers).await?;
    if app.stop.stopping.is_cancelled() {
        return Err(Problem::stopping());
    }
    if app.room.is_full_for(Amount::one(0), Amount::default()) {
        return Err(Problem::queue_full());
    }
    let row = visible(&app, &client, &id).await?;
    if row.reduced {
        return Err(Problem::new(StatusCode::CONFLICT, not_kept()).with_request(&id));
    }
    let route = submit::route(&app, &client, &row.connection).await?;
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    let lives = i64::try_from(app.limits.expires_in_ms).unwrap_or(i64::MAX);
    let lease = Duration::from_millis(route.timeout_ms) + submit::LEASE_MARGIN;
    let terms = Redrive {
        config_digest: &route.digest.0,
        resolver: &route.resolver,
        mids: &route.mids,
        ordered: route.ordered,
        limited: route.limited,
        retry: route.retry.as_deref(),
        lease_ms: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
        expires_at: now.saturating_add(lives),
    };
    if !outcomes::redrive(&mut tx, &id, &terms).await? {
        let failure = Failure::permanent(
            Hop::Caller,
            "not_a_dead_letter",
            "the request did not fail after its last attempt, or was driven again already",
            "List those that did: `midward get dead-letters`.",
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure).with_request(&id));
    }
    let details = json!({ "request": id, "connection": row.connection });
    let pending = app.audit.change(&mut tx, app.now(), &client, "request_redriven", details).await?;
    tx.commit().await?;
    pending.settle();
    app.counters.redriven();
    app.queue.send(Job::Look).await?;
    tracing::info!(client = client.name, request = id, "a dead letter is driven again");
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))))
}
