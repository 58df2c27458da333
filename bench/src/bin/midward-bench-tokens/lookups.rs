//! Warm lookups: through a handle and by key, with one profile and with many.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Clock, Random, SeededRandom, SystemClock};
use midward_oauth::{TokenCache, TokenCacheConfig, TokenHandle};

use crate::profiles::{handles, runtime};
use crate::report::Figure;

const ACCESSES: usize = 1_000_000;
/// The best of these counts: what others do on the machine only adds.
const ROUNDS: usize = 7;
const COUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const GOAL: f64 = 100.0;

/// One line of the plot: nanoseconds by number of profiles.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(usize, f64)>,
}

pub(crate) fn measure() -> anyhow::Result<(Vec<Figure>, Vec<Series>)> {
    let names = ["through a handle, uniform", "through a handle, Zipf", "by key, uniform"];
    let mut series = names.map(|name| Series { name, points: Vec::new() });
    let mut figures = Vec::new();
    for count in COUNTS {
        let [uniform, zipf, by_key] = with(count, &mut figures)?;
        for (line, nanos) in series.iter_mut().zip([uniform, zipf, by_key]) {
            line.points.push((count, nanos));
        }
        if count == 1 || count == 100_000 {
            let name = |how| format!("warm lookup, {count} profiles, {how}");
            figures.push(Figure::lower(&name("uniform"), "ns", uniform, GOAL).beside("by key", by_key));
            figures.push(Figure::lower(&name("Zipf"), "ns", zipf, GOAL));
        }
    }
    Ok((figures, Vec::from(series)))
}

fn with(count: usize, figures: &mut Vec<Figure>) -> anyhow::Result<[f64; 3]> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let random = Arc::new(SeededRandom::new(1));
        let cache = TokenCache::new(Arc::new(SystemClock), random.clone(), TokenCacheConfig::default());
        let handles = handles(&cache, count, 1).await?;
        let uniform: Vec<usize> = (0..ACCESSES).map(|_| scaled(random.next_unit(), count)).collect();
        let zipf = zipf(&*random, count);
        let keys: Vec<_> = handles.iter().map(|handle| handle.key().clone()).collect();
        let mut best = [f64::INFINITY; 3];
        let mut awaited = f64::INFINITY;
        // In turn, so that a busy moment of the machine does not hit one of them alone.
        for _ in 0..ROUNDS {
            let cached = |handle: &TokenHandle| handle.cached().is_some();
            best[0] = best[0].min(time(&uniform, &handles, cached));
            best[1] = best[1].min(time(&zipf, &handles, cached));
            let by_key = |key: &_| cache.find(key).is_some_and(|handle| handle.cached().is_some());
            best[2] = best[2].min(time(&uniform[..ACCESSES / 10], &keys, by_key));
            awaited = awaited.min(through(&uniform, &handles).await?);
        }
        if count == 1 {
            figures.push(Figure::lower("token().await, 1 profile, warm", "ns", awaited, GOAL));
            figures.push(Figure::lower("the same token by two threads, each lookup", "ns", threads(&handles[0]), GOAL));
        }
        Ok(best)
    })
}

/// Nanoseconds per access.
fn time<T>(order: &[usize], items: &[T], access: impl Fn(&T) -> bool) -> f64 {
    let began = SystemClock.boot();
    for &index in order {
        assert!(black_box(access(&items[index])));
    }
    per_access(began, order.len())
}

async fn through(order: &[usize], handles: &[TokenHandle]) -> anyhow::Result<f64> {
    let began = SystemClock.boot();
    for &index in order {
        black_box(handles[index].token(Duration::from_secs(1)).await?);
    }
    Ok(per_access(began, order.len()))
}

fn threads(handle: &TokenHandle) -> f64 {
    let order = vec![0; ACCESSES];
    let lookups = || time(&order, std::slice::from_ref(handle), |handle| handle.cached().is_some());
    let round = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(lookups);
            lookups().max(other.join().unwrap_or(f64::INFINITY))
        })
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn per_access(began: BootTime, accesses: usize) -> f64 {
    SystemClock.boot().saturating_since(began).as_secs_f64() * 1e9 / accesses as f64
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below a small count"
)]
fn scaled(unit: f64, count: usize) -> usize {
    (unit * count as f64) as usize
}

/// Indexes, each met in proportion to 1 / (rank + 1). The ranks are spread over the handles, so that the favourites do
/// not lie side by side.
fn zipf(random: &dyn Random, count: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
            sum
        })
        .collect();
    (0..ACCESSES)
        .map(|_| {
            let wanted = random.next_unit() * sum;
            let rank = sums.partition_point(|&sum| sum <= wanted).min(count - 1);
            rank.wrapping_mul(7_919) % count
        })
        .collect()
}
