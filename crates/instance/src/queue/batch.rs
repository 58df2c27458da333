//! The writer task: gathers jobs, runs them in one transaction, and only then answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Clock, Failure, Hop};
use midward_wire::{Outcome, OutcomeVerdict};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{Any, Transaction};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Ended, Job, Poll, Report, Submission, Submitted, Waiters};
use crate::audit::Journal;
use crate::fleet::Fleet;
use crate::store::requests::{self, Claim, Leased, NewLease};
use crate::store::{Store, StoreError, mids, to_json};

/// Most jobs in one transaction.
const LARGEST_BATCH: usize = 512;
/// Most requests handed to a MID in one answer.
const MOST_LEASES: u32 = 256;
/// No lease that was alive when the instance stopped ends sooner than this after it started again.
const GRACE: Duration = Duration::from_secs(30);

type Tx = Transaction<'static, Any>;

pub(super) struct Writer {
    store: Store,
    fleet: Arc<Fleet>,
    waiters: Arc<Waiters>,
    clock: Arc<dyn Clock>,
    journal: Journal,
    sessions: HashMap<String, Session>,
    /// MIDs whose leases ended because they died; they get none until they are heard of again.
    dead: HashSet<String>,
    /// Whether the database may hold queued requests.
    backlog: bool,
    /// The database's time less this host's, in milliseconds.
    ahead: i64,
}

/// One incarnation of a MID.
#[derive(Debug)]
struct Session {
    incarnation: String,
    /// Number of the last batch that was made for it.
    batch: i64,
    parked: Option<Poll>,
}

/// A poll that is answered when the transaction is committed.
#[derive(Debug)]
struct Answer {
    poll: Poll,
    batch: i64,
    leases: Vec<Leased>,
}

type VerdictsReply = oneshot::Sender<Result<Vec<OutcomeVerdict>, StoreError>>;

