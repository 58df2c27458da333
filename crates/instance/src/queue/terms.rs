//! What becomes of a report: its outcome stands, or the request is tried again.

use std::time::Duration;

use midward_core::WallTime;
use sqlx::{Any, Transaction};

use super::Report;
use super::batch::Writer;
use super::work::Effects;
use crate::retry::{Next, RetryPolicy};
use crate::store::{StoreError, from_json, outcomes};

type Tx = Transaction<'static, Any>;

/// What becomes of a report before its outcome is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is recorded.
    Stands,
    /// It is recorded, and the request is a dead letter.
    Dead,
    /// The request is queued again.
    TriedAgain,
}

impl Writer {
    /// Queues a request again when its policy says so.
    pub(super) async fn fate(
        &mut self,
        tx: &mut Tx,
        mid_id: &str,
        report: &Report,
        now: i64,
        effects: &mut Effects,
    ) -> Result<Fate, StoreError> {
        if !report.may_be_tried_again() {
            return Ok(Fate::Stands);
        }
        let Some(trial) = outcomes::trial(tx, mid_id, &report.finish).await? else { return Ok(Fate::Stands) };
        let policy: RetryPolicy = from_json(&trial.policy)?;
        let left = Duration::from_millis(u64::try_from(trial.expires_at.saturating_sub(now)).unwrap_or(0));
        match policy.next(
            &report.outcome,
            WallTime::from_unix_millis(now),
            trial.attempts,
            left,
            self.parts.random.next_unit(),
        ) {
            Next::Final => Ok(Fate::Stands),
            Next::Dead => Ok(Fate::Dead),
            Next::Again(wait) => {
                let not_before = now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
                let Some(limited) = outcomes::try_again(tx, mid_id, &report.finish, not_before).await? else {
                    return Ok(Fate::Stands);
                };
                effects.freed.extend(limited);
                Ok(Fate::TriedAgain)
            }
        }
    }
}
