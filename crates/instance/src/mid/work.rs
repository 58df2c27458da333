//! Heartbeat, leases, configuration, outcomes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use midward_wire::{
    Bytes64, Heartbeat, HeartbeatReply, JarDocument, LeaseReply, LeaseRequest, MidState, Outcome, OutcomeVerdict,
    OutcomesReply, ReleaseRequest, VERSION,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{check_version, form, incarnation, parse};
use crate::api::{Body, body};
use crate::app::{App, Shared};
use crate::at_rest::{Part, reduced};
use crate::auth;
use crate::extract::Segments;
use crate::problem::Problem;
use crate::queue::{Job, Poll, Report, grant_texts};
use crate::store::outcomes::Finish;
use crate::store::requests::{FAILED, REPLIED, UNKNOWN};
use crate::store::{StoreError, connections, jars, mids};

/// Longest that a poll is held open.
const LONGEST_POLL: Duration = Duration::from_secs(25);
/// How long a poll without room waits for the database at least.
const SHORTEST_DRAIN: Duration = Duration::from_secs(2);
/// How often MIDs send heartbeats: a dead one is noticed when three are missing.
const HEARTBEAT_MS: u64 = 3000;

pub(super) async fn heartbeat(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<HeartbeatReply>, Problem> {
    let (holder, state) = auth::mid(&app, &headers).await?;
    let heartbeat: Heartbeat = parse(&body)?;
    check_version(heartbeat.version)?;
    form::heartbeat(&heartbeat)?;
    let mid_id = &holder.0;
    if app.fleet.repeats(mid_id, app.clock.boot(), app.now(), &heartbeat) {
        app.pulses.note(mid_id);
        return Ok(Json(heard(&app, mid_id, state, app.now())));
    }
    let known = app.fleet.by_id(mid_id).and_then(|mid| mid.heartbeat).map(|heartbeat| heartbeat.incarnation);
    let current = heartbeat.incarnation.clone();
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    if !incarnation::has_word(&mut tx, mid_id, &current, now).await? {
        return Err(incarnation::fence(&app, tx, mid_id, now).await?);
    }
    let version = mids::seen(&mut *tx, mid_id, now, &heartbeat).await?;
    tx.commit().await?;
    app.fleet.heartbeat(mid_id, app.clock.boot(), now, heartbeat, version.filter(|_| !app.store.is_shared()));
    app.fleet.give_the_word(mid_id, &current);
    if known.as_deref() != Some(&current) {
        app.queue.send(Job::EndIncarnations { mid_id: mid_id.clone(), current }).await?;
    }
    Ok(Json(heard(&app, mid_id, state, now)))
}

fn heard(app: &App, mid_id: &str, state: MidState, now: i64) -> HeartbeatReply {
    let cloned = app.fleet.by_id(mid_id).is_some_and(|mid| mid.is_cloned(now));
    HeartbeatReply { version: VERSION, state, next_ms: HEARTBEAT_MS, cloned }
}

pub(super) async fn lease(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<LeaseReply>, Problem> {
    let (holder, state) = auth::mid(&app, &headers).await?;
    let request: LeaseRequest = parse(&body)?;
    check_version(request.version)?;
    incarnation::check(&request.incarnation)?;
    if !app.fleet.has_the_word(&holder.0, &request.incarnation) {
        incarnation::speak(&app, &holder.0, &request.incarnation).await?;
    }
    let received = i64::try_from(request.received_batch).unwrap_or(i64::MAX);
    let mut reply = LeaseReply { version: VERSION, state, batch: request.received_batch, leases: Vec::new() };
    let mut wait = Duration::from_millis(request.wait_ms).min(LONGEST_POLL);
    let (sender, mut answer) = oneshot::channel();
    let mut answer_due = true;
    let capacity = if app.stop.stopping.is_cancelled() { 0 } else { request.capacity };
    if capacity == 0 {
        // No work for a MID that drains, or from an instance that stops, but what got lost: that somebody may wait for.
        // Answered by the next commit.
        wait = SHORTEST_DRAIN;
    }
    if state == MidState::Validated {
        app.queue
            .send(Job::Poll(Poll {
                mid_id: holder.0.clone(),
                incarnation: request.incarnation,
                capacity,
                received_batch: received,
                arrived: app.clock.boot(),
                reply: sender,
            }))
            .await?;
    } else {
        answer_due = false;
    }
    let batch = tokio::select! {
        // A poll that is dropped unanswered was part of a batch that was not committed.
        answered = &mut answer, if answer_due => Some(answered.map_err(|_| StoreError::Stopped)??),
        () = tokio::time::sleep(wait) => None,
        () = app.stop.stopping.cancelled(), if capacity > 0 => None,
    };
    // An answer that came in the same moment is not thrown away.
    let batch = match batch {
        None if answer_due => answer.try_recv().ok().transpose()?,
        None => None,
        some => some,
    };
    if let Some(batch) = batch.filter(|batch| !batch.leases.is_empty()) {
        reply.leases = grant_texts(&app, &holder.0, batch.leases).await?;
        reply.batch = u64::try_from(batch.number).unwrap_or(0);
    }
    reply.state = app.fleet.state(&holder.0).unwrap_or(state);
    Ok(Json(reply))
}

pub(super) async fn config(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(digest): Segments<String>,
) -> Result<Response, Problem> {
    auth::mid(&app, &headers).await?;
    let document = connections::document(app.store.readers(), &digest).await?;
    let document = document.ok_or_else(|| Problem::not_found("configuration", &digest))?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], document).into_response())
}