/// What is told to others after the commit.
#[derive(Debug, Default)]
struct Effects {
    answers: HashMap<String, Answer>,
    submitted: Vec<(oneshot::Sender<Result<Submitted, StoreError>>, Submitted)>,
    verdicts: Vec<(VerdictsReply, Vec<OutcomeVerdict>)>,
    done: Vec<oneshot::Sender<Result<(), StoreError>>>,
    ended: Vec<(String, Ended)>,
    /// All dead MIDs, when they were looked at.
    dead: Option<HashSet<String>>,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        fleet: Arc<Fleet>,
        waiters: Arc<Waiters>,
        clock: Arc<dyn Clock>,
        journal: Journal,
    ) -> Self {
        let (sessions, dead) = (HashMap::new(), HashSet::new());
        Self { store, fleet, waiters, clock, journal, sessions, dead, backlog: true, ahead: 0 }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        if let Err(error) = self.grace().await {
            tracing::error!(%error, "leases of before the start got no grace");
        }
        let mut jobs = Vec::with_capacity(LARGEST_BATCH);
        while inbox.recv_many(&mut jobs, LARGEST_BATCH).await > 0 {
            self.batch(&mut jobs).await;
        }
    }

    async fn grace(&self) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let now = self.store.now(&mut tx, self.clock.wall().unix_millis()).await?;
        let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
        requests::grant_grace(&mut tx, now.saturating_add(grace)).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn batch(&mut self, jobs: &mut Vec<Job>) {
        let mut sorted = Sorted::default();
        for job in jobs.drain(..) {
            sorted.add(job);
        }
        let mut effects = Effects::default();
        let mut polls = Vec::new();
        let mut fresh_sessions = Vec::new();
        for poll in std::mem::take(&mut sorted.polls) {
            self.admit(poll, &mut polls, &mut fresh_sessions);
        }
        if polls.is_empty() && fresh_sessions.is_empty() && sorted.is_idle() {
            return;
        }
        let fresh: Vec<String> =
            fresh_sessions.iter().chain(&sorted.ended_incarnations).map(|(mid_id, _)| mid_id.clone()).collect();
        let result = self.transact(&mut sorted, polls, fresh_sessions, &mut effects).await;
        match result {
            Ok(()) => self.tell(effects),
            Err(error) => {
                tracing::error!(%error, "a batch was not committed; nothing of it is acknowledged");
                self.backlog = true;
                self.journal.lost();
                // The leases of earlier incarnations did not end, so these MIDs count as new again.
                for mid_id in fresh {
                    self.sessions.remove(&mid_id);
                }
                effects.fail(&error);
                sorted.fail(&error);
            }
        }
    }

    /// Takes a poll in: parks it when there is surely nothing for it, else puts it on the list of those to be served
    /// from the database. An older poll of the same MID is answered with nothing.
    fn admit(&mut self, poll: Poll, polls: &mut Vec<Poll>, fresh: &mut Vec<(String, String)>) {
        let known = self.sessions.get_mut(&poll.mid_id).filter(|session| session.incarnation == poll.incarnation);
        let Some(session) = known else {
            fresh.push((poll.mid_id.clone(), poll.incarnation.clone()));
            let batch = poll.received_batch;
            let old = self
                .sessions
                .insert(poll.mid_id.clone(), Session { incarnation: poll.incarnation.clone(), batch, parked: None });
            if let Some(parked) = old.and_then(|session| session.parked) {
                let _ = parked.reply.send(Ok(Batch::default()));
            }
            polls.push(poll);
            return;
        };
        if let Some(older) = session.parked.take() {
            let _ = older.reply.send(Ok(Batch { number: session.batch, leases: Vec::new() }));
        }
        if poll.received_batch < session.batch || self.backlog || poll.capacity == 0 {
            polls.push(poll);
        } else {
            session.parked = Some(poll);
        }
    }

    async fn transact(
        &mut self,
        sorted: &mut Sorted,
        polls: Vec<Poll>,
        fresh: Vec<(String, String)>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let wall = self.clock.wall().unix_millis();
        let mut tx = self.store.begin().await?;
        let now = self.store.now(&mut tx, wall).await?;
        self.ahead = now.saturating_sub(wall);
        for (mid_id, reports, reply) in sorted.outcomes.drain(..) {
            // Answered in any case: a dropped sender is an error to its receiver.
            let earlier = effects.ended.len();
            let asked: Vec<_> = reports.iter().map(|report| (report.finish.id.clone(), report.finish.epoch)).collect();
            let verdicts = record(&mut tx, &mid_id, now, reports, effects).await?;
            for (id, ended) in &effects.ended[earlier..] {
                self.journal.ended(id, Some(&mid_id), &ended.outcome);
            }
            for (verdict, (id, epoch)) in verdicts.iter().zip(&asked) {
                if *verdict == OutcomeVerdict::Refused {
                    self.journal.refused(id, &mid_id, *epoch);
                }
            }
            effects.verdicts.push((reply, verdicts));
        }
        let ended = std::mem::take(&mut effects.ended).into_iter();
        effects.ended =
            ended.filter_map(|(id, ended)| self.waiters.answer(&id, ended).map(|left| (id, left))).collect();
        for (mid_id, leases, reply) in sorted.hand_backs.drain(..) {
            for (id, epoch) in leases {
                self.backlog |= requests::hand_back(&mut tx, &mid_id, &id, epoch).await?;
            }
            effects.done.push(reply);
        }
        for (mid_id, current) in fresh.into_iter().chain(sorted.ended_incarnations.drain(..)) {
            let which = requests::Ended::OtherIncarnations { mid_id: &mid_id, current: &current };
            self.end_leases(&mut tx, which, now, effects).await?;
        }
        if sorted.sweep {
            self.sweep(&mut tx, now, effects).await?;
        }
        for poll in polls {
            self.serve(&mut tx, poll, now, effects).await?;
        }
        if sorted.sweep && self.backlog {
            self.serve_parked(&mut tx, now, effects).await?;
            self.backlog = requests::any_queued(&mut tx).await?;
        }
        self.submit(&mut tx, std::mem::take(&mut sorted.submissions), now, effects).await?;
        self.journal.write(&mut tx, now).await?;
        tx.commit().await?;
        self.journal.committed();
        Ok(())
    }

    /// Serves a poll from the database: what got lost first, then what is queued; parks it when there is neither.
    async fn serve(&mut self, tx: &mut Tx, poll: Poll, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        let lost = requests::undelivered(tx, &poll.mid_id, &poll.incarnation, poll.received_batch).await?;
        let Some(session) = self.sessions.get_mut(&poll.mid_id) else { return Ok(()) };
        if !lost.is_empty() {
            session.batch = lost.iter().map(|lease| lease.batch).fold(session.batch, i64::max);
            let batch = session.batch;
            effects.answers.insert(poll.mid_id.clone(), Answer { poll, batch, leases: lost });
            return Ok(());
        }
        let leases = if self.backlog && poll.capacity > 0 {
            let resolvers = self.fleet.claimable(&poll.mid_id, self.clock.boot());
            let claim = Claim {
                mid_id: &poll.mid_id,
                incarnation: &poll.incarnation,
                batch: session.batch + 1,
                resolvers: &resolvers,
                limit: poll.capacity.min(MOST_LEASES),
                now,
            };
            let leases = requests::claim(tx, &claim).await?;
            self.journal.leased(&poll.mid_id, &leases);
            leases
        } else {
            Vec::new()
        };
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

    /// Stores new requests, each with its lease when a MID that can serve it waits.
    async fn submit(
        &mut self,
        tx: &mut Tx,
        submissions: Vec<Submission>,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let boot = self.clock.boot();
        let mut rows = Vec::with_capacity(submissions.len());
        let mut keys: HashMap<(String, String), (String, String)> = HashMap::new();
        for Submission { route, mut request, reply } in submissions {
            request.created_at = request.created_at.saturating_add(self.ahead);
            request.expires_at = request.expires_at.saturating_add(self.ahead);
            if let Some(key) = request.idempotency_key.clone() {
                let slot = (request.client_id.clone(), key);
                let known = match keys.get(&slot) {
                    Some(known) => Some(known.clone()),
                    None => requests::by_idempotency_key(tx, &slot.0, &slot.1).await?,
                };
                if let Some((id, fingerprint)) = known {
                    let same = fingerprint == request.fingerprint;
                    effects.submitted.push((reply, if same { Submitted::Known(id) } else { Submitted::KeyReused(id) }));
                    continue;
                }
                keys.insert(slot, (request.id.clone(), request.fingerprint.clone()));
            }
            if request.expires_at > now {
                self.assign(&route, &mut request, boot, now, effects);
            }
            self.backlog |= request.lease.is_none();
            effects.submitted.push((reply, Submitted::New(request.id.clone())));
            rows.push(request);
        }
        self.journal.accepted(&rows);
        requests::insert(tx, &rows).await
    }

    /// Gives the request to the eligible waiting MID with the most room.
    fn assign(
        &mut self,
        route: &crate::routes::Route,
        request: &mut requests::NewRequest,
        boot: BootTime,
        now: i64,
        effects: &mut Effects,
    ) {
        let sessions = &self.sessions;
        let answers = &effects.answers;
        let free = |mid_id: &str| {
            if let Some(answer) = answers.get(mid_id) {
                let taken = u32::try_from(answer.leases.len()).unwrap_or(u32::MAX);
                return answer.poll.capacity.min(MOST_LEASES).saturating_sub(taken);
            }
            let parked = sessions.get(mid_id).and_then(|session| session.parked.as_ref());
            parked.filter(|poll| !poll.reply.is_closed()).map_or(0, |poll| poll.capacity)
        };
        let eligible = self.fleet.eligible(route, boot, free);
        let Some(mid_id) = eligible.into_iter().find(|mid_id| free(mid_id) > 0) else { return };
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
            call_json: request.call_json.clone(),
            batch: answer.batch,
        });
    }

    async fn sweep(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        // Lost: it was given to a MID before it came back into the queue, so it may have been sent.
        for (outcome, was_given_out) in
            [(Outcome::Failed { failure: expired() }, false), (Outcome::Unknown { failure: lost() }, true)]
        {
            let text = to_json(&outcome)?;
            let outcome = Arc::new(outcome);
            for id in requests::expire(tx, now, &text, was_given_out).await? {
                self.journal.ended(&id, None, &outcome);
                effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
            }
        }
        self.end_leases(tx, requests::Ended::Overdue, now, effects).await?;
        // Their work moves now, and not when each lease runs out.
        let dead: HashSet<String> = self.fleet.dead(self.clock.boot()).into_iter().collect();
        let newly: Vec<String> = dead.difference(&self.dead).cloned().collect();
        for mid_id in &newly {
            self.end_leases(tx, requests::Ended::Dead { mid_id }, now, effects).await?;
        }
        effects.dead = Some(dead);
        mids::forget_expired(tx, now).await?;
        // Looked up rather than assumed: an idle instance has nothing to claim for its parked polls.
        self.backlog = requests::any_queued(tx).await?;
        Ok(())
    }

    async fn end_leases(
        &mut self,
        tx: &mut Tx,
        which: requests::Ended<'_>,
        now: i64,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let outcome = Outcome::Unknown { failure: lost() };
        let text = to_json(&outcome)?;
        let outcome = Arc::new(outcome);
        for id in requests::end_leases(tx, which, now, &text).await? {
            self.journal.ended(&id, None, &outcome);
            effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
        }
        self.backlog = true;
        Ok(())
    }

    /// After the commit: everybody learns what happened.
    fn tell(&mut self, effects: Effects) {
        if let Some(dead) = effects.dead {
            self.dead = dead;
        }
        let (now, boot) = (self.clock.wall().unix_millis().saturating_add(self.ahead), self.clock.boot());
        for (reply, submitted) in effects.submitted {
            let _ = reply.send(Ok(submitted));
        }
        for (id, ended) in effects.ended {
            self.waiters.deliver(&id, ended);
        }
        for (reply, verdicts) in effects.verdicts {
            let _ = reply.send(Ok(verdicts));
        }
        for reply in effects.done {
            let _ = reply.send(Ok(()));
        }
        for answer in effects.answers.into_values() {
            let waited = boot.saturating_since(answer.poll.arrived);
            let leases = answer.leases.iter().filter_map(|lease| grant(lease, now, waited)).collect();
            // A poll that is gone gets this batch again when it comes back.
            let _ = answer.poll.reply.send(Ok(Batch { number: answer.batch, leases }));
        }
    }
}

