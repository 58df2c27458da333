//! The writer task: gathers jobs, runs them in one transaction, and only then answers. A transaction whose connection
//! broke is run again with the same identifiers, so that nobody is told a failure that was none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Backoff, BootTime, Clock, Random};
use midward_wire::OutcomeVerdict;
use tokio::sync::mpsc;

use super::due::Due;
use super::grant::granted;
use super::room::Room;
use super::spans::LeaseSpans;
use super::work::{Effects, Work};
use super::{Batch, Broken, Job, Poll, Waiters};
use crate::at_rest::AtRest;
use crate::audit::Journal;
use crate::fleet::Fleet;
use crate::store::leases::WaitsSince;
use crate::store::{Store, StoreError, replicas};

/// Most jobs in one transaction.
const LARGEST_BATCH: usize = 512;
/// How long after an answer a MID is expected to poll again soon, and how long that is waited for.
const SOON: Duration = Duration::from_millis(5);
const GATHER: Duration = Duration::from_millis(1);
/// How long a batch is tried again while the database is away.
const KEEP_TRYING: Duration = Duration::from_secs(15);
/// A transaction that takes longer has lost its server.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(20);

/// What the writer works with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) journal: Journal,
    /// Of the writer that records outcomes, where it is one of its own.
    pub(crate) outcomes: Option<Journal>,
    pub(crate) at_rest: Arc<AtRest>,
    pub(crate) broken: Arc<Broken>,
    /// Names this process among those on the same database.
    pub(crate) replica: String,
    pub(crate) spans: Arc<LeaseSpans>,
    pub(crate) room: Arc<Room>,
}

impl Parts {
    /// The same for another writer.
    pub(super) fn beside(&self, journal: Journal) -> Self {
        Self {
            store: self.store.clone(),
            fleet: Arc::clone(&self.fleet),
            waiters: Arc::clone(&self.waiters),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            journal,
            outcomes: None,
            at_rest: Arc::clone(&self.at_rest),
            broken: Arc::clone(&self.broken),
            replica: self.replica.clone(),
            spans: Arc::clone(&self.spans),
            room: Arc::clone(&self.room),
        }
    }
}

pub(super) struct Writer {
    pub(super) parts: Parts,
    /// Who gives out what becomes free, when this one only records outcomes.
    pub(super) giver: Option<mpsc::Sender<Job>>,
    pub(super) sessions: HashMap<String, Session>,
    /// What waits in the database.
    pub(super) due: Due,
    /// When polls were answered with leases.
    answered: Option<BootTime>,
    /// The database's time less this host's, in milliseconds.
    pub(super) ahead: i64,
    /// When the database's clock was read, and what it said.
    pub(super) read: Option<(BootTime, i64)>,
    /// The last transaction left some of what is over; and the one under way goes on with such, whoever's turn it is.
    pub(super) is_more_over: bool,
    pub(super) expires_on: bool,
}

/// One incarnation of a MID.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) incarnation: String,
    /// Number of the last batch that was made for it.
    pub(super) batch: i64,
    pub(super) parked: Option<Poll>,
}

impl Writer {
    pub(super) fn new(parts: Parts, giver: Option<mpsc::Sender<Job>>) -> Self {
        let sessions = HashMap::new();
        let (due, is_more_over, expires_on) = (Due::unknown(), false, false);
        Self { due, parts, giver, sessions, answered: None, ahead: 0, read: None, is_more_over, expires_on }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(LARGEST_BATCH);
        loop {
            self.expires_on = std::mem::take(&mut self.is_more_over) && !inbox.is_closed();
            if self.expires_on {
                jobs.push(Job::Sweep);
                // Beside what came meanwhile.
                while jobs.len() < LARGEST_BATCH
                    && let Ok(job) = inbox.try_recv()
                {
                    jobs.push(job);
                }
            } else if inbox.recv_many(&mut jobs, LARGEST_BATCH).await == 0 {
                return;
            }
            self.gather(&mut inbox, &mut jobs).await;
            self.batch(&mut jobs).await;
        }
    }

