//! What one transaction of the writer does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Failure, Hop};
use midward_wire::{Outcome, OutcomeVerdict};
use sqlx::{Any, Transaction};

use super::batch::Writer;
use super::due::{MOST_HINTED, MOST_LANES};
use super::room::Amount;
use super::terms::Fate;
use super::work::{Answer, Effects, Work};
use super::{Batch, Ended, Outcomes, Poll};
use crate::at_rest::Part;
use crate::fleet::LIVE_FOR;
use crate::store::lanes;
use crate::store::leases;
use crate::store::outcomes::Finish;
use crate::store::{StoreError, mids, outcomes, pieces, replicas, to_json};

/// Most requests handed to a MID in one answer.
pub(super) const MOST_LEASES: u32 = 256;
/// No lease that was alive when nobody could report ends sooner than this afterwards.
const GRACE: Duration = Duration::from_secs(30);

/// Delayed requests that become due at once.
const MOST_DUE: i64 = 5000;

/// How often the database's clock is read.
const READ_AGAIN: Duration = Duration::from_millis(250);

type Tx = Transaction<'static, Any>;

impl Writer {
    pub(super) async fn transact(&mut self, work: &mut Work, effects: &mut Effects) -> Result<(), StoreError> {
        let begun = self.parts.clock.boot();
        let mut tx = self.parts.store.begin_queue(work.is_hot() && !self.is_to_look(work)).await?;
        let now = self.now(&mut tx).await?;
        self.record(&mut tx, &work.outcomes, work.again, now, effects).await?;
        let ended = std::mem::take(&mut effects.ended).into_iter();
        effects.ended =
            ended.filter_map(|(id, ended)| self.parts.waiters.answer(&id, ended).map(|left| (id, left))).collect();
        for job in &work.hand_backs {
            for (id, epoch) in &job.leases {
                let is_queued = leases::hand_back(&mut tx, &job.mid_id, id, *epoch).await?;
                if is_queued {
                    self.due.spoil();
                }
                effects.hint |= is_queued;
            }
        }
        for (mid_id, current) in work.fresh.iter().chain(&work.ended_incarnations) {
            let which = leases::Ended::OtherIncarnations { mid_id, current };
            self.end_leases(&mut tx, which, now, effects).await?;
        }
        if work.sweep {
            self.sweep(&mut tx, now, effects).await?;
        }
        let looks = self.is_to_look(work);
        if looks {
            let most = if work.look && !work.sweep { MOST_HINTED } else { MOST_LANES };
            self.look(&mut tx, most).await?;
        }
        if work.sweep {
            self.due.release_all();
        }
        let is_freed = !(effects.freed.is_empty() && work.freed.is_empty());
        self.due.release(effects.freed.iter().chain(&work.freed));
        while let Some(poll) = work.polls.pop() {
            self.serve(&mut tx, poll, now, effects).await?;
        }
        self.submit(&mut tx, &work.submissions, work.again, now, effects).await?;
        if looks || is_freed || effects.queued_limited {
            self.serve_parked(&mut tx, now, effects).await?;
        }
        if effects.hint && self.parts.store.is_shared() {
            replicas::hint(&mut tx).await?;
        }
        self.parts.journal.write(&mut tx, now).await?;
        // Who waits for an answer has it by now; the MID keeps the outcome and reports it again.
        if let Some(error) = self.parts.broken.error() {
            return Err(error.clone());
        }
        work.reached_commit = true;
        tx.commit().await?;
        self.parts.journal.committed(self.parts.clock.boot().saturating_since(begun));
        Ok(())
    }

    /// Whether it is to be read what waits; who only records outcomes gives nothing out.
    fn is_to_look(&self, work: &Work) -> bool {
        self.giver.is_none() && (work.sweep || work.look || self.due.is_stale())
    }