/// Records what a MID reported; one verdict each, in order.
async fn record(
    tx: &mut Tx,
    mid_id: &str,
    now: i64,
    reports: Vec<Report>,
    effects: &mut Effects,
) -> Result<Vec<OutcomeVerdict>, StoreError> {
    // One statement cannot update a row twice: of two reports on one request, the second is looked at afterwards.
    let mut seen = HashSet::new();
    let first: Vec<_> = reports
        .iter()
        .filter(|report| seen.insert(report.finish.id.as_str()))
        .map(|report| report.finish.clone())
        .collect();
    let accepted: HashSet<String> = requests::finish(tx, mid_id, now, &first).await?.into_iter().collect();
    let mut verdicts = Vec::with_capacity(reports.len());
    let mut delivered = HashSet::new();
    for report in reports {
        let id = report.finish.id.clone();
        if accepted.contains(&id) && delivered.insert(id.clone()) {
            let trace = report.finish.trace.as_str().into();
            effects.ended.push((id, Ended { outcome: report.outcome, trace }));
            verdicts.push(OutcomeVerdict::Accepted);
        } else if requests::is_recorded(tx, mid_id, &report.finish).await? {
            verdicts.push(OutcomeVerdict::Accepted);
        } else {
            verdicts.push(OutcomeVerdict::Refused);
        }
    }
    Ok(verdicts)
}