/// Any JAR, for a MID that knows its digest: whether it runs it is for its own policy.
pub(super) async fn jar(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(sha256): Segments<String>,
) -> Result<Json<JarDocument>, Problem> {
    auth::mid(&app, &headers).await?;
    let content = jars::content(app.store.readers(), &sha256).await?;
    let content = content.ok_or_else(|| Problem::not_found("JAR", &sha256))?;
    Ok(Json(JarDocument { version: VERSION, content: Bytes64(content) }))
}

/// As [`midward_wire::OutcomesRequest`], with each outcome's own text, which is what is stored.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the wire protocol")]
struct Outcomes<'a> {
    version: u32,
    #[serde(rename = "incarnation")]
    _incarnation: String,
    #[serde(borrow)]
    outcomes: Vec<OutcomeText<'a>>,
}

#[derive(Deserialize)]
struct OutcomeText<'a> {
    request_id: String,
    epoch: i64,
    #[serde(borrow)]
    outcome: &'a RawValue,
    #[serde(borrow)]
    trace: &'a RawValue,
}

pub(super) async fn outcomes(
    State(app): State<Shared>,
    headers: HeaderMap,
    content: Body,
) -> Result<Json<OutcomesReply>, Problem> {
    let (holder, _) = auth::mid(&app, &headers).await?;
    let body = body(content, super::OUTCOMES)?;
    let reports = {
        let request: Outcomes<'_> = serde_json::from_slice(&body).map_err(not_understood)?;
        check_version(request.version)?;
        form::handed_back(request.outcomes.iter().map(|text| text.request_id.as_str()))?;
        request.outcomes.into_iter().map(|text| report(&app, text)).collect::<Result<Vec<_>, _>>()?
    };
    let verdicts: Vec<OutcomeVerdict> = app.queue.outcomes(holder.0.clone(), reports).await?;
    Ok(Json(OutcomesReply { version: VERSION, verdicts }))
}

fn report(app: &App, text: OutcomeText<'_>) -> Result<Report, Problem> {
    let outcome: Outcome = serde_json::from_str(text.outcome.get()).map_err(not_understood)?;
    let _: midward_core::Trace = serde_json::from_str(text.trace.get()).map_err(not_understood)?;
    let state = match outcome {
        Outcome::Replied { .. } => REPLIED,
        Outcome::Failed { .. } => FAILED,
        Outcome::Unknown { .. } => UNKNOWN,
    };
    let stored = Arc::new(text.outcome.get().to_owned());
    let finish = Finish {
        kept: app.at_rest.keep(&text.request_id, Part::Outcome(text.epoch), &stored)?,
        id: text.request_id,
        epoch: text.epoch,
        state,
        outcome: stored,
        reduced: reduced(&outcome)?,
        trace: text.trace.get().to_owned(),
    };
    Ok(Report { finish, outcome: Arc::new(outcome) })
}

pub(super) async fn release(State(app): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Problem> {
    let (holder, _) = auth::mid(&app, &headers).await?;
    let request: ReleaseRequest = parse(&body)?;
    check_version(request.version)?;
    form::handed_back(request.leases.iter().map(|(id, _)| id.as_str()))?;
    app.queue.hand_back(holder.0.clone(), request.leases).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn not_understood(error: impl std::fmt::Display) -> Problem {
    let detail = format!("the message is not understood: {error}");
    Problem::bad_request("message_not_understood", detail, "Use versions of Midward on both sides that go together.")
}