    /// The time by which leases are given. The database's clock is read again when that was a while ago, and between two
    /// looks it goes on as this host's clock does that nobody sets.
    async fn now(&mut self, tx: &mut Tx) -> Result<i64, StoreError> {
        let (boot, wall) = (self.parts.clock.boot(), self.parts.clock.wall().unix_millis());
        let now = match self.read.map(|(read, said)| (boot.saturating_since(read), said)) {
            Some((since, said)) if since < READ_AGAIN && self.parts.store.is_shared() => {
                said.saturating_add(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            _ => {
                let now = self.parts.store.now(tx, wall).await?;
                self.read = Some((self.parts.clock.boot(), now));
                now
            }
        };
        self.ahead = now.saturating_sub(wall);
        Ok(now)
    }

    /// Serves a poll from the database: what got lost first, then what is queued; parks it when there is neither.
    async fn serve(&mut self, tx: &mut Tx, poll: Poll, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        let (lost, left_out) = leases::undelivered(tx, &poll.mid_id, &poll.incarnation, poll.received_batch).await?;
        let Some(session) = self.sessions.get_mut(&poll.mid_id) else { return Ok(()) };
        if let Some(last) = lost.last() {
            session.batch = session.batch.max(last.batch).max(left_out.unwrap_or(0));
            // What is left out comes when this has arrived.
            let batch = if left_out.is_some() { last.batch } else { session.batch };
            effects.answers.insert(poll.mid_id.clone(), Answer { poll, batch, leases: lost });
            return Ok(());
        }
        let leases = if poll.capacity > 0 && self.has_for(&poll.mid_id, now) {
            if self.polls_here(tx, &[&poll.mid_id]).await?.is_empty() {
                self.send_away(poll);
                return Ok(());
            }
            let leases = self.claim(tx, &poll, poll.capacity.min(MOST_LEASES), now).await?;
            for lease in &leases {
                effects.queued -= Amount::one(lease.size);
            }
            self.parts.journal.leased(&poll.mid_id, &leases);
            leases
        } else {
            Vec::new()
        };
        let Some(session) = self.sessions.get_mut(&poll.mid_id) else { return Ok(()) };
        if leases.is_empty() && poll.capacity == 0 {
            // It only asked for what got lost.
            effects.answers.insert(poll.mid_id.clone(), Answer { poll, batch: session.batch, leases });
        } else if leases.is_empty() {
            session.parked = Some(poll);
        } else {
            session.batch += 1;
            let batch = session.batch;
            effects.answers.insert(poll.mid_id.clone(), Answer { poll, batch, leases });
        }
        Ok(())
    }

    /// Serves the parked polls for which something may wait.
    async fn serve_parked(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        if self.due.is_empty() {
            return Ok(());
        }
        let named = self.due.named(now);
        let is_named = |mid_id: &String| named.as_ref().is_none_or(|named| named.contains(mid_id));
        let parked = self.sessions.iter().filter(|(mid_id, session)| session.parked.is_some() && is_named(mid_id));
        let parked: Vec<String> = parked.map(|(mid_id, _)| mid_id.clone()).collect();
        for mid_id in parked {
            if self.due.is_empty() {
                break;
            }
            if !self.has_for(&mid_id, now) {
                continue;
            }
            let poll = self.sessions.get_mut(&mid_id).and_then(|session| session.parked.take());
            if let Some(poll) = poll.filter(|poll| !poll.reply.is_closed()) {
                self.serve(tx, poll, now, effects).await?;
            }
        }
        Ok(())
    }

    /// To which of these MIDs this replica may give leases, to the incarnation that has their word; it stays so until
    /// the commit.
    pub(super) async fn polls_here(&self, tx: &mut Tx, mids: &[&str]) -> Result<HashSet<String>, StoreError> {
        if !self.parts.store.is_shared() {
            return Ok(mids.iter().map(|mid_id| (*mid_id).to_owned()).collect());
        }
        let sessions = mids.iter().filter_map(|mid_id| Some((*mid_id, self.sessions.get(*mid_id)?)));
        let mids: HashMap<&str, &str> = sessions.map(|(id, session)| (id, session.incarnation.as_str())).collect();
        if mids.is_empty() { Ok(HashSet::new()) } else { replicas::polls_here(tx, &self.parts.replica, &mids).await }
    }

    /// The MID polls another replica; should this poll be alive all the same, it comes back.
    pub(super) fn send_away(&mut self, poll: Poll) {
        self.sessions.remove(&poll.mid_id);
        let _ = poll.reply.send(Ok(Batch { number: poll.received_batch, leases: Vec::new() }));
    }

    /// Looks after times and dead MIDs, unless another replica has just done it.
    async fn sweep(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        let turn = replicas::take_turn(tx, now).await?;
        if turn.is_some() || self.expires_on {
            self.expire(tx, now, effects).await?;
        }
        if let Some(turn) = turn {
            if turn.after_pause {
                // MIDs could not report meanwhile.
                let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
                leases::grant_grace(tx, now.saturating_add(grace)).await?;
                mids::clamp_seen(tx, now).await?;
            }
            self.end_leases(tx, leases::Ended::Overdue, now, effects).await?;
            // Their work moves now, and not when each lease runs out; but each MID had its chance to be heard.
            let live_for = i64::try_from(LIVE_FOR.as_millis()).unwrap_or(i64::MAX);
            if turn.alive_since <= now.saturating_sub(live_for) {
                self.end_leases(tx, leases::Ended::Dead, now, effects).await?;
            }
            mids::forget_expired(tx, now).await?;
            effects.hint |= lanes::make_due(tx, now, MOST_DUE).await? > 0;
        }
        Ok(())
    }

    async fn end_leases(
        &mut self,
        tx: &mut Tx,
        which: leases::Ended<'_>,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let outcome = Outcome::Unknown { failure: lost() };
        let text = to_json(&outcome)?;
        let outcome = Arc::new(outcome);
        let (unknown, is_any_queued) = leases::end_leases(tx, which, now, &text).await?;
        if is_any_queued {
            self.due.spoil();
            effects.hint = true;
        }
        for id in unknown {
            self.parts.journal.ended(&id, None, &outcome);
            effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
            effects.hint = true;
        }
        Ok(())
    }

    /// Records what MIDs reported: for each message one list of verdicts, in order.
    async fn record(
        &mut self,
        tx: &mut Tx,
        messages: &[Outcomes],
        again: bool,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let mut rest = messages;
        while !rest.is_empty() {
            // One statement for all of them, up to a message with a report on a request of an earlier one.
            let mut seen = HashSet::new();
            let together = rest.iter().position(|message| {
                let ids = || message.reports.iter().map(|report| report.finish.id.as_str());
                let is_repeated = ids().any(|id| seen.contains(id));
                seen.extend(ids());
                is_repeated
            });
            let (these, later) = rest.split_at(together.unwrap_or(rest.len()));
            rest = later;
            self.record_together(tx, these, again, now, effects).await?;
        }
        Ok(())
    }

    async fn record_together(
        &mut self,
        tx: &mut Tx,
        messages: &[Outcomes],
        again: bool,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        // One statement cannot update a row twice: of two reports on one request, the second is looked at afterwards.
        let mut first = Vec::new();
        let mut fates = HashMap::new();
        for message in messages {
            for report in &message.reports {
                let id = report.finish.id.as_str();
                if fates.contains_key(id) {
                    continue;
                }
                let fate = self.fate(tx, &message.mid_id, report, now, effects).await?;
                if fate == Fate::TriedAgain {
                    self.parts.journal.tried_again(id, &message.mid_id, report.finish.epoch, &report.outcome);
                } else {
                    first.push((message.mid_id.as_str(), &report.finish));
                }
                fates.insert(id, fate);
            }
        }
        let large: HashMap<&str, &Finish> = first
            .iter()
            .filter(|(_, finish)| !finish.kept.pieces.is_empty())
            .map(|(_, finish)| (finish.id.as_str(), *finish))
            .collect();
        let mut accepted = HashSet::new();
        let mut reduced = Vec::new();
        for finished in outcomes::finish(tx, &self.parts.replica, now, &first).await? {
            // Its caller may wait at another replica.
            effects.hint |= finished.origin != self.parts.replica;
            effects.freed.extend(finished.limited);
            if finished.leased_at > 0 {
                effects.executed.push(now.saturating_sub(finished.leased_at));
            }
            if fates.get(finished.id.as_str()) == Some(&Fate::Dead) {
                outcomes::bury(tx, &finished.id).await?;
            }
            if finished.reduced {
                reduced.push(finished.id.clone());
            } else if let Some(large) = large.get(finished.id.as_str()) {
                pieces::insert(tx, &finished.id, &large.kept).await?;
            }
            accepted.insert((finished.mid_id, finished.id));
        }
        pieces::forget_reduced(tx, &reduced).await?;
        for Outcomes { mid_id, reports, .. } in messages {
            let mut verdicts = Vec::with_capacity(reports.len());
            for report in reports {
                let Finish { id, epoch, .. } = &report.finish;
                let is_new = accepted.remove(&(mid_id.clone(), id.clone()));
                let is_recorded = is_new || {
                    let recorded = outcomes::recorded(tx, mid_id, &report.finish).await?;
                    self.is_reported(tx, &report.finish, recorded).await?
                };
                // A commit whose answer got lost may have recorded it, and nobody was told.
                if is_new || (is_recorded && again) {
                    self.parts.journal.ended(id, Some(mid_id), &report.outcome);
                    let trace = report.finish.trace.as_str().into();
                    effects.ended.push((id.clone(), Ended { outcome: Arc::clone(&report.outcome), trace }));
                }
                let is_taken = is_recorded || {
                    let tried_again = outcomes::tried_again(tx, &report.finish).await?;
                    self.is_reported(tx, &report.finish, tried_again).await?
                };
                if !is_taken {
                    self.parts.journal.refused(id, mid_id, *epoch);
                }
                verdicts.push(if is_taken { OutcomeVerdict::Accepted } else { OutcomeVerdict::Refused });
            }
            effects.verdicts.push(verdicts);
        }
        Ok(())
    }

    /// Whether what is stored is exactly this outcome, or what is kept of it.
    async fn is_reported(
        &self,
        tx: &mut Tx,
        outcome: &Finish,
        stored: Option<(String, bool)>,
    ) -> Result<bool, StoreError> {
        match stored {
            None => Ok(false),
            Some((text, true)) if outcome.reduced.is_some() => Ok(outcome.reduced == Some(text)),
            Some((text, _)) => {
                let part = Part::Outcome(outcome.epoch);
                self.parts.at_rest.holds(&mut **tx, &outcome.id, part, text, &outcome.outcome).await
            }
        }
    }
}

pub(super) fn lost() -> Failure {
    Failure::transient(
        Hop::Mid,
        "mid_lost",
        "the MID Server that held the request stopped before it reported; the API may or may not have acted",
        "Check at the API whether it acted; mark a request as safe to repeat to have it sent again.",
    )
}
