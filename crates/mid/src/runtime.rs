//! Builds a MID Server from its parts, runs it, and takes it down in two stages.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Random, new_id};
use midward_telemetry::Exporter;
use midward_wire::MidState;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{AdminSocket, Operate};
use crate::audit::Audit;
use crate::capacity::Capacity;
use crate::execute::Execute;
use crate::heartbeat::{Heart, Resolvers};
use crate::jar_fetch::JarFetch;
use crate::lease_loop::LeaseLoop;
use crate::link::{Link, LinkState};
use crate::metrics_listener::MetricsListener;
use crate::mirror::Mirror;
use crate::outcomes::{OutcomeDelivery, outcomes};
use crate::reload::warm_up;

/// How long everything that is left after the calls may take: outcomes, handing back.
const FLUSH: Duration = Duration::from_secs(10);
const RESOLVERS_SHUT_DOWN: Duration = Duration::from_secs(5);

/// A MID Server's moving parts, joined.
pub struct Mid {
    link: Arc<Link>,
    heart: Arc<Heart>,
    jars: JarFetch,
    lease_loop: LeaseLoop,
    delivery: OutcomeDelivery,
    executor: Arc<dyn Execute>,
    resolvers: Resolvers,
    calls: TaskTracker,
    drain: Duration,
    revoke: Duration,
    admin: Option<(AdminSocket, Arc<dyn Operate>)>,
    metrics: Option<MetricsListener>,
    mirror: Option<Mirror>,
    exporter: Option<Exporter>,
}

/// What [`Mid::join`] joins.
pub(crate) struct Parts {
    pub(crate) link: Arc<Link>,
    pub(crate) heart: Arc<Heart>,
    pub(crate) jars: JarFetch,
    pub(crate) executor: Arc<dyn Execute>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) resolvers: Resolvers,
    pub(crate) capacity: Capacity,
    pub(crate) incarnation: String,
    /// How long a drain waits for running calls.
    pub(crate) drain: Duration,
    /// How long it then spends on revoking tokens.
    pub(crate) revoke: Duration,
    pub(crate) admin: Option<(AdminSocket, Arc<dyn Operate>)>,
    pub(crate) metrics: Option<MetricsListener>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) exporter: Option<Exporter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

/// A new name for one run of this program.
pub(crate) fn new_incarnation(clock: &dyn Clock, random: &dyn Random) -> String {
    new_id(clock.wall(), random)
}

