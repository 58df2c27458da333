//! The jobs of one batch by kind, and what is told to others after its commit. Jobs stay whole until then, so that a
//! transaction may be run again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use midward_wire::OutcomeVerdict;

use super::room::Amount;
use super::{Ended, HandBack, Job, Outcomes, Poll, Submission, Submitted};
use crate::store::StoreError;
use crate::store::leases::Leased;

/// Jobs of one batch by kind.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Work {
    pub(super) submissions: Vec<Submission>,
    /// Polls that were not looked at yet.
    pub(super) arrived: Vec<Poll>,
    /// Polls to be served from the database.
    pub(super) polls: Vec<Poll>,
    /// MIDs with incarnations that polled for the first time.
    pub(super) fresh: Vec<(String, String)>,
    pub(super) outcomes: Vec<Outcomes>,
    pub(super) hand_backs: Vec<HandBack>,
    pub(super) ended_incarnations: Vec<(String, String)>,
    pub(super) sweep: bool,
    /// Other replicas may have queued something.
    pub(super) look: bool,
    /// Connections with limits of which more may be given out.
    pub(super) freed: Vec<String>,
    /// It was tried before.
    pub(super) again: bool,
    /// A commit was asked for.
    pub(super) reached_commit: bool,
}

/// A poll that is answered when the transaction is committed.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) poll: Poll,
    pub(super) batch: i64,
    pub(super) leases: Vec<Leased>,
}

impl Answer {
    /// Of the calls in it, in bytes.
    pub(super) fn bytes(&self) -> i64 {
        self.leases.iter().map(|lease| lease.size).fold(0, i64::saturating_add)
    }
}

/// What is told to others after the commit.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) answers: HashMap<String, Answer>,
    /// One for each submission, in order.
    pub(super) submitted: Vec<Submitted>,
    /// One list for each message of outcomes, in order.
    pub(super) verdicts: Vec<Vec<OutcomeVerdict>>,
    pub(super) ended: Vec<(String, Ended)>,
    /// How long each request whose outcome was recorded was held by its MID, in milliseconds.
    pub(super) executed: Vec<i64>,
    /// By how much submissions and polls change what is queued.
    pub(super) queued: Amount,
    /// Connections with limits of which a request ended, or waits for its next attempt: more may be given out.
    pub(super) freed: HashSet<String>,
    /// Something with limits was queued: it is given out as any that waits, with a look at them.
    pub(super) queued_limited: bool,
    /// Whether other replicas have to look.
    pub(super) hint: bool,
}

impl Work {
    pub(super) fn add(&mut self, job: Job) {
        match job {
            Job::Submit(submission) => self.submissions.push(*submission),
            Job::Poll(poll) => self.arrived.push(poll),
            Job::Outcomes(outcomes) => self.outcomes.push(outcomes),
            Job::HandBack(hand_back) => self.hand_backs.push(hand_back),
            Job::EndIncarnations { mid_id, current } => self.ended_incarnations.push((mid_id, current)),
            Job::Sweep => self.sweep = true,
            Job::Look => self.look = true,
            Job::Freed(connections) => self.freed.extend(connections),
        }
    }

    /// Whether there is nothing in it but requests and outcomes, each to be found by its identifier.
    pub(super) fn is_hot(&self) -> bool {
        let is_hot = |submission: &Submission| {
            // One with limits has the waiting polls served from all that is queued.
            submission.request.idempotency_key.is_none() && !submission.request.limited
        };
        self.submissions.iter().all(is_hot)
            && self.polls.is_empty()
            && self.fresh.is_empty()
            && self.hand_backs.is_empty()
            && self.ended_incarnations.is_empty()
            && !self.sweep
            && !self.look
            && self.freed.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.submissions.is_empty() && self.outcomes.is_empty() && self.is_hot()
    }

    /// Refuses what would begin something. Outcomes stay: of calls that run, somebody may wait for the answer.
    pub(super) fn fail_new(&mut self, error: &StoreError) {
        let outcomes = std::mem::take(&mut self.outcomes);
        std::mem::take(self).fail(error);
        self.outcomes = outcomes;
    }

    pub(super) fn fail(self, error: &StoreError) {
        let uncertain =
            if self.reached_commit { StoreError::Uncertain(Arc::new(error.clone())) } else { error.clone() };
        for submission in self.submissions {
            let _ = submission.reply.send(Err(uncertain.clone()));
        }
        for job in self.outcomes {
            let _ = job.reply.send(Err(error.clone()));
        }
        for job in self.hand_backs {
            let _ = job.reply.send(Err(error.clone()));
        }
        for poll in self.arrived.into_iter().chain(self.polls) {
            let _ = poll.reply.send(Err(error.clone()));
        }
    }
}
