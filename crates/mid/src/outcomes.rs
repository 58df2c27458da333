//! Outcomes on their way back: gathered, posted at once, tried again until a bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_core::{Backoff, BootTime, Clock, Failure, Hop, Random};
use midward_wire::{Outcome, OutcomeReport, OutcomeVerdict, OutcomesReply, OutcomesRequest, VERSION, paths};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::link::{Link, LinkError, check_version, parse};

/// Most outcomes in one message.
const MAX_BATCH: usize = 64;
/// Most body bytes in one message; one outcome alone may be larger.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Messages under way at a time.
const IN_FLIGHT: usize = 2;
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one outcome is offered: as long as a queued request lives by default.
const GIVE_UP_AFTER: Duration = Duration::from_mins(15);
const MAX_ANSWER: usize = 256 * 1024;

/// Takes outcomes. Waits while many are undelivered, which holds back new work.
#[derive(Clone, Debug)]
pub(crate) struct OutcomeSender {
    sender: mpsc::Sender<Held>,
    room: Arc<Semaphore>,
}

/// An outcome and its place among the undelivered.
#[derive(Debug)]
struct Held {
    report: OutcomeReport,
    place: OwnedSemaphorePermit,
}

impl OutcomeSender {
    /// Hands an outcome over for delivery.
    pub(crate) async fn send(&self, report: OutcomeReport) {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { return };
        if let Err(unsent) = self.sender.send(Held { report, place }).await {
            let request = unsent.0.report.request_id;
            tracing::error!(request, "outcome lost: the sender of outcomes has stopped");
        }
    }
}

/// Delivers outcomes until every [`OutcomeSender`] is gone and everything is delivered or given up.
pub(crate) struct OutcomeDelivery {
    receiver: mpsc::Receiver<Held>,
    poster: Arc<Poster>,
}

struct Poster {
    link: Arc<Link>,
    incarnation: String,
    in_flight: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// A pair of sender and delivery; `room` outcomes wait at most.
pub(crate) fn outcomes(
    link: Arc<Link>,
    incarnation: String,
    room: usize,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> (OutcomeSender, OutcomeDelivery) {
    let room = room.max(1);
    let (sender, receiver) = mpsc::channel(room);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let poster = Arc::new(Poster { link, incarnation, in_flight, clock, random });
    (OutcomeSender { sender, room: Arc::new(Semaphore::new(room)) }, OutcomeDelivery { receiver, poster })
}

impl OutcomeDelivery {
    pub(crate) async fn run(mut self) {
        let posts = TaskTracker::new();
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(held) => held,
                None => match self.receiver.recv().await {
                    Some(held) => held,
                    None => break,
                },
            };
            // While a message waits for its turn, more outcomes gather for it. The semaphore is never closed.
            let Ok(turn) = self.poster.turn().await else { break };
            let mut size = body_len(&first.report);
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH {
                let Ok(next) = self.receiver.try_recv() else { break };
                size += body_len(&next.report);
                if size > MAX_BATCH_BYTES {
                    carried = Some(next);
                    break;
                }
                batch.push(next);
            }
            let poster = Arc::clone(&self.poster);
            posts.spawn(async move { poster.deliver(batch, turn).await });
        }
        posts.close();
        posts.wait().await;
    }
}

impl Poster {
    /// Offers a batch until it is judged or too old. A batch that is refused as a whole is offered one by one, so
    /// that one bad outcome spoils no other.
    async fn deliver(&self, batch: Vec<Held>, turn: OwnedSemaphorePermit) {
        let (batch, _places): (Vec<_>, Vec<_>) = batch.into_iter().map(|held| (held.report, held.place)).unzip();
        let mut turn = Some(turn);
        let since = self.clock.boot();
        if self.offer(&batch, since, &mut turn).await != Delivery::RefusedWhole {
            return;
        }
        let many = batch.len() > 1;
        for report in batch {
            let alone = [report];
            if many && self.offer(&alone, since, &mut turn).await != Delivery::RefusedWhole {
                continue;
            }
            let [report] = alone;
            if let Some(smaller) = without_reply(report) {
                self.offer(&[smaller], since, &mut turn).await;
            }
        }
    }

    /// `turn` is given back while it waits for another try: what came meanwhile has its first try at once.
    async fn offer(
        &self,
        batch: &[OutcomeReport],
        since: BootTime,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Delivery {
        let message =
            OutcomesRequest { version: VERSION, incarnation: self.incarnation.clone(), outcomes: batch.to_vec() };
        let body = match serde_json::to_vec(&message) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                tracing::error!(%error, "outcomes cannot be written as JSON");
                return Delivery::Done;
            }
        };
        drop(message);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let result = self.link.call(Method::POST, paths::OUTCOMES, body.clone(), DEADLINE, MAX_ANSWER).await;
            let error = match result.and_then(|answer| verdicts(&answer, batch.len())) {
                Ok(verdicts) => {
                    log_refused(batch, &verdicts);
                    return Delivery::Done;
                }
                Err(LinkError::Refused(status)) => {
                    if batch.len() == 1 {
                        let request = &batch[0].request_id;
                        tracing::error!(request, status, "the instance refuses this outcome's message");
                    }
                    return Delivery::RefusedWhole;
                }
                Err(error) => error,
            };
            if self.clock.boot().saturating_since(since) >= GIVE_UP_AFTER {
                tracing::error!(count = batch.len(), %error, "outcomes given up: they could not be delivered in time");
                return Delivery::Done;
            }
            let wait = backoff.next_wait(self.random.as_ref());
            let wait = match error {
                LinkError::Busy { retry_after: Some(asked), .. } => wait.max(asked),
                _ => wait,
            };
            tracing::debug!(count = batch.len(), %error, ?wait, "outcomes not delivered yet");
            turn.take();
            tokio::time::sleep(wait).await;
            *turn = self.turn().await.ok();
        }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.in_flight).acquire_owned().await
    }
}

/// The same outcome without the API's answer, which the instance does not take. The caller learns of it at once,
/// instead of waiting for the lease's end.
fn without_reply(report: OutcomeReport) -> Option<OutcomeReport> {
    let Outcome::Replied { reply } = &report.outcome else { return None };
    let failure = Failure::permanent(
        Hop::Mid,
        "reply_not_taken",
        format!("the API answered {}, but the instance does not take its {} bytes", reply.status, reply.body.0.len()),
        "Ask the API for less at a time.",
    );
    Some(OutcomeReport { outcome: Outcome::Unknown { failure }, ..report })
}

#[derive(PartialEq, Eq)]
enum Delivery {
    Done,
    RefusedWhole,
}

fn verdicts(answer: &[u8], expected: usize) -> Result<Vec<OutcomeVerdict>, LinkError> {
    let reply: OutcomesReply = parse(answer)?;
    check_version(reply.version)?;
    if reply.verdicts.len() == expected {
        return Ok(reply.verdicts);
    }
    Err(LinkError::NotUnderstood(format!("{} verdicts for {expected} outcomes", reply.verdicts.len())))
}

fn log_refused(batch: &[OutcomeReport], verdicts: &[OutcomeVerdict]) {
    for (report, verdict) in batch.iter().zip(verdicts) {
        if *verdict == OutcomeVerdict::Refused {
            tracing::warn!(
                request = report.request_id,
                epoch = report.epoch,
                "outcome refused: the request is no longer ours"
            );
        }
    }
}

fn body_len(report: &OutcomeReport) -> usize {
    match &report.outcome {
        Outcome::Replied { reply } => reply.body.0.len(),
        Outcome::Failed { .. } | Outcome::Unknown { .. } => 0,
    }
}
