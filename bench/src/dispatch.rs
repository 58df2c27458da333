//! Throughput and added latency of the whole path: caller, instance, queue, MID Server, API and back.

use std::time::Duration;

use midward_demo::stack::Programs;

use crate::load::{Measured, Target, closed_loop, fixed_rate};
use crate::report::Figure;
use crate::stack::Bench;
use crate::usage::cpu_time;

const CALLERS: usize = 64;
const ROUNDS: usize = 3;
/// Requests a second at which the added latency is looked at, with the goals of its p50 and p99 in milliseconds.
const SLOW_RATES: [(u32, f64, f64); 2] = [(100, 2.0, 10.0), (500, 1.5, 8.0)];

/// On both databases, in turns.
pub(crate) async fn measure(programs: &Programs) -> anyhow::Result<Vec<Figure>> {
    let mut subjects = vec![
        Subject::new("SQLite", Bench::start(programs).await?)?,
        Subject::new("PostgreSQL", Bench::start_on_postgres(programs).await?)?,
    ];
    for subject in &subjects {
        closed_loop(&subject.through, CALLERS, Duration::from_secs(2)).await?;
    }
    for _ in 0..ROUNDS {
        for subject in &mut subjects {
            subject.round().await?;
        }
    }
    Ok(subjects.into_iter().flat_map(Subject::figures).collect())
}

/// One stack and what was seen of it, a value for each round.
struct Subject {
    database: &'static str,
    through: Target,
    direct: Target,
    /// Of instance and MID Server.
    pids: Vec<u32>,
    rates: Vec<f64>,
    direct_rates: Vec<f64>,
    cpu: Vec<f64>,
    /// p50 and p99, for each of [`SLOW_RATES`].
    added: [(Vec<f64>, Vec<f64>); SLOW_RATES.len()],
    _bench: Bench,
}

impl Subject {
    fn new(database: &'static str, bench: Bench) -> anyhow::Result<Self> {
        let programs = [&bench.stack.instance, &bench.stack.mid];
        let pids = programs.into_iter().flatten().filter_map(midward_demo::process::Daemon::pid).collect();
        let (through, direct) = (bench.through()?, bench.direct()?);
        let (rates, direct_rates, cpu) = (Vec::new(), Vec::new(), Vec::new());
        let added = Default::default();
        Ok(Self { database, through, direct, pids, rates, direct_rates, cpu, added, _bench: bench })
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        let before = total(&self.pids)?;
        let measured = closed_loop(&self.through, CALLERS, Duration::from_secs(5)).await?;
        self.cpu.push(per_100_000(total(&self.pids)?.saturating_sub(before), &measured));
        self.rates.push(measured.per_second());
        self.direct_rates.push(closed_loop(&self.direct, CALLERS, Duration::from_secs(2)).await?.per_second());
        for ((p50, p99), (rate, ..)) in self.added.iter_mut().zip(SLOW_RATES) {
            let (added50, added99) = latency_added(&self.through, &self.direct, rate).await?;
            p50.push(added50);
            p99.push(added99);
        }
        Ok(())
    }

    fn figures(self) -> Vec<Figure> {
        let on = self.database;
        let mut figures = vec![
            Figure::higher(&format!("{on}: end-to-end requests, 64 callers"), "1/s", median(self.rates), 5000.0)
                .beside("direct", median(self.direct_rates)),
            Figure::lower(&format!("{on}: CPU of instance and MID per 100,000"), "s", median(self.cpu), 66.7),
        ];
        for ((p50, p99), (rate, goal50, goal99)) in self.added.into_iter().zip(SLOW_RATES) {
            figures.push(Figure::lower(&format!("{on}: added latency at {rate}/s, p50"), "ms", median(p50), goal50));
            figures.push(Figure::lower(&format!("{on}: added latency at {rate}/s, p99"), "ms", median(p99), goal99));
        }
        figures
    }
}

/// What the path adds to a direct call at `rate` requests a second, in milliseconds: at the median and at p99.
async fn latency_added(through: &Target, direct: &Target, rate: u32) -> anyhow::Result<(f64, f64)> {
    let span = Duration::from_secs(5);
    let plain = fixed_rate(direct, rate, span).await?;
    let long = fixed_rate(through, rate, span).await?;
    let difference = |percent| millis(long.percentile(percent)) - millis(plain.percentile(percent));
    Ok((difference(50), difference(99)))
}

fn total(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
fn per_100_000(cpu: Duration, measured: &Measured) -> f64 {
    cpu.as_secs_f64() * 100_000.0 / measured.calls as f64
}

pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
