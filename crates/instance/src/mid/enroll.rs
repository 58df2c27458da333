//! A MID registers with a one-time secret.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_core::{Failure, Hop};
use midward_wire::{EnrollReply, EnrollRequest, MidState, VERSION};

use super::{check_version, parse};
use crate::app::{App, Shared};
use crate::check;
use crate::keys::{hash, hash_text};
use crate::problem::Problem;
use crate::queue::Job;
use crate::store::mids::{self, MidRow};

pub(super) async fn enroll(State(app): State<Shared>, body: Bytes) -> Result<Json<EnrollReply>, Problem> {
    let admitted = admit(&app, &body).await;
    if let Err(problem) = &admitted
        && matches!(problem.status, StatusCode::FORBIDDEN | StatusCode::CONFLICT)
    {
        // Whoever guesses secrets leaves a trace.
        app.audit.refused(&problem.failure.code, "", "enroll");
    }
    admitted
}

async fn admit(app: &App, body: &Bytes) -> Result<Json<EnrollReply>, Problem> {
    let request: EnrollRequest = parse(body)?;
    check_version(request.version)?;
    check::name("MID", &request.name)?;
    if URL_SAFE_NO_PAD.decode(&request.public_key).map(|key| key.len()) != Ok(32) {
        return Err(Problem::bad_request(
            "invalid_key",
            "public_key is not an Ed25519 key",
            "Enroll with midward-mid.",
        ));
    }
    let now = app.now();
    let mut tx = app.store.begin_change().await?;
    let secret_hash = hash_text(&hash(&request.secret));
    let spent = mids::spend_enroll_token(&mut *tx, &secret_hash, now).await?;
    let Some(enrollment) = spent else {
        // The answer got lost: the same secret with the same key is the same registration.
        if let Some(row) = mids::enrolled_before(&mut tx, &secret_hash, &request.public_key, now).await? {
            tracing::info!(mid = row.name, "a MID asked again for its enrollment");
            return Ok(Json(reply(&row)));
        }
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            Failure::permanent(
                Hop::Instance,
                "enroll_token_refused",
                "the enrollment token is unknown, used or expired",
                "Ask for a new one with `midward mid enroll-token`.",
            ),
        ));
    };
    if let Some(mid_id) = &enrollment.mid_id {
        mids::set_key(&mut tx, mid_id, &request.public_key).await?;
        mids::note_enrolled(&mut tx, &secret_hash, mid_id, &request.public_key).await?;
        let row = mids::by_id(&mut *tx, mid_id).await?.ok_or_else(|| Problem::not_found("MID", mid_id))?;
        let entry = serde_json::json!({ "what": "mid_rekeyed", "mid": row.id, "name": row.name });
        let pending = app.audit.write(&mut tx, now, &[entry.to_string()]).await?;
        tx.commit().await?;
        pending.settle();
        tracing::info!(mid = row.name, "a MID has a new key");
        let reply = reply(&row);
        let mid_id = row.id.clone();
        app.fleet.add(row, app.clock.boot(), app.store_now().await?);
        app.mid_tokens.forget();
        // Also a poll that waits since before.
        app.queue.send(Job::EndIncarnations { mid_id, current: String::new() }).await?;
        return Ok(Json(reply));
    }
    let row = MidRow {
        id: app.new_id(),
        // The administrator's name for it wins.
        name: enrollment.name.unwrap_or(request.name),
        state: if enrollment.prevalidated { MidState::Validated } else { MidState::Enrolled },
        public_key: request.public_key,
        created_at: now,
        last_seen_at: None,
        heartbeat: None,
        draining: false,
        version: 0,
        incarnation: String::new(),
        fenced: 0,
        fenced_at: None,
    };
    if !mids::insert(&mut *tx, &row).await? {
        // The transaction is dropped, so the token stays good.
        return Err(Problem::new(
            StatusCode::CONFLICT,
            Failure::permanent(
                Hop::Instance,
                "mid_name_taken",
                format!("there is a MID named {} already", row.name),
                "Enroll under another name.",
            ),
        ));
    }
    mids::note_enrolled(&mut tx, &secret_hash, &row.id, &row.public_key).await?;
    let entry = serde_json::json!({ "what": "mid_enrolled", "mid": row.id, "name": row.name, "state": row.state });
    let pending = app.audit.write(&mut tx, now, &[entry.to_string()]).await?;
    tx.commit().await?;
    pending.settle();
    tracing::info!(mid = row.name, state = row.state.name(), "a MID enrolled");
    let reply = reply(&row);
    app.fleet.add(row, app.clock.boot(), now);
    // Connections may name it.
    app.routes.forget();
    Ok(Json(reply))
}

fn reply(row: &MidRow) -> EnrollReply {
    EnrollReply { version: VERSION, mid_id: row.id.clone(), name: row.name.clone(), state: row.state }
}
