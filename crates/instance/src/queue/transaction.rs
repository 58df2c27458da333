//! What one transaction of the writer does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Failure, Hop};
use midward_wire::{Outcome, OutcomeVerdict};
use sqlx::{Any, Transaction};

use super::batch::Writer;
use super::terms::Fate;
use super::work::{Answer, Effects, Work};
use super::{Batch, Ended, Poll, Report, Submission, Submitted};
use crate::at_rest::Part;
use crate::fleet::LIVE_FOR;
use crate::store::leases::{self, Call, Leased, MOST_BYTES, WaitsSince};
use crate::store::outcomes::Finish;
use crate::store::requests::{self, NewLease};
use crate::store::{StoreError, mids, outcomes, pieces, replicas, to_json};

/// Most requests handed to a MID in one answer.
const MOST_LEASES: u32 = 256;
/// No lease that was alive when nobody could report ends sooner than this afterwards.
const GRACE: Duration = Duration::from_secs(30);

type Tx = Transaction<'static, Any>;

impl Writer {
    pub(super) async fn transact(&mut self, work: &mut Work, effects: &mut Effects) -> Result<(), StoreError> {
        let begun = self.parts.clock.boot();
        let wall = self.parts.clock.wall().unix_millis();
        let mut tx = self.parts.store.begin().await?;
        let now = self.parts.store.now(&mut tx, wall).await?;
        self.ahead = now.saturating_sub(wall);
        for job in &work.outcomes {
            let earlier = effects.ended.len();
            let verdicts = self.record(&mut tx, &job.mid_id, now, &job.reports, work.again, effects).await?;
            for (id, ended) in &effects.ended[earlier..] {
                self.parts.journal.ended(id, Some(&job.mid_id), &ended.outcome);
            }
            for (verdict, report) in verdicts.iter().zip(&job.reports) {
                if *verdict == OutcomeVerdict::Refused {
                    self.parts.journal.refused(&report.finish.id, &job.mid_id, report.finish.epoch);
                }
            }
            effects.verdicts.push(verdicts);
        }
        let ended = std::mem::take(&mut effects.ended).into_iter();
        effects.ended =
            ended.filter_map(|(id, ended)| self.parts.waiters.answer(&id, ended).map(|left| (id, left))).collect();
        for job in &work.hand_backs {
            for (id, epoch) in &job.leases {
                let is_queued = leases::hand_back(&mut tx, &job.mid_id, id, *epoch).await?;
                self.backlog |= is_queued;
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
        self.backlog |= work.look;
        while let Some(poll) = work.polls.pop() {
            self.serve(&mut tx, poll, now, effects).await?;
        }
        self.submit(&mut tx, &work.submissions, work.again, now, effects).await?;
        // What limits hold back goes on when something ended, and at once as far as they allow.
        self.backlog |= effects.freed;
        if (work.sweep || work.look || effects.freed) && self.backlog {
            self.serve_parked(&mut tx, now, effects).await?;
            self.backlog = leases::any_queued(&mut tx, now).await?;
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
        let leases = if self.backlog && poll.capacity > 0 {
            if !self.polls_here(tx, &poll.mid_id).await? {
                self.send_away(poll);
                return Ok(());
            }
            let leases = self.claim(tx, &poll, poll.capacity.min(MOST_LEASES), now).await?;
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

    async fn serve_parked(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        let parked: Vec<Poll> = self.sessions.values_mut().filter_map(|session| session.parked.take()).collect();
        for poll in parked.into_iter().filter(|poll| !poll.reply.is_closed()) {
            self.serve(tx, poll, now, effects).await?;
        }
        Ok(())
    }

    /// Whether this replica is the one that gives leases to a MID, and to the incarnation that has its word; it stays so
    /// until the commit.
    async fn polls_here(&self, tx: &mut Tx, mid_id: &str) -> Result<bool, StoreError> {
        if !self.parts.store.is_shared() {
            return Ok(true);
        }
        let Some(session) = self.sessions.get(mid_id) else { return Ok(false) };
        replicas::polls_here(tx, &self.parts.replica, mid_id, &session.incarnation).await
    }

    /// The MID polls another replica; should this poll be alive all the same, it comes back.
    fn send_away(&mut self, poll: Poll) {
        self.sessions.remove(&poll.mid_id);
        let _ = poll.reply.send(Ok(Batch { number: poll.received_batch, leases: Vec::new() }));
    }

    /// Stores new requests, each with its lease when a MID that can serve it waits.
    async fn submit(
        &mut self,
        tx: &mut Tx,
        submissions: &[Submission],
        again: bool,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let boot = self.parts.clock.boot();
        let ids: Vec<&str> = submissions.iter().map(|submission| submission.request.id.as_str()).collect();
        let stored = if again { requests::stored(tx, &ids).await? } else { HashSet::new() };
        let mut rows = Vec::with_capacity(submissions.len());
        let mut keys: HashMap<(&str, &str), (String, String)> = HashMap::new();
        let mut checked = HashMap::new();
        for Submission { route, request, .. } in submissions {
            if stored.contains(request.id.as_str()) {
                effects.submitted.push(Submitted::New(request.id.clone()));
                continue;
            }
            if let Some(key) = &request.idempotency_key {
                let slot = (request.client_id.as_str(), key.as_str());
                let known = match keys.get(&slot) {
                    Some(known) => Some(known.clone()),
                    None => requests::by_idempotency_key(tx, slot.0, slot.1).await?,
                };
                if let Some((id, fingerprint)) = known {
                    let same = fingerprint == request.fingerprint
                        || self.parts.at_rest.is_fingerprint(&fingerprint, &request.connection, &request.call);
                    effects.submitted.push(if same { Submitted::Known(id) } else { Submitted::KeyReused(id) });
                    continue;
                }
                keys.insert(slot, (request.id.clone(), request.fingerprint.clone()));
            }
            let mut request = request.clone();
            // Counted from a time that the caller gave, its end is not this clock's either.
            if request.not_before <= request.created_at {
                request.expires_at = request.expires_at.saturating_add(self.ahead);
            }
            request.created_at = request.created_at.saturating_add(self.ahead);
            request.origin.clone_from(&self.parts.replica);
            let is_due = request.not_before <= now;
            if is_due && !request.limited && request.expires_at > now {
                self.assign(tx, route, &mut request, (boot, now), &mut checked, effects).await?;
            }
            let waits = is_due && request.lease.is_none();
            self.backlog |= waits;
            effects.hint |= waits;
            effects.freed |= waits && request.limited;
            effects.submitted.push(Submitted::New(request.id.clone()));
            rows.push(request);
        }
        self.parts.journal.accepted(&rows);
        requests::insert(tx, &rows).await
    }

    /// Gives the request to the eligible waiting MID with the most room. `checked` keeps which MIDs poll here.
    async fn assign(
        &mut self,
        tx: &mut Tx,
        route: &crate::routes::Route,
        request: &mut requests::NewRequest,
        (boot, now): (BootTime, i64),
        checked: &mut HashMap<String, bool>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let free =
            |sessions: &HashMap<String, super::batch::Session>, answers: &HashMap<String, Answer>, mid_id: &str| {
                if let Some(answer) = answers.get(mid_id) {
                    if answer.bytes() >= MOST_BYTES {
                        return 0;
                    }
                    let taken = u32::try_from(answer.leases.len()).unwrap_or(u32::MAX);
                    return answer.poll.capacity.min(MOST_LEASES).saturating_sub(taken);
                }
                let parked = sessions.get(mid_id).and_then(|session| session.parked.as_ref());
                parked.filter(|poll| !poll.reply.is_closed()).map_or(0, |poll| poll.capacity)
            };
        let eligible = self.parts.fleet.eligible(route, boot, |mid_id| free(&self.sessions, &effects.answers, mid_id));
        for mid_id in eligible {
            if free(&self.sessions, &effects.answers, &mid_id) == 0 {
                continue;
            }
            let is_here = match checked.get(&mid_id) {
                Some(is_here) => *is_here,
                None => self.polls_here(tx, &mid_id).await?,
            };
            checked.insert(mid_id.clone(), is_here);
            if is_here {
                self.give(mid_id, request, now, effects);
                return Ok(());
            }
            if let Some(poll) = self.sessions.get_mut(&mid_id).and_then(|session| session.parked.take()) {
                self.send_away(poll);
            }
        }
        Ok(())
    }

    fn give(&mut self, mid_id: String, request: &mut requests::NewRequest, now: i64, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&mid_id) else { return };
        if let Some(poll) = session.parked.take() {
            session.batch += 1;
            effects.answers.insert(mid_id.clone(), Answer { poll, batch: session.batch, leases: Vec::new() });
        }
        let Some(answer) = effects.answers.get_mut(&mid_id) else { return };
        let lease_expires_at = now.saturating_add(request.lease_ms);
        request.lease = Some(NewLease {
            mid_id,
            incarnation: answer.poll.incarnation.clone(),
            batch: answer.batch,
            expires_at: lease_expires_at,
        });
        answer.leases.push(Leased {
            id: request.id.clone(),
            epoch: 1,
            lease_expires_at,
            expires_at: request.expires_at,
            config_digest: request.config_digest.clone(),
            call: Call::Plain(Arc::clone(&request.call)),
            size: request.call_kept.size(),
            batch: answer.batch,
            waits_since: WaitsSince::Arrived(request.arrived),
        });
    }

    /// Looks after times and dead MIDs, unless another replica has just done it.
    async fn sweep(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        // Looked up rather than assumed: an idle instance has nothing to claim for its parked polls.
        let turn = replicas::take_turn(tx, now).await?;
        if let Some(turn) = turn {
            if turn.after_pause {
                // MIDs could not report meanwhile.
                let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
                leases::grant_grace(tx, now.saturating_add(grace)).await?;
                mids::clamp_seen(tx, now).await?;
            }
            for (id, outcome, trace) in outcomes::expire_retried(tx, now).await? {
                let outcome = self.parts.at_rest.outcome(&mut **tx, &id, outcome).await?;
                let outcome = outcome.unwrap_or_else(|why| Outcome::Unknown { failure: why.failure() });
                effects.ended.push((id, Ended { outcome: Arc::new(outcome), trace: trace.into() }));
                effects.hint = true;
            }
            // Lost: it was given to a MID before it came back into the queue, so it may have been sent.
            for (outcome, was_given_out) in
                [(Outcome::Failed { failure: expired() }, false), (Outcome::Unknown { failure: lost() }, true)]
            {
                let text = to_json(&outcome)?;
                let outcome = Arc::new(outcome);
                for id in outcomes::expire(tx, now, &text, was_given_out).await? {
                    self.parts.journal.ended(&id, None, &outcome);
                    effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
                    effects.hint = true;
                }
            }
            self.end_leases(tx, leases::Ended::Overdue, now, effects).await?;
            // Their work moves now, and not when each lease runs out; but each MID had its chance to be heard.
            let live_for = i64::try_from(LIVE_FOR.as_millis()).unwrap_or(i64::MAX);
            if turn.alive_since <= now.saturating_sub(live_for) {
                self.end_leases(tx, leases::Ended::Dead, now, effects).await?;
            }
            mids::forget_expired(tx, now).await?;
        }
        self.backlog = leases::any_queued(tx, now).await?;
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
        for id in leases::end_leases(tx, which, now, &text).await? {
            self.parts.journal.ended(&id, None, &outcome);
            effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
            effects.hint = true;
        }
        self.backlog = true;
        Ok(())
    }

    /// Records what a MID reported; one verdict each, in order.
    async fn record(
        &mut self,
        tx: &mut Tx,
        mid_id: &str,
        now: i64,
        reports: &[Report],
        again: bool,
        effects: &mut Effects,
    ) -> Result<Vec<OutcomeVerdict>, StoreError> {
        // One statement cannot update a row twice: of two reports on one request, the second is looked at afterwards.
        let mut seen = HashSet::new();
        let mut first = Vec::new();
        let mut fates = HashMap::new();
        for report in reports.iter().filter(|report| seen.insert(report.finish.id.as_str())) {
            let fate = self.fate(tx, mid_id, report, now, effects).await?;
            if fate != Fate::TriedAgain {
                first.push(&report.finish);
            }
            fates.insert(report.finish.id.as_str(), fate);
        }
        let mut accepted = HashSet::new();
        let mut reduced = Vec::new();
        let large: Vec<&Finish> = first.iter().copied().filter(|outcome| !outcome.kept.pieces.is_empty()).collect();
        for finished in outcomes::finish(tx, mid_id, &self.parts.replica, now, &first).await? {
            // Its caller may wait at another replica.
            effects.hint |= finished.origin != self.parts.replica;
            effects.freed |= finished.limited;
            if finished.leased_at > 0 {
                effects.executed.push(now.saturating_sub(finished.leased_at));
            }
            if fates.get(finished.id.as_str()) == Some(&Fate::Dead) {
                outcomes::bury(tx, &finished.id).await?;
            }
            if finished.reduced {
                reduced.push(finished.id.clone());
            } else if let Some(outcome) = large.iter().find(|outcome| outcome.id == finished.id) {
                pieces::insert(tx, &finished.id, &outcome.kept).await?;
            }
            accepted.insert(finished.id);
        }
        pieces::forget_reduced(tx, &reduced).await?;
        let mut verdicts = Vec::with_capacity(reports.len());
        for report in reports {
            let id = &report.finish.id;
            let is_new = accepted.remove(id);
            let is_recorded = is_new || {
                let recorded = outcomes::recorded(tx, mid_id, &report.finish).await?;
                self.is_reported(tx, &report.finish, recorded).await?
            };
            // A commit whose answer got lost may have recorded it, and nobody was told.
            if is_new || (is_recorded && again) {
                let trace = report.finish.trace.as_str().into();
                effects.ended.push((id.clone(), Ended { outcome: Arc::clone(&report.outcome), trace }));
            }
            let is_taken = is_recorded || {
                let tried_again = outcomes::tried_again(tx, &report.finish).await?;
                self.is_reported(tx, &report.finish, tried_again).await?
            };
            verdicts.push(if is_taken { OutcomeVerdict::Accepted } else { OutcomeVerdict::Refused });
        }
        Ok(verdicts)
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

fn expired() -> Failure {
    Failure::transient(
        Hop::Instance,
        "expired",
        "the request's time was over before a MID Server took it; it was never sent",
        "Look at the MIDs with `midward get mids`, then submit it again.",
    )
}

fn lost() -> Failure {
    Failure::transient(
        Hop::Mid,
        "mid_lost",
        "the MID Server that held the request stopped before it reported; the API may or may not have acted",
        "Check at the API whether it acted; mark a request as safe to repeat to have it sent again.",
    )
}
