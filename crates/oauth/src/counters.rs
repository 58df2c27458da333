//! Counts since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Codes that are told apart; what comes beyond counts as `other`, so that no vault or server can make the list long.
const MOST_CODES: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Spread,
    pub(crate) fetches: AtomicU64,
    pub(crate) mints: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) rejections: AtomicU64,
    results: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// A fetch failed with this code of ours.
    pub(crate) fn failed(&self, code: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = results.get_mut(code) {
            *count += 1;
            return;
        }
        let name = if results.len() < MOST_CODES { code } else { "other" };
        *results.entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn failures_by_code(&self) -> BTreeMap<String, u64> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A count that many threads add to, each on a cache line that no other thread writes.
#[derive(Debug, Default)]
pub(crate) struct Spread([Line; 16]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

static NEXT_LINE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LINE: usize = NEXT_LINE.fetch_add(1, Ordering::Relaxed) % 16;
}

impl Spread {
    #[inline]
    pub(crate) fn add(&self) {
        // A thread that ends loses its number before its last destructors have run.
        let line = LINE.try_with(|line| *line).unwrap_or(0);
        self.0[line % 16].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|line| line.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_beyond_the_limit_are_counted_together() {
        let counters = Counters::default();
        for number in 0..200 {
            counters.failed(&format!("code-{number}"));
        }
        counters.failed("code-0");
        let by_code = counters.failures_by_code();
        assert_eq!(by_code.len(), MOST_CODES + 1);
        assert_eq!((by_code["code-0"], by_code["other"]), (2, 136));
        assert_eq!(counters.failures.load(Ordering::Relaxed), 201);
    }

    #[test]
    fn threads_lose_no_count() {
        let spread = Spread::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| spread.add()));
            }
        });
        assert_eq!(spread.sum(), 20_000);
    }
}
