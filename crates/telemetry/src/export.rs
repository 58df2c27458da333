//! The way of spans to a collector: a bounded queue, a task that sends what gathered within a moment, and what became of
//! them. A collector that is away costs spans, never a call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use midward_core::{Backoff, Clock, Random, new_id};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::TelemetryConfig;
use crate::leg::Tracer;
use crate::otlp::{Resource, encode, rejected};
use crate::span::Span;

/// Spans that wait to be sent; more are dropped.
const QUEUE: usize = 4096;
/// Most spans of one message.
const BATCH: usize = 512;
/// How long the first span of a message waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long a message is tried again while the collector is away.
const KEEP_TRYING: Duration = Duration::from_mins(1);
/// How long the end of a program waits for what is left.
pub const FLUSH: Duration = Duration::from_secs(5);

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends one message to a collector, within a deadline of its own. Returns the body of a good answer.
pub trait Collector: Send + Sync + 'static {
    fn post(&self, body: Bytes) -> BoxFuture<'_, Result<Bytes, NotTaken>>;
}

/// The collector did not take a message. `reason` is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Worth another try (429, 502, 503, 504, or no answer), not before `retry_after`.
    ForNow {
        reason: String,
        retry_after: Option<Duration>,
    },
    ForEver {
        reason: String,
    },
}

