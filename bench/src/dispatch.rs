//! Throughput and added latency of the whole path: caller, instance, queue, MID Server, API and back.

use std::time::Duration;

use midward_demo::stack::Programs;

use crate::load::{Measured, Target, closed_loop, fixed_rate};
use crate::report::Figure;
use crate::stack::Bench;
use crate::usage::cpu_time;

const CALLERS: usize = 64;
const ROUNDS: usize = 3;

pub(crate) async fn measure(programs: &Programs) -> anyhow::Result<Vec<Figure>> {
    let bench = Bench::start(programs).await?;
    let (through, direct) = (bench.through()?, bench.direct()?);
    closed_loop(&through, CALLERS, Duration::from_secs(2)).await?;

    let pids: Vec<u32> = [&bench.stack.instance, &bench.stack.mid]
        .into_iter()
        .flatten()
        .filter_map(midward_demo::process::Daemon::pid)
        .collect();
    let (mut rates, mut direct_rates, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = total(&pids)?;
        let measured = closed_loop(&through, CALLERS, Duration::from_secs(5)).await?;
        cpu.push(per_100_000(total(&pids)?.saturating_sub(before), &measured));
        rates.push(measured.per_second());
        direct_rates.push(closed_loop(&direct, CALLERS, Duration::from_secs(2)).await?.per_second());
        let (added50, added99) = added(&through, &direct).await?;
        p50.push(added50);
        p99.push(added99);
    }
    Ok(vec![
        Figure::higher("end-to-end requests, 64 callers", "1/s", median(rates), 3000.0)
            .beside("direct", median(direct_rates)),
        Figure::lower("added latency at 100/s, p50", "ms", median(p50), 2.0),
        Figure::lower("added latency at 100/s, p99", "ms", median(p99), 10.0),
        Figure::lower("CPU of instance and MID per 100,000", "s", median(cpu), 66.7),
    ])
}

/// What the path adds to a direct call at 100 requests a second, in milliseconds: at the median and at p99.
async fn added(through: &Target, direct: &Target) -> anyhow::Result<(f64, f64)> {
    let span = Duration::from_secs(5);
    let plain = fixed_rate(direct, 100, span).await?;
    let long = fixed_rate(through, 100, span).await?;
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