impl Mid {
    pub(crate) fn join(parts: Parts) -> Self {
        let Parts {
            link,
            heart,
            jars,
            executor,
            audit,
            resolvers,
            capacity,
            incarnation,
            drain,
            revoke,
            admin,
            metrics,
            mirror,
            exporter,
            clock,
            random,
        } = parts;
        let (sender, delivery) = outcomes(
            Arc::clone(&link),
            incarnation.clone(),
            capacity.max() as usize,
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        let calls = TaskTracker::new();
        let lease_loop = LeaseLoop {
            link: Arc::clone(&link),
            heart: Arc::clone(&heart),
            executor: Arc::clone(&executor),
            outcomes: sender,
            audit,
            capacity,
            incarnation,
            tasks: calls.clone(),
            clock,
            random,
        };
        Self {
            link,
            heart,
            jars,
            lease_loop,
            delivery,
            executor,
            resolvers,
            calls,
            drain,
            revoke,
            admin,
            metrics,
            mirror,
            exporter,
        }
    }

    /// Runs until `stop`, then drains: no more polls, unstarted leases handed back, running calls finished, outcomes
    /// delivered. `stop_now` ends the waiting. A part that ends by itself ends everything, with a failure.
    pub async fn run(self, stop: CancellationToken, stop_now: CancellationToken) -> Result<(), Failure> {
        let soft = CancellationToken::new();
        let hard = CancellationToken::new();
        // Longer than everybody who has something to record.
        let end_of_spans = CancellationToken::new();
        let exporter = self.exporter.map(|exporter| tokio::spawn(exporter.run(end_of_spans.clone())));
        let mut parts = JoinSet::new();
        let delivery = tokio::spawn(self.delivery.run());
        let heart = Arc::clone(&self.heart);
        parts.spawn(named("lease loop", self.lease_loop.run(soft.clone())));
        parts.spawn(named("heartbeat", {
            let (heart, hard) = (Arc::clone(&heart), hard.clone());
            async move { heart.run(hard).await }
        }));
        parts.spawn(named(
            "wiping",
            wipe_when_invalidated(Arc::clone(&self.link), Arc::clone(&self.executor), hard.clone()),
        ));
        parts.spawn(named("fetching of JARs", self.jars.run(hard.clone())));
        if let Some((socket, operator)) = self.admin {
            parts.spawn(named("admin socket", socket.serve(operator, hard.clone())));
        }
        if let Some(metrics) = self.metrics {
            parts.spawn(named("metrics listener", metrics.serve(hard.clone())));
        }
        warm_up(self.resolvers.load().iter());
        if let Some(mirror) = self.mirror {
            parts.spawn(named("mirror of the audit", mirror.run(hard.clone())));
        }

        let early = tokio::select! {
            () = stop.cancelled() => None,
            () = stop_now.cancelled() => None,
            ended = parts.join_next() => Some(ended),
        };
        if let Some(ended) = early {
            hard.cancel();
            return Err(died(ended));
        }

        tracing::info!(running = self.calls.len(), "draining");
        heart.drain();
        soft.cancel();
        self.calls.close();
        let drained = async {
            // The lease loop may still start what it had received; it ends within its own deadlines.
            let _ = tokio::time::timeout(self.drain, self.calls.wait()).await;
            if !self.calls.is_empty() {
                tracing::error!(running = self.calls.len(), "calls still run after the drain's deadline: left behind");
            }
            // It ends when the loop and every call have dropped their senders.
            let delivered = async {
                if tokio::time::timeout(FLUSH, delivery).await.is_err() {
                    tracing::error!("outcomes could not be delivered in time");
                }
            };
            // Nobody needs the tokens any more. The resolvers still run: the secret is read for it.
            let revoked = async {
                if tokio::time::timeout(self.revoke, self.executor.revoke_all(self.revoke)).await.is_err() {
                    tracing::warn!("not every token was revoked in time; they end by themselves");
                }
            };
            tokio::join!(delivered, revoked);
        };
        tokio::select! {
            () = drained => {}
            () = stop_now.cancelled() => tracing::warn!("stopped before everything was done"),
        }
        hard.cancel();
        shut_down(&self.resolvers).await;
        end_of_spans.cancel();
        if let Some(exporter) = exporter {
            tokio::select! {
                // It ends by itself after a while.
                ended = exporter => if ended.is_err() { tracing::error!("the export of spans has crashed") },
                () = stop_now.cancelled() => tracing::warn!("the last spans were not sent"),
            }
        }
        Ok(())
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

fn died(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> Failure {
    let what = match ended {
        Some(Ok(name)) => format!("its {name} ended by itself"),
        Some(Err(error)) if error.is_panic() => "a part crashed".to_owned(),
        _ => "a part was cancelled".to_owned(),
    };
    Failure::permanent(Hop::Mid, "mid_defect", what, "Report it with the log; a supervisor may start it again.")
}

/// The authenticated word "invalidated" wipes every token, whenever it comes.
async fn wipe_when_invalidated(link: Arc<Link>, executor: Arc<dyn Execute>, stop: CancellationToken) {
    let mut state = link.state();
    loop {
        if *state.borrow_and_update() == LinkState::Known(MidState::Invalidated) {
            executor.wipe();
            tracing::warn!("this MID Server was invalidated: all tokens are wiped");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

async fn shut_down(resolvers: &Resolvers) {
    let all = resolvers.load_full();
    let ends = all.values().map(|resolver| resolver.shut_down());
    if tokio::time::timeout(RESOLVERS_SHUT_DOWN, futures_util::future::join_all(ends)).await.is_err() {
        tracing::warn!("a resolver did not end in time");
    }
}
