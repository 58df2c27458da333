//! Exponential back-off with full jitter on its upper half.

use std::time::Duration;

use crate::Random;

/// Doubles from `initial` to `max`; each wait is drawn from the upper half of the current step, so that many clients
/// that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, failures: 0 }
    }

    /// Records a failure and tells how long to wait before the next attempt.
    pub fn next_wait(&mut self, random: &dyn Random) -> Duration {
        let step = self.initial.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + random.next_unit() / 2.0)
    }

    /// Forgets all failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn waits_double_stay_jittered_and_are_bounded() {
        let random = SeededRandom::new(9);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for failure in 0..100_u32 {
            let step =
                Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(failure)).min(Duration::from_secs(5));
            let wait = backoff.next_wait(&random);
            assert!(wait >= step / 2 && wait <= step, "failure {failure}: {wait:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait(&random) <= Duration::from_millis(100));
    }
}
