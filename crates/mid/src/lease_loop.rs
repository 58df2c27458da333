//! The standing long poll: leases in, outcomes out, never the same lease twice, nor an older one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_core::{Backoff, BootTime, Clock, Failure, Hop, Random, Trace};
use midward_wire::{
    LeaseGrant, LeaseReply, LeaseRequest, MAX_OUTCOMES, MidState, Outcome, OutcomeReport, ReleaseRequest, VERSION,
    paths,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Audit, AuditEntry};
use crate::capacity::Capacity;
use crate::execute::{Execute, Leased};
use crate::heartbeat::Heart;
use crate::link::{Link, LinkError, check_version, parse};
use crate::outcomes::OutcomeSender;
use crate::seen::{Known, Seen};

/// How long the instance may hold a poll.
const WAIT: Duration = Duration::from_secs(25);
/// What a poll may take beyond its wait.
const GRACE: Duration = Duration::from_secs(10);
/// Largest answer: many requests with their bodies.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// An empty answer that came sooner than this was not a long poll: ask no faster.
const SHORTEST_EMPTY_POLL: Duration = Duration::from_millis(200);

/// Everything that the loop works with.
pub(crate) struct LeaseLoop {
    pub link: Arc<Link>,
    pub heart: Arc<Heart>,
    pub executor: Arc<dyn Execute>,
    pub outcomes: OutcomeSender,
    pub audit: Arc<Audit>,
    pub capacity: Capacity,
    pub incarnation: String,
    /// Running requests; the runtime waits for them when it drains.
    pub tasks: TaskTracker,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

impl LeaseLoop {
    /// Polls until `stop`, then hands back what it was given but did not start.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut seen = Seen::new();
        let mut received_batch = 0;
        let mut disturbed = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut unwanted = Backoff::new(Duration::from_secs(2), Duration::from_mins(1));
        let mut announced = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.capacity.wait_for_room() => {}
            }
            let asked_at = self.clock.boot();
            let polled = tokio::select! {
                () = stop.cancelled() => break,
                polled = self.announce_and_poll(&mut announced, received_batch) => polled,
            };
            let pause = match polled {
                Ok(reply) => {
                    disturbed.reset();
                    self.link.told(reply.state).await;
                    match reply.state {
                        MidState::Validated | MidState::Paused => unwanted.reset(),
                        MidState::Enrolled | MidState::Invalidated => announced = false,
                    }
                    let is_empty = reply.leases.is_empty();
                    received_batch = reply.batch;
                    for raw in &reply.leases {
                        self.start(raw, asked_at, &mut seen).await;
                    }
                    let too_soon = is_empty && self.clock.boot().saturating_since(asked_at) < SHORTEST_EMPTY_POLL;
                    too_soon.then_some(SHORTEST_EMPTY_POLL)
                }
                Err(LinkError::State(_) | LinkError::Cloned) => {
                    announced = false;
                    Some(unwanted.next_wait(self.random.as_ref()))
                }
                Err(error) => {
                    announced = false;
                    let wait = disturbed.next_wait(self.random.as_ref());
                    Some(match error {
                        LinkError::Busy { retry_after: Some(asked), .. } => wait.max(asked),
                        _ => wait,
                    })
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        self.hand_back(received_batch, &mut seen).await;
    }

    /// The instance must know the resolvers before it can choose this MID for anything, so a heartbeat goes first.
    async fn announce_and_poll(&self, announced: &mut bool, received_batch: u64) -> Result<LeaseReply, LinkError> {
        if !*announced {
            match self.heart.beat().await {
                // A heartbeat that is not understood does not stop the work.
                Ok(_) | Err(LinkError::Refused(_) | LinkError::NotUnderstood(_)) => *announced = true,
                Err(error) => return Err(error),
            }
        }
        self.poll(received_batch, self.capacity.free(), WAIT).await
    }

    async fn poll(&self, received_batch: u64, capacity: u32, wait: Duration) -> Result<LeaseReply, LinkError> {
        let message = LeaseRequest {
            version: VERSION,
            incarnation: self.incarnation.clone(),
            capacity,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
            received_batch,
        };
        let body = serde_json::to_vec(&message).map_err(|error| LinkError::NotUnderstood(error.to_string()))?;
        let answer = self.link.call(Method::POST, paths::LEASE, Bytes::from(body), wait + GRACE, MAX_ANSWER).await?;
        let reply: LeaseReply = parse(&answer)?;
        check_version(reply.version)?;
        Ok(reply)
    }

    /// Starts one lease. One that is not understood is refused alone.
    async fn start(&self, raw: &RawValue, asked_at: BootTime, seen: &mut Seen) {
        let grant = match parse_grant(raw) {
            Ok(grant) => grant,
            Err(Misunderstood { name: Some((request_id, epoch)) }) => {
                tracing::warn!(request = request_id, "a request is in a form that this version does not know");
                if self.is_new(&request_id, epoch, seen) {
                    self.outcomes.send(refused(request_id, epoch)).await;
                }
                return;
            }
            Err(Misunderstood { name: None }) => {
                tracing::warn!("the instance sent something that is not a request; it is ignored");
                return;
            }
        };
        if !self.is_new(&grant.request_id, grant.epoch, seen) {
            return;
        }
        let Some(place) = self.capacity.take() else {
            // More than was asked for: not started, so it goes back at once.
            self.release(vec![(grant.request_id, grant.epoch)]).await;
            return;
        };
        self.spawn(Leased { grant, asked_at }, place);
    }

    /// Whether a lease may run. A repetition and an older epoch are refused without an answer: the outcome of the lease
    /// that came first is the request's.
    fn is_new(&self, request_id: &str, epoch: i64, seen: &mut Seen) -> bool {
        let (code, latest) = match seen.insert(request_id, epoch) {
            Ok(()) => return true,
            Err(Known::Repeated) => ("lease_repeated", epoch),
            Err(Known::Outdated { latest }) => ("lease_outdated", latest),
        };
        tracing::warn!(request = request_id, epoch, latest, code, "the instance gave a lease again: it is refused");
        self.audit.record(AuditEntry::LeaseRefused {
            at: self.clock.wall(),
            request_id: request_id.to_owned(),
            epoch,
            latest,
            code: code.to_owned(),
        });
        false
    }

    fn spawn(&self, leased: Leased, place: OwnedSemaphorePermit) {
        let executor = Arc::clone(&self.executor);
        let outcomes = self.outcomes.clone();
        self.tasks.spawn(async move {
            let (request_id, epoch) = (leased.grant.request_id.clone(), leased.grant.epoch);
            // A task of its own, so that a defect in one call costs one outcome and not the process.
            let run = tokio::spawn(async move { executor.execute(leased).await });
            let (outcome, trace) = run.await.unwrap_or_else(|error| (crashed(&error), Trace::default()));
            outcomes.send(OutcomeReport { request_id, epoch, outcome, trace }).await;
            drop(place);
        });
    }

    /// Fetches the batch whose answer may have been lost when the poll was dropped, and hands it back unstarted.
    async fn hand_back(&self, received_batch: u64, seen: &mut Seen) {
        if let Err(error) = self.heart.beat().await {
            tracing::debug!(%error, "the instance was not told that this MID drains");
        }
        let Ok(reply) = self.poll(received_batch, 0, Duration::ZERO).await else { return };
        let unstarted = reply.leases.iter().filter_map(|raw| match parse_grant(raw) {
            Ok(grant) => Some((grant.request_id, grant.epoch)),
            Err(misunderstood) => misunderstood.name,
        });
        let unstarted: Vec<_> = unstarted.filter(|(request_id, epoch)| self.is_new(request_id, *epoch, seen)).collect();
        for some in unstarted.chunks(MAX_OUTCOMES) {
            self.release(some.to_vec()).await;
        }
    }

    async fn release(&self, leases: Vec<(String, i64)>) {
        let count = leases.len();
        let message = ReleaseRequest { version: VERSION, incarnation: self.incarnation.clone(), leases };
        let body = serde_json::to_vec(&message).unwrap_or_default();
        match self.link.call(Method::POST, paths::RELEASE, body.into(), Duration::from_secs(5), 1024).await {
            Ok(_) => tracing::info!(count, "unstarted requests handed back"),
            Err(error) => tracing::warn!(count, %error, "unstarted requests not handed back: their leases run out"),
        }
    }
}

struct Misunderstood {
    /// Request and epoch, when at least these can be read.
    name: Option<(String, i64)>,
}

fn parse_grant(raw: &RawValue) -> Result<LeaseGrant, Misunderstood> {
    #[derive(Deserialize)]
    struct Name {
        request_id: String,
        epoch: i64,
    }
    serde_json::from_str(raw.get()).map_err(|_| Misunderstood {
        name: serde_json::from_str::<Name>(raw.get()).ok().map(|name| (name.request_id, name.epoch)),
    })
}

fn refused(request_id: String, epoch: i64) -> OutcomeReport {
    let failure = Failure::permanent(
        Hop::Mid,
        "request_not_understood",
        "the request is in a form that this version of the MID Server does not know",
        "Update the MID Server to the instance's version.",
    );
    OutcomeReport { request_id, epoch, outcome: Outcome::Failed { failure }, trace: Trace::default() }
}

/// Nobody knows how far a call came whose task ended without an answer.
fn crashed(error: &tokio::task::JoinError) -> Outcome {
    tracing::error!(panicked = error.is_panic(), "a call's task ended without an answer");
    Outcome::Unknown {
        failure: Failure::transient(
            Hop::Mid,
            "mid_defect",
            "the MID Server lost the call through a defect of its own",
            "Report it with the MID Server's log; check at the API whether the call was made.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_of_a_strange_request_is_its_name() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let named = parse_grant(&raw(r#"{"request_id":"r","epoch":4,"novelty":true}"#)).expect_err("strange");
        assert_eq!(named.name, Some(("r".to_owned(), 4)));
        assert_eq!(parse_grant(&raw("[1]")).expect_err("no request").name, None);
    }
}