/// What became of the spans since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    pub exported: u64,
    /// There was no room in the queue, or no time at the end.
    pub dropped: u64,
    /// The collector did not take them.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exported: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> SpanCounts {
        SpanCounts {
            exported: self.exported.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// The task's side.
pub struct Exporter {
    spans: mpsc::Receiver<Span>,
    collector: Arc<dyn Collector>,
    resource: Resource,
    counts: Arc<Counts>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Being sent.
    batch: Vec<Span>,
    /// The log knows.
    is_failing: bool,
}

/// A tracer and who sends its spans. `service` is the name of those that configure none.
pub fn start(
    config: &TelemetryConfig,
    service: &str,
    collector: Arc<dyn Collector>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> (Tracer, Exporter) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let counts = Arc::<Counts>::default();
    let resource = Resource {
        service_name: config.service_name.clone().unwrap_or_else(|| service.to_owned()),
        service_version: env!("CARGO_PKG_VERSION"),
        service_instance_id: new_id(clock.wall(), &*random),
    };
    let tracer = Tracer::new(queue, Arc::clone(&counts), config.sample_ratio, Arc::clone(&random));
    let batch = Vec::with_capacity(BATCH);
    (tracer, Exporter { spans, collector, resource, counts, clock, random, batch, is_failing: false })
}

impl Exporter {
    /// Sends until `stop`, then what is left, for at most [`FLUSH`].
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.send_all() => {}
            () = stop.cancelled() => {}
        }
        self.spans.close();
        let flushed = tokio::time::timeout(FLUSH, async {
            loop {
                self.take_ready();
                if self.batch.is_empty() {
                    return;
                }
                // A second try would cost the others their only one.
                if let Err(error) = self.attempt().await {
                    self.lost(&error);
                }
            }
        });
        if flushed.await.is_err() {
            let left = self.batch.len() + std::iter::from_fn(|| self.spans.try_recv().ok()).count();
            self.counts.dropped.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!(spans = left, "the collector did not take the last spans in time");
        }
    }

    /// Until every tracer is gone.
    async fn send_all(&mut self) {
        while let Some(first) = self.spans.recv().await {
            self.batch.push(first);
            let more = async {
                while self.batch.len() < BATCH {
                    let Some(span) = self.spans.recv().await else { return };
                    self.batch.push(span);
                }
            };
            // However it ends: what came is sent.
            let _ = tokio::time::timeout(LINGER, more).await;
            self.deliver().await;
        }
    }

    fn take_ready(&mut self) {
        while self.batch.len() < BATCH {
            let Ok(span) = self.spans.try_recv() else { return };
            self.batch.push(span);
        }
    }

    async fn deliver(&mut self) {
        let since = self.clock.boot();
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        loop {
            let error = match self.attempt().await {
                Ok(()) => return,
                Err(error) => error,
            };
            let NotTaken::ForNow { retry_after, .. } = &error else { return self.lost(&error) };
            let wait = backoff.next_wait(&*self.random).max(retry_after.unwrap_or_default());
            if self.clock.boot().saturating_since(since) + wait > KEEP_TRYING {
                return self.lost(&error);
            }
            self.tell(&error);
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), NotTaken> {
        let body = Bytes::from(encode(&self.resource, &self.batch));
        let answer = self.collector.post(body).await?;
        let sent = self.batch.len() as u64;
        let refused = rejected(&answer).min(sent);
        self.counts.exported.fetch_add(sent - refused, Ordering::Relaxed);
        self.counts.refused.fetch_add(refused, Ordering::Relaxed);
        self.batch.clear();
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector takes spans again");
        }
        Ok(())
    }

    fn lost(&mut self, error: &NotTaken) {
        self.tell(error);
        self.counts.refused.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        self.batch.clear();
    }

    /// Once, until it works again.
    fn tell(&mut self, error: &NotTaken) {
        let (NotTaken::ForNow { reason, .. } | NotTaken::ForEver { reason }) = error;
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(reason, "the collector does not take spans; calls go on");
        }
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("resource", &self.resource).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use midward_core::{BootTime, SeededRandom, WallTime};

    use super::*;
    use crate::span::SpanKind;

    /// A collector that answers as scripted, then well.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<NotTaken>>,
        bodies: Mutex<Vec<Bytes>>,
        hangs: bool,
    }

    impl Collector for Scripted {
        fn post(&self, body: Bytes) -> BoxFuture<'_, Result<Bytes, NotTaken>> {
            Box::pin(async move {
                self.bodies.lock().expect("a lock").push(body);
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                match self.answers.lock().expect("a lock").pop_front() {
                    Some(error) => Err(error),
                    None => Ok(Bytes::from_static(b"{}")),
                }
            })
        }
    }

    /// Tokio's time, so that a paused one counts.
    struct TokioClock(tokio::time::Instant);

    impl Clock for TokioClock {
        fn boot(&self) -> BootTime {
            BootTime::from_duration(self.0.elapsed())
        }

        fn wall(&self) -> WallTime {
            WallTime::from_unix_millis(0)
        }
    }

    struct Rig {
        tracer: Tracer,
        collector: Arc<Scripted>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn rig(collector: Scripted) -> Rig {
        let collector = Arc::new(collector);
        #[expect(clippy::disallowed_methods, reason = "the paused time of a test")]
        let clock = TokioClock(tokio::time::Instant::now());
        let (tracer, exporter) = start(
            &TelemetryConfig::default(),
            "midward-test",
            Arc::clone(&collector) as Arc<dyn Collector>,
            Arc::new(clock),
            Arc::new(SeededRandom::new(7)),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(exporter.run(stop.clone()));
        Rig { tracer, collector, stop, task }
    }

    impl Rig {
        fn record(&self, count: usize) {
            let leg = self.tracer.enter(None);
            for _ in 0..count {
                leg.record(leg.step("s", SpanKind::Internal, 0, 1));
            }
        }

        fn counts(&self) -> SpanCounts {
            self.tracer.counts().expect("on")
        }

        fn posts(&self) -> usize {
            self.collector.bodies.lock().expect("a lock").len()
        }

        /// In paused time this passes as soon as nothing else is to be done.
        async fn after(&self, seconds: u64) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    fn for_now(retry_after: Option<u64>) -> NotTaken {
        NotTaken::ForNow { reason: "503".to_owned(), retry_after: retry_after.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn spans_that_come_together_go_together() {
        let rig = rig(Scripted::default());
        rig.record(3);
        rig.after(2).await;
        assert_eq!((rig.posts(), rig.counts().exported), (1, 3));
        rig.record(BATCH + 1);
        rig.after(3).await;
        assert_eq!((rig.posts(), rig.counts().exported), (3, 4 + BATCH as u64));
        rig.stop.cancel();
        rig.task.await.expect("ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_is_tried_again_and_not_for_ever() {
        let busy = Scripted { answers: Mutex::new([for_now(Some(20)), for_now(None)].into()), ..Scripted::default() };
        let first = rig(busy);
        first.record(2);
        first.after(15).await;
        assert_eq!(first.posts(), 1, "not before Retry-After");
        first.after(30).await;
        assert_eq!((first.posts(), first.counts()), (3, SpanCounts { exported: 2, ..SpanCounts::default() }));

        let away =
            Scripted { answers: Mutex::new(std::iter::repeat_n(for_now(None), 1000).collect()), ..Scripted::default() };
        let second = rig(away);
        second.record(2);
        second.after(120).await;
        assert_eq!(second.counts(), SpanCounts { refused: 2, ..SpanCounts::default() });
        assert!(second.posts() < 100, "{} tries", second.posts());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_not_sent_again() {
        let refused = NotTaken::ForEver { reason: "401".to_owned() };
        let rig = rig(Scripted { answers: Mutex::new([refused].into()), ..Scripted::default() });
        rig.record(2);
        rig.after(60).await;
        assert_eq!((rig.posts(), rig.counts().refused), (1, 2));
        rig.record(1);
        rig.after(2).await;
        assert_eq!((rig.posts(), rig.counts().exported), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_sends_what_is_left_and_waits_no_longer_than_it_may() {
        let good = rig(Scripted::default());
        good.record(700);
        good.stop.cancel();
        good.task.await.expect("ended");
        assert_eq!(good.tracer.counts().expect("on").exported, 700);

        let hanging = rig(Scripted { hangs: true, ..Scripted::default() });
        hanging.record(QUEUE + 10);
        hanging.after(2).await;
        hanging.record(10);
        hanging.stop.cancel();
        tokio::time::timeout(FLUSH * 2, hanging.task).await.expect("in time").expect("ended");
        let counts = hanging.tracer.counts().expect("on");
        assert_eq!((counts.exported, counts.dropped), (0, QUEUE as u64 + 20));
    }
}
