//! The instance's figures as Prometheus text (exposition format 0.0.4). Counters are this process's; what is in the
//! queue is the database's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use midward_telemetry::SpanCounts;

use crate::fleet::MidView;

/// Upper bounds, in microseconds, of what takes a commit or little more.
const SHORT: [u64; 10] = [500, 1000, 2000, 5000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000];
/// The same of what waits for an API.
const LONG: [u64; 10] = [5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000];

/// Durations, counted by size.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [u64; 10],
    counts: [AtomicU64; 11],
    micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64; 10]) -> Self {
        Self { bounds, counts: Default::default(), micros: AtomicU64::new(0) }
    }

    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.iter().position(|bound| micros <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut sum = 0;
        for (bound, count) in self.bounds.iter().map(Some).chain([None]).zip(&self.counts) {
            sum += count.load(Ordering::Relaxed);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            line(out, &format!("{name}_bucket{{le=\"{bound}\"}}"), sum);
        }
        line(out, &format!("{name}_sum"), seconds(self.micros.load(Ordering::Relaxed)));
        line(out, &format!("{name}_count"), sum);
    }
}

/// Counted since the start.
#[derive(Debug)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    replied: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    redriven: AtomicU64,
    outcomes_refused: AtomicU64,
    commits: Histogram,
    dispatches: Histogram,
    executions: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::default(),
            replied: AtomicU64::default(),
            failed: AtomicU64::default(),
            unknown: AtomicU64::default(),
            redriven: AtomicU64::default(),
            outcomes_refused: AtomicU64::default(),
            commits: Histogram::new(&SHORT),
            dispatches: Histogram::new(&SHORT),
            executions: Histogram::new(&LONG),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Replied,
    Failed,
    Unknown,
}

impl How {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Replied => "replied",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// What the database says of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) queued: i64,
    pub(crate) leased: i64,
    /// Age of the oldest request that waits, in milliseconds.
    pub(crate) oldest_ms: i64,
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, how: How) {
        let counter = match how {
            How::Replied => &self.replied,
            How::Failed => &self.failed,
            How::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A dead letter waits again, and ends once more.
    pub(crate) fn redriven(&self) {
        self.redriven.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn outcome_refused(&self) {
        self.outcomes_refused.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn outcomes_refused(&self) -> u64 {
        self.outcomes_refused.load(Ordering::Relaxed)
    }

    /// One transaction of the queue, from its begin until it was on disk.
    pub(crate) fn committed(&self, took: Duration) {
        self.commits.add(took);
    }

    /// From when a request was accepted, or became due, until it was given to a MID for the first time.
    pub(crate) fn dispatched(&self, took: Duration) {
        self.dispatches.add(took);
    }

    /// From a lease until its outcome was recorded.
    pub(crate) fn executed(&self, took: Duration) {
        self.executions.add(took);
    }
}

/// The page.
pub(crate) fn page(
    counters: &Arc<Counters>,
    depth: Depth,
    mids: &[(MidView, bool)],
    spans: Option<SpanCounts>,
) -> String {
    let mut out = String::new();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    head(&mut out, "midward_requests", "gauge", "unfinished requests, of all instances on the database");
    line(&mut out, "midward_requests{state=\"queued\"}", depth.queued);
    line(&mut out, "midward_requests{state=\"leased\"}", depth.leased);
    head(&mut out, "midward_oldest_queued_seconds", "gauge", "age of the oldest request that waits for a MID");
    line(&mut out, "midward_oldest_queued_seconds", seconds(u64::try_from(depth.oldest_ms).unwrap_or(0) * 1000));
    head(&mut out, "midward_requests_accepted_total", "counter", "requests that were put on disk");
    line(&mut out, "midward_requests_accepted_total", read(&counters.accepted));
    head(&mut out, "midward_requests_ended_total", "counter", "ends of requests, by how");
    for (how, counter) in [("replied", &counters.replied), ("failed", &counters.failed), ("unknown", &counters.unknown)]
    {
        line(&mut out, &format!("midward_requests_ended_total{{how=\"{how}\"}}"), read(counter));
    }
    head(
        &mut out,
        "midward_requests_redriven_total",
        "counter",
        "dead letters that were queued again, to end once more",
    );
    line(&mut out, "midward_requests_redriven_total", read(&counters.redriven));
    head(&mut out, "midward_outcomes_refused_total", "counter", "outcomes of MIDs that no longer held the request");
    line(&mut out, "midward_outcomes_refused_total", read(&counters.outcomes_refused));
    head(&mut out, "midward_mids", "gauge", "MIDs by state, and whether they were heard of lately");
    for state in ["enrolled", "validated", "paused", "invalidated"] {
        for live in [true, false] {
            let count = mids.iter().filter(|(mid, is_live)| mid.state.name() == state && *is_live == live).count();
            line(&mut out, &format!("midward_mids{{state=\"{state}\",live=\"{live}\"}}"), count);
        }
    }
    let help = "from a request's acceptance, or when it became due, until it was first given to a MID";
    counters.dispatches.write(&mut out, "midward_dispatch_seconds", help);
    counters.executions.write(&mut out, "midward_execution_seconds", "from a lease until its outcome was recorded");
    let help = "transactions of the queue, until they were on disk";
    counters.commits.write(&mut out, "midward_commit_seconds", help);
    if let Some(SpanCounts { exported, dropped, refused }) = spans {
        head(&mut out, "midward_trace_spans_total", "counter", "spans by what became of them");
        for (result, count) in [("exported", exported), ("dropped", dropped), ("refused", refused)] {
            line(&mut out, &format!("midward_trace_spans_total{{result=\"{result}\"}}"), count);
        }
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

/// Exact, without a detour over floating point.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_upwards() {
        let counters = Arc::new(Counters::default());
        for micros in [1, 500, 501, 3_000_000] {
            counters.committed(Duration::from_micros(micros));
        }
        counters.dispatched(Duration::from_micros(1500));
        counters.executed(Duration::from_millis(7));
        let spans = SpanCounts { exported: 4, dropped: 3, refused: 0 };
        let text = page(&counters, Depth { queued: 2, leased: 1, oldest_ms: 1500 }, &[], Some(spans));
        for expected in [
            "midward_commit_seconds_bucket{le=\"0.000500\"} 2\n",
            "midward_commit_seconds_bucket{le=\"0.001000\"} 3\n",
            "midward_commit_seconds_bucket{le=\"2.000000\"} 3\n",
            "midward_commit_seconds_bucket{le=\"+Inf\"} 4\n",
            "midward_commit_seconds_sum 3.001002\n",
            "midward_commit_seconds_count 4\n",
            "midward_dispatch_seconds_bucket{le=\"0.002000\"} 1\n",
            "midward_execution_seconds_bucket{le=\"0.005000\"} 0\n",
            "midward_execution_seconds_sum 0.007000\n",
            "midward_trace_spans_total{result=\"dropped\"} 3\n",
            "midward_requests{state=\"queued\"} 2\n",
            "midward_oldest_queued_seconds 1.500000\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
