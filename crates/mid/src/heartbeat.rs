//! Heartbeats: what this MID can serve, told at start, regularly, and when a resolver's health changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use midward_core::{Backoff, Clock, Random};
use midward_resolvers::{Resolver, ResolverReport};
use midward_wire::{HeartbeatReply, MAX_REASON_LEN, MidState, ResolverHealth, ResolverStatus, VERSION, paths};
use tokio_util::sync::CancellationToken;

use crate::capacity::Capacity;
use crate::link::{Link, LinkError, LinkState, check_version};

/// How often the resolvers' reports are compared.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(5);
/// The instance may choose within these.
const SLOWEST: Duration = Duration::from_mins(1);
const FASTEST: Duration = Duration::from_secs(1);

/// The resolvers by name; replaced as a whole by a reload.
pub(crate) type Resolvers = Arc<ArcSwap<BTreeMap<String, Arc<dyn Resolver>>>>;

/// Sends heartbeats.
pub(crate) struct Heart {
    link: Arc<Link>,
    incarnation: String,
    capacity: Capacity,
    resolvers: Resolvers,
    draining: AtomicBool,
    /// The instance said that another program runs with this MID's key.
    cloned: AtomicBool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Heart {
    pub(crate) fn new(
        link: Arc<Link>,
        incarnation: String,
        capacity: Capacity,
        resolvers: Resolvers,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let (draining, cloned) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { link, incarnation, capacity, resolvers, draining, cloned, clock, random }
    }

    /// Sends one now and tells when the next one is due.
    pub(crate) async fn beat(&self) -> Result<Duration, LinkError> {
        self.send(self.statuses()).await
    }

    /// From now on every heartbeat says that this MID takes no more work.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Sends them until `stop`. While the instance gives this MID no work it sends none: the lease loop asks slowly
    /// enough for both.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut state = self.link.state();
        // After a pause of the instance it counts as dead when it was not heard for nine seconds.
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
        let mut told = Vec::new();
        let mut due = self.clock.boot();
        loop {
            let known = state.borrow_and_update().clone();
            if !matches!(known, LinkState::Known(MidState::Validated | MidState::Paused)) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = state.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let statuses = self.statuses();
            if statuses != told || self.clock.boot() >= due {
                let wait = match self.send(statuses.clone()).await {
                    Ok(next) => {
                        backoff.reset();
                        told = statuses;
                        next
                    }
                    Err(error) => {
                        tracing::debug!(%error, "heartbeat not delivered");
                        // What was not delivered is not told, but is not repeated before its time either.
                        told = statuses;
                        backoff.next_wait(self.random.as_ref())
                    }
                };
                due = self.clock.boot() + wait;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The resolvers as the heartbeat tells them.
    pub(crate) fn statuses(&self) -> Vec<ResolverStatus> {
        self.resolvers.load().iter().map(|(name, resolver)| status(name, resolver.as_ref())).collect()
    }

    async fn send(&self, resolvers: Vec<ResolverStatus>) -> Result<Duration, LinkError> {
        let message = midward_wire::Heartbeat {
            version: VERSION,
            incarnation: self.incarnation.clone(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: self.capacity.max(),
            running: self.capacity.running(),
            draining: self.is_draining(),
            resolvers,
        };
        let reply: HeartbeatReply = self.link.post(paths::HEARTBEAT, &message, DEADLINE).await?;
        check_version(reply.version)?;
        self.link.told(reply.state).await;
        if reply.cloned && !self.cloned.swap(true, Ordering::Relaxed) {
            let action = LinkError::Cloned.action();
            tracing::warn!(action, "another program, which started before, runs with this MID Server's key");
        } else if !reply.cloned {
            self.cloned.store(false, Ordering::Relaxed);
        }
        Ok(Duration::from_millis(reply.next_ms).clamp(FASTEST, SLOWEST))
    }
}

impl std::fmt::Debug for Heart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heart").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

fn status(name: &str, resolver: &dyn Resolver) -> ResolverStatus {
    let (health, reason) = match resolver.report() {
        ResolverReport::Ready => (ResolverHealth::Ready, resolver.note()),
        ResolverReport::Degraded(why) => (ResolverHealth::Degraded, Some(why)),
        ResolverReport::Unusable(why) => (ResolverHealth::Unusable, Some(why)),
    };
    ResolverStatus { name: name.to_owned(), kind: resolver.kind().to_owned(), health, reason: reason.map(short) }
}

/// In the form that an instance takes: the whole heartbeat would be refused for one reason, and the MID be dead to it.
fn short(reason: String) -> String {
    if reason.len() <= MAX_REASON_LEN && !reason.contains(char::is_control) {
        return reason;
    }
    let mut plain = reason.replace(char::is_control, " ");
    plain.truncate(plain.floor_char_boundary(MAX_REASON_LEN));
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_to_what_an_instance_takes() {
        assert_eq!(short("no JAR".to_owned()), "no JAR");
        assert_eq!(short("no\0JAR\n".to_owned()), "no JAR ");
        let long = short("\u{1}".to_owned() + &"ü".repeat(MAX_REASON_LEN));
        assert_eq!((long.len(), long.trim_matches('ü')), (MAX_REASON_LEN - 1, " "));
    }
}
