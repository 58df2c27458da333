//! New requests are stored, and given at once to MIDs that wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use midward_core::BootTime;
use sqlx::{Any, Transaction};

use super::batch::Writer;
use super::room::Amount;
use super::transaction::MOST_LEASES;
use super::work::{Answer, Effects};
use super::{Submission, Submitted};
use crate::routes::Route;
use crate::store::StoreError;
use crate::store::lanes::Lane;
use crate::store::leases::{Call, Leased, MOST_BYTES, WaitsSince};
use crate::store::requests::{self, NewLease, NewRequest};

type Tx = Transaction<'static, Any>;

impl Writer {
    /// Stores new requests, each with its lease when a MID that can serve it waits.
    pub(super) async fn submit(
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
        let mut checked = self.check(tx, submissions, (boot, now), effects).await?;
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
            }
            let (asked, mut request) = (request, request.clone());
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
            request.delayed_until = (!is_due).then_some(request.not_before);
            if request.lease.is_none() {
                let one = Amount::one(request.call_kept.size());
                if self.parts.room.is_full_for(one, effects.queued) {
                    effects.submitted.push(Submitted::Full);
                    continue;
                }
                effects.queued += one;
            }
            if let Some(key) = &asked.idempotency_key {
                keys.insert((&asked.client_id, key), (asked.id.clone(), asked.fingerprint.clone()));
            }
            let waits = is_due && request.lease.is_none();
            if waits {
                self.due.add(Lane::of(&request));
            }
            effects.hint |= waits;
            effects.queued_limited |= waits && request.limited;
            effects.submitted.push(Submitted::New(request.id.clone()));
            rows.push(request);
        }
        self.parts.journal.accepted(&rows);
        requests::insert(tx, &rows).await
    }

    /// Asks of all MIDs at once that these requests may go to whether they poll here; the others are asked of when they
    /// turn out to be needed.
    async fn check(
        &self,
        tx: &mut Tx,
        submissions: &[Submission],
        (boot, now): (BootTime, i64),
        effects: &Effects,
    ) -> Result<HashMap<String, bool>, StoreError> {
        let mids = self.candidates(submissions, (boot, now), effects);
        let asked: Vec<&str> = mids.iter().map(String::as_str).collect();
        let here = self.polls_here(tx, &asked).await?;
        Ok(mids.iter().map(|mid_id| (mid_id.clone(), here.contains(mid_id))).collect())
    }

    /// So many requests of a route go to so many MIDs at most: those with the most room.
    fn candidates(
        &self,
        submissions: &[Submission],
        (boot, now): (BootTime, i64),
        effects: &Effects,
    ) -> HashSet<String> {
        let mut routes: HashMap<*const Route, (&Route, usize)> = HashMap::new();
        for Submission { route, request, .. } in submissions {
            if request.not_before <= now && !request.limited {
                routes.entry(Arc::as_ptr(route)).or_insert((route, 0)).1 += 1;
            }
        }
        let mut mids = HashSet::new();
        for (route, count) in routes.into_values() {
            let eligible = self.parts.fleet.eligible(route, boot, |mid_id| self.room(mid_id, effects));
            mids.extend(eligible.into_iter().filter(|mid_id| self.room(mid_id, effects) > 0).take(count));
        }
        mids
    }

    /// How many more requests a MID takes with the poll that waits, or with the answer that is made for it.
    fn room(&self, mid_id: &str, effects: &Effects) -> u32 {
        if let Some(answer) = effects.answers.get(mid_id) {
            if answer.bytes() >= MOST_BYTES {
                return 0;
            }
            let taken = u32::try_from(answer.leases.len()).unwrap_or(u32::MAX);
            return answer.poll.capacity.min(MOST_LEASES).saturating_sub(taken);
        }
        let parked = self.sessions.get(mid_id).and_then(|session| session.parked.as_ref());
        parked.filter(|poll| !poll.reply.is_closed()).map_or(0, |poll| poll.capacity)
    }

    /// Gives the request to the eligible waiting MID with the most room. `checked` keeps which MIDs poll here.
    async fn assign(
        &mut self,
        tx: &mut Tx,
        route: &Route,
        request: &mut NewRequest,
        (boot, now): (BootTime, i64),
        checked: &mut HashMap<String, bool>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let eligible = self.parts.fleet.eligible(route, boot, |mid_id| self.room(mid_id, effects));
        for mid_id in eligible {
            if self.room(&mid_id, effects) == 0 {
                continue;
            }
            let is_here = match checked.get(&mid_id) {
                Some(is_here) => *is_here,
                None => !self.polls_here(tx, &[&mid_id]).await?.is_empty(),
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

    fn give(&mut self, mid_id: String, request: &mut NewRequest, now: i64, effects: &mut Effects) {
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
}
