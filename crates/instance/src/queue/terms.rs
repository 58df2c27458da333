//! On what terms queued requests are given out and tried again: order of MIDs, limits of connections, retries.

use std::time::Duration;

use midward_core::WallTime;
use sqlx::{Any, Transaction};

use super::batch::Writer;
use super::work::Effects;
use super::{Poll, Report};
use crate::retry::{Next, RetryPolicy};
use crate::store::leases::{self, Claim, Leased, MOST_BYTES};
use crate::store::{StoreError, from_json, limits, outcomes};

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
    /// Leases to a MID what it can serve: at most `most` requests.
    pub(super) async fn claim(&self, tx: &mut Tx, poll: &Poll, most: u32, now: i64) -> Result<Vec<Leased>, StoreError> {
        let Some(session) = self.sessions.get(&poll.mid_id) else { return Ok(Vec::new()) };
        let boot = self.parts.clock.boot();
        let resolvers = self.parts.fleet.claimable(&poll.mid_id, boot);
        if resolvers.is_empty() {
            return Ok(Vec::new());
        }
        let mut ahead = Vec::new();
        for (resolver, mids) in leases::orders(tx, &poll.mid_id).await? {
            let before = mids.split(',').filter(|id| !id.is_empty()).take_while(|id| **id != *poll.mid_id);
            let can = before.filter(|id| self.parts.fleet.goes_before(id, &poll.mid_id, &resolver, boot));
            ahead.extend(can.map(|id| (resolver.clone(), id.to_owned())));
        }
        ahead.sort_unstable();
        ahead.dedup();
        // Those with limits first: who has none has all the rest.
        let waiting = limits::waiting(tx, now).await?;
        let mut claim = Claim {
            mid_id: &poll.mid_id,
            incarnation: &poll.incarnation,
            batch: session.batch + 1,
            resolvers: &resolvers,
            limit: most,
            bytes: MOST_BYTES,
            now,
            connection: None,
            ahead: &ahead,
        };
        let mut leased = Vec::new();
        for alias in &waiting {
            let room = most.saturating_sub(u32::try_from(leased.len()).unwrap_or(u32::MAX));
            let allowance = limits::allowance(tx, alias, now).await?;
            claim.limit = room.min(allowance.count);
            claim.connection = Some(alias);
            if claim.limit > 0 && claim.bytes > 0 {
                let more = leases::claim(tx, &claim).await?;
                limits::used(tx, alias, &allowance, more.len()).await?;
                claim.bytes = more.iter().map(|lease| lease.size).fold(claim.bytes, i64::saturating_sub);
                leased.extend(more);
            }
        }
        claim.limit = most.saturating_sub(u32::try_from(leased.len()).unwrap_or(u32::MAX));
        claim.connection = None;
        if claim.limit > 0 && claim.bytes > 0 {
            leased.extend(leases::claim(tx, &claim).await?);
        }
        Ok(leased)
    }

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
                let is_queued = outcomes::try_again(tx, mid_id, &report.finish, not_before).await?;
                effects.freed = true;
                Ok(if is_queued { Fate::TriedAgain } else { Fate::Stands })
            }
        }
    }
}
