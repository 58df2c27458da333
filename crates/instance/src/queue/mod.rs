//! The queue: submissions, polls and outcomes go through a writer task that commits them in groups. The database is
//! the truth; what is in memory (waiting polls, waiting callers) only makes it fast.

mod batch;
mod broken;
mod claim;
mod due;
mod expire;
mod grant;
pub(crate) mod room;
mod spans;
mod submit;
mod terms;
#[cfg(test)]
mod tests;
mod transaction;
mod waiters;
mod work;

use std::sync::Arc;

use midward_core::BootTime;
use midward_wire::{Outcome, OutcomeVerdict};
use tokio::sync::{mpsc, oneshot};

use crate::routes::Route;
use crate::store::StoreError;
use crate::store::outcomes::Finish;
use crate::store::requests::{FAILED, NewRequest};

pub(crate) use batch::Parts;
pub(crate) use broken::Broken;
pub(crate) use grant::texts as grant_texts;
pub(crate) use spans::LeaseSpans;
pub(crate) use waiters::{Ended, Waiters, Waiting, Wants};

/// How many jobs may wait for the writer; more are made to wait in turn.
const WAITING: usize = 4096;

/// Something for the writer.
#[derive(Debug)]
pub(crate) enum Job {
    Submit(Box<Submission>),
    Poll(Poll),
    Outcomes(Outcomes),
    HandBack(HandBack),
    /// A MID started anew: leases of its earlier incarnations end.
    EndIncarnations {
        mid_id: String,
        current: String,
    },
    /// The times of leases and requests are looked at.
    Sweep,
    /// Another replica may have queued something.
    Look,
    /// Of these connections, which have limits, something ended.
    Freed(Vec<String>),
}

/// What a MID reported in one message.
#[derive(Debug)]
pub(crate) struct Outcomes {
    mid_id: String,
    reports: Vec<Report>,
    reply: oneshot::Sender<Result<Vec<OutcomeVerdict>, StoreError>>,
}

/// Leases, as request and epoch, of which a MID has not sent a byte.
#[derive(Debug)]
pub(crate) struct HandBack {
    mid_id: String,
    leases: Vec<(String, i64)>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) route: Arc<Route>,
    pub(crate) request: NewRequest,
    pub(crate) reply: oneshot::Sender<Result<Submitted, StoreError>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    New(String),
    /// The same request was submitted under this idempotency key before.
    Known(String),
    /// Another request was submitted under this idempotency key before.
    KeyReused(String),
    /// No MID takes it now, and the queue has no room for it.
    Full,
}

/// A MID that waits for work.
#[derive(Debug)]
pub(crate) struct Poll {
    pub(crate) mid_id: String,
    pub(crate) incarnation: String,
    pub(crate) capacity: u32,
    pub(crate) received_batch: i64,
    pub(crate) arrived: BootTime,
    pub(crate) reply: oneshot::Sender<Result<Batch, StoreError>>,
}

/// What a poll is answered with.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) number: i64,
    pub(crate) leases: Vec<grant::Granted>,
}

/// An outcome as a MID reported it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) finish: Finish,
    pub(crate) outcome: Arc<Outcome>,
}

impl Report {
    /// Whether it is one after which a policy could have the request tried again.
    fn may_be_tried_again(&self) -> bool {
        match &*self.outcome {
            Outcome::Replied { reply } => reply.status >= 400,
            _ => self.finish.state == FAILED,
        }
    }
}

/// Where jobs are handed in.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    /// Of the writer that records outcomes.
    outcomes: mpsc::Sender<Job>,
}

impl Queue {
    /// Starts the writer; it ends when every [`Queue`] is dropped and all jobs are done. Where the database takes several
    /// writers, outcomes have one of their own, so that one transaction is made while the other is put on disk.
    pub(crate) fn start(mut parts: Parts) -> (Self, tokio::task::JoinHandle<()>) {
        let (jobs, inbox) = mpsc::channel(WAITING);
        let Some(journal) = parts.outcomes.take() else {
            let writer = tokio::spawn(batch::Writer::new(parts, None).run(inbox));
            return (Self { outcomes: jobs.clone(), jobs }, writer);
        };
        let (outcomes, reported) = mpsc::channel(WAITING);
        let recorder = batch::Writer::new(parts.beside(journal), Some(jobs.clone()));
        let (writer, recorder) =
            (tokio::spawn(batch::Writer::new(parts, None).run(inbox)), tokio::spawn(recorder.run(reported)));
        let both = tokio::spawn(async {
            // A panic was reported when it happened.
            let _ = tokio::join!(writer, recorder);
        });
        (Self { jobs, outcomes }, both)
    }

    /// Whether the writers are still there.
    pub(crate) fn is_running(&self) -> bool {
        !self.jobs.is_closed() && !self.outcomes.is_closed()
    }

    pub(crate) async fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)
    }

    pub(crate) async fn submit(&self, route: Arc<Route>, request: NewRequest) -> Result<Submitted, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Submit(Box::new(Submission { route, request, reply }))).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    pub(crate) async fn outcomes(
        &self,
        mid_id: String,
        reports: Vec<Report>,
    ) -> Result<Vec<OutcomeVerdict>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Outcomes(Outcomes { mid_id, reports, reply });
        self.outcomes.send(job).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    pub(crate) async fn hand_back(&self, mid_id: String, leases: Vec<(String, i64)>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::HandBack(HandBack { mid_id, leases, reply })).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}
