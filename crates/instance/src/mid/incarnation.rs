//! One key, one MID: the newest incarnation has the word, and an older one that is still heard is fenced.

use axum::http::StatusCode;
use midward_core::{Failure, Hop};
use serde_json::json;
use sqlx::{Any, Transaction};

use crate::app::App;
use crate::fleet::{FENCED_OFTEN, LIVE_FOR};
use crate::problem::Problem;
use crate::store::{StoreError, incarnations};

/// It is stored with every lease, in bytes.
const LONGEST: usize = 64;

pub(super) fn check(incarnation: &str) -> Result<(), Problem> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=LONGEST).contains(&incarnation.len()) && incarnation.bytes().all(is_plain) {
        return Ok(());
    }
    let detail = "the incarnation is not 1 to 64 letters, digits and hyphens";
    Err(Problem::bad_request("invalid_incarnation", detail, "Use midward-mid."))
}

/// Whether an incarnation has its MID's word, which a new one takes.
pub(super) async fn has_word(
    tx: &mut Transaction<'static, Any>,
    mid_id: &str,
    incarnation: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let live_for = i64::try_from(LIVE_FOR.as_millis()).unwrap_or(i64::MAX);
    incarnations::speak(tx, mid_id, incarnation, now.saturating_sub(live_for)).await
}

/// As [`has_word`], in a transaction of its own; the problem when it has not.
pub(super) async fn speak(app: &App, mid_id: &str, incarnation: &str) -> Result<(), Problem> {
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    if !has_word(&mut tx, mid_id, incarnation, now).await? {
        return Err(fence(app, tx, mid_id, now).await?);
    }
    tx.commit().await?;
    app.fleet.give_the_word(mid_id, incarnation);
    Ok(())
}

/// Notes that a superseded incarnation spoke, and makes its answer.
pub(super) async fn fence(
    app: &App,
    mut tx: Transaction<'static, Any>,
    mid_id: &str,
    now: i64,
) -> Result<Problem, StoreError> {
    let times = incarnations::fence(&mut tx, mid_id, now).await?;
    let name = app.fleet.name(mid_id).unwrap_or_default();
    if times == FENCED_OFTEN {
        let entry = json!({ "what": "mid_cloned", "mid": mid_id, "name": name });
        let pending = app.audit.write(&mut tx, app.now(), &[entry.to_string()]).await?;
        tx.commit().await?;
        pending.settle();
        tracing::error!(mid = name, "two programs run with this MID's key: the one that started first gets no work");
    } else {
        tx.commit().await?;
    }
    app.fleet.fence(mid_id, times, now);
    let failure = Failure::transient(
        Hop::Mid,
        "mid_cloned",
        format!("another program runs with the key of MID {name}, and started later"),
        "Stop one of the two; enroll it as a MID of its own, with a state folder of its own.",
    );
    Ok(Problem::new(StatusCode::CONFLICT, failure))
}