    /// MIDs that were just answered poll again within a moment, and a request that comes before them would be put into
    /// the database only to be looked for there: it waits for the first of them.
    async fn gather(&self, inbox: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>) {
        let waits = |jobs: &[Job]| {
            jobs.iter().any(|job| matches!(job, Job::Submit(_))) && !jobs.iter().any(|job| matches!(job, Job::Poll(_)))
        };
        let parked = || self.sessions.values().filter_map(|session| session.parked.as_ref());
        let is_soon = |answered| self.parts.clock.boot().saturating_since(answered) < SOON;
        if !waits(jobs) || !self.answered.is_some_and(is_soon) || parked().any(|poll| !poll.reply.is_closed()) {
            return;
        }
        let first_poll = async {
            while waits(jobs) && jobs.len() < LARGEST_BATCH {
                if inbox.recv_many(jobs, LARGEST_BATCH - jobs.len()).await == 0 {
                    return;
                }
            }
        };
        // Nobody came: the request is queued.
        let _ = tokio::time::timeout(GATHER, first_poll).await;
    }

    async fn batch(&mut self, jobs: &mut Vec<Job>) {
        let mut work = Work::default();
        for job in jobs.drain(..) {
            work.add(job);
        }
        for (mid_id, current) in &work.ended_incarnations {
            self.leave_others(mid_id, current);
        }
        if let Some(error) = self.parts.broken.error() {
            work.fail_new(error);
        }
        let since = self.parts.clock.boot();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        let mut admitted = false;
        loop {
            let mut effects = Effects::default();
            let error = match self.attempt(&mut work, &mut admitted, &mut effects).await {
                Ok(()) => {
                    self.tell(work, effects);
                    return;
                }
                Err(error) => error,
            };
            self.parts.journal.lost();
            self.read = None;
            // What it was given did not become true: it is served anew.
            work.polls.extend(effects.answers.into_values().map(|answer| answer.poll));
            work.again = true;
            self.due.spoil();
            self.parts.broken.see(&error);
            if !error.is_passing() || self.parts.clock.boot().saturating_since(since) >= KEEP_TRYING {
                tracing::error!(%error, "a batch was not committed; nothing of it is acknowledged");
                // The leases of earlier incarnations did not end, so these MIDs count as new again.
                for mid_id in work.fresh.iter().chain(&work.ended_incarnations).map(|(mid_id, _)| mid_id) {
                    self.sessions.remove(mid_id);
                }
                self.parts.journal.forget();
                work.fail(&error);
                return;
            }
            let wait = backoff.next_wait(&*self.parts.random);
            tracing::warn!(%error, ?wait, "a batch was not committed; it is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self, work: &mut Work, admitted: &mut bool, effects: &mut Effects) -> Result<(), StoreError> {
        let attempt = async {
            if !*admitted {
                let moved = self.take_polls(&work.arrived).await?;
                for poll in std::mem::take(&mut work.arrived) {
                    let is_new_here = moved.contains(&poll.mid_id);
                    self.admit(poll, is_new_here, work);
                }
                *admitted = true;
            }
            if work.is_idle() { Ok(()) } else { self.transact(work, effects).await }
        };
        tokio::time::timeout(LONGEST_TRANSACTION, attempt).await.unwrap_or(Err(StoreError::Slow))
    }

    /// Which of these MIDs polled another replica before.
    async fn take_polls(&self, polls: &[Poll]) -> Result<Vec<String>, StoreError> {
        if polls.is_empty() || !self.parts.store.is_shared() {
            return Ok(Vec::new());
        }
        let mids: Vec<&str> = polls.iter().map(|poll| poll.mid_id.as_str()).collect();
        replicas::take_polls(&self.parts.store, &self.parts.replica, &mids).await
    }

    /// Gives nothing more to a poll of an incarnation that was superseded.
    fn leave_others(&mut self, mid_id: &str, current: &str) {
        let is_other = self.sessions.get(mid_id).is_some_and(|session| session.incarnation != current);
        if is_other && let Some(parked) = self.sessions.remove(mid_id).and_then(|other| other.parked) {
            let _ = parked.reply.send(Ok(Batch::default()));
        }
    }

    /// Takes a poll in: parks it when there is surely nothing for it, else puts it on the list of those to be served
    /// from the database. An older poll of the same MID is answered with nothing.
    fn admit(&mut self, poll: Poll, is_new_here: bool, work: &mut Work) {
        // It came before it was superseded, and is looked at after.
        if !self.parts.fleet.has_the_word(&poll.mid_id, &poll.incarnation) {
            let _ = poll.reply.send(Ok(Batch { number: poll.received_batch, leases: Vec::new() }));
            return;
        }
        let now = self.parts.clock.wall().unix_millis().saturating_add(self.ahead);
        let may_have = self.due.is_stale() || self.has_for(&poll.mid_id, now);
        let known = self.sessions.get_mut(&poll.mid_id).filter(|session| session.incarnation == poll.incarnation);
        let Some(session) = known else {
            work.fresh.push((poll.mid_id.clone(), poll.incarnation.clone()));
            let session = Session { incarnation: poll.incarnation.clone(), batch: poll.received_batch, parked: None };
            if let Some(parked) = self.sessions.insert(poll.mid_id.clone(), session).and_then(|old| old.parked) {
                let _ = parked.reply.send(Ok(Batch::default()));
            }
            work.polls.push(poll);
            return;
        };
        // Another replica may have given it batches meanwhile.
        let is_behind = poll.received_batch < session.batch;
        session.batch = session.batch.max(poll.received_batch);
        if let Some(older) = session.parked.take() {
            let _ = older.reply.send(Ok(Batch { number: session.batch, leases: Vec::new() }));
        }
        if is_new_here || is_behind || may_have || poll.capacity == 0 {
            work.polls.push(poll);
        } else {
            session.parked = Some(poll);
        }
    }

    /// After the commit: everybody learns what happened.
    fn tell(&mut self, work: Work, effects: Effects) {
        let parts = &self.parts;
        parts.room.changed(effects.queued);
        if let Some(giver) = self.giver.as_ref().filter(|_| !effects.freed.is_empty()) {
            // When there is no room for this, the next sweep is not far.
            let _ = giver.try_send(Job::Freed(effects.freed.into_iter().collect()));
        }
        let (now, boot) = (parts.clock.wall().unix_millis().saturating_add(self.ahead), parts.clock.boot());
        for (submission, submitted) in work.submissions.into_iter().zip(effects.submitted) {
            let _ = submission.reply.send(Ok(submitted));
        }
        for (id, ended) in effects.ended {
            parts.spans.ended(&id, &*parts.clock);
            parts.waiters.deliver(&id, ended);
        }
        for millis in effects.executed {
            parts.journal.executed(millis);
        }
        for (job, verdicts) in work.outcomes.into_iter().zip(effects.verdicts) {
            let accepted =
                verdicts.iter().zip(&job.reports).filter(|(verdict, _)| **verdict == OutcomeVerdict::Accepted);
            for (_, report) in accepted {
                parts.spans.ended(&report.finish.id, &*parts.clock);
            }
            let _ = job.reply.send(Ok(verdicts));
        }
        for job in work.hand_backs {
            let _ = job.reply.send(Ok(()));
        }
        if !effects.answers.is_empty() {
            self.answered = Some(boot);
        }
        for answer in effects.answers.into_values() {
            for lease in &answer.leases {
                let Some(in_queue) = in_queue(lease.waits_since, boot, now) else { continue };
                parts.journal.dispatched(in_queue);
                parts.spans.leased(lease, &answer.poll.mid_id, in_queue, &*parts.clock);
            }
            let waited = boot.saturating_since(answer.poll.arrived);
            let leases = answer.leases.into_iter().map(|lease| granted(lease, now, waited)).collect();
            // A poll that is gone gets this batch again when it comes back.
            let _ = answer.poll.reply.send(Ok(Batch { number: answer.batch, leases }));
        }
    }
}

/// How long a request waited for its first lease; `None`: this is not its first.
fn in_queue(since: WaitsSince, boot: BootTime, now: i64) -> Option<Duration> {
    match since {
        WaitsSince::Arrived(arrived) => Some(boot.saturating_since(arrived)),
        WaitsSince::Accepted(at) => Some(Duration::from_millis(u64::try_from(now.saturating_sub(at)).unwrap_or(0))),
        WaitsSince::Before => None,
    }
}