/// A [`midward_wire::LeaseGrant`], with the call's JSON as it was stored.
#[derive(Serialize)]
struct GrantText<'a> {
    request_id: &'a str,
    epoch: i64,
    lease_ms: u64,
    expires_ms: u64,
    config: &'a str,
    call: &'a RawValue,
}

/// Times are counted from when the MID asked, so the time that the poll waited is added.
fn grant(lease: &Leased, now: i64, waited: Duration) -> Option<Box<RawValue>> {
    let waited = u64::try_from(waited.as_millis()).unwrap_or(0);
    let left = |until: i64| u64::try_from(until.saturating_sub(now)).unwrap_or(0).saturating_add(waited);
    let call = serde_json::from_str::<&RawValue>(&lease.call_json);
    let text = call.and_then(|call| {
        serde_json::value::to_raw_value(&GrantText {
            request_id: &lease.id,
            epoch: lease.epoch,
            lease_ms: left(lease.lease_expires_at),
            expires_ms: left(lease.expires_at),
            config: &lease.config_digest,
            call,
        })
    });
    match text {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::error!(request = lease.id, %error, "a stored request is not JSON; it runs into its expiry");
            None
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

type OutcomesJob = (String, Vec<Report>, VerdictsReply);
type HandBackJob = (String, Vec<(String, i64)>, oneshot::Sender<Result<(), StoreError>>);

/// Jobs of one batch by kind.
#[derive(Debug, Default)]
struct Sorted {
    submissions: Vec<Submission>,
    polls: Vec<Poll>,
    outcomes: Vec<OutcomesJob>,
    hand_backs: Vec<HandBackJob>,
    ended_incarnations: Vec<(String, String)>,
    sweep: bool,
}

impl Sorted {
    fn add(&mut self, job: Job) {
        match job {
            Job::Submit(submission) => self.submissions.push(*submission),
            Job::Poll(poll) => self.polls.push(poll),
            Job::Outcomes { mid_id, reports, reply } => self.outcomes.push((mid_id, reports, reply)),
            Job::HandBack { mid_id, leases, reply } => self.hand_backs.push((mid_id, leases, reply)),
            Job::EndIncarnations { mid_id, current } => self.ended_incarnations.push((mid_id, current)),
            Job::Sweep => self.sweep = true,
        }
    }

    fn is_idle(&self) -> bool {
        self.submissions.is_empty()
            && self.outcomes.is_empty()
            && self.hand_backs.is_empty()
            && self.ended_incarnations.is_empty()
            && !self.sweep
    }

    fn fail(self, error: &StoreError) {
        for submission in self.submissions {
            let _ = submission.reply.send(Err(error.clone()));
        }
        for (.., reply) in self.outcomes {
            let _ = reply.send(Err(error.clone()));
        }
        for (.., reply) in self.hand_backs {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl Effects {
    fn fail(self, error: &StoreError) {
        for (reply, _) in self.submitted {
            let _ = reply.send(Err(error.clone()));
        }
        for (reply, _) in self.verdicts {
            let _ = reply.send(Err(error.clone()));
        }
        for reply in self.done {
            let _ = reply.send(Err(error.clone()));
        }
        for answer in self.answers.into_values() {
            let _ = answer.poll.reply.send(Err(error.clone()));
        }
    }
}
