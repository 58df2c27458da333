//! How many look-ups begin in a second: the generic cell rate algorithm (ITU-T I.371), as turns that are given out.

use std::time::Duration;

use midward_core::BootTime;

/// Gives out times to begin at.
#[derive(Debug)]
pub(super) struct Pace {
    spacing: Duration,
    /// How far a time may lie before its own in the long run.
    tolerance: Duration,
    next: BootTime,
}

impl Pace {
    pub(super) fn new(spacing: Duration, burst: u32) -> Self {
        Self { spacing, tolerance: spacing.saturating_mul(burst.saturating_sub(1)), next: BootTime::default() }
    }

    /// How long to wait before beginning. `None`, and nothing is given out, when that is longer than `patience`.
    pub(super) fn turn(&mut self, now: BootTime, patience: Duration) -> Option<Duration> {
        let begin = self.next.saturating_sub(self.tolerance).max(now);
        let wait = begin.saturating_since(now);
        if wait > patience {
            return None;
        }
        self.next = self.next.max(begin) + self.spacing;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn at(millis: u64) -> BootTime {
        BootTime::from_duration(Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut pace = Pace::new(Duration::from_millis(100), 3);
        let waits: Vec<_> = (0..6).filter_map(|_| pace.turn(at(5000), PATIENCE)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300]);
    }

    #[test]
    fn a_rest_saves_up_a_burst_and_no_more() {
        let mut pace = Pace::new(Duration::from_millis(100), 2);
        for _ in 0..10 {
            assert!(pace.turn(at(0), PATIENCE).is_some());
        }
        let waits: Vec<_> = (0..3).filter_map(|_| pace.turn(at(60_000), PATIENCE)).map(|w| w.as_millis()).collect();
        assert_eq!(waits, [0, 0, 100]);
    }

    #[test]
    fn who_cannot_wait_takes_no_turn() {
        let mut pace = Pace::new(Duration::from_secs(10), 1);
        assert_eq!(pace.turn(at(0), Duration::ZERO), Some(Duration::ZERO));
        for _ in 0..100 {
            assert_eq!(pace.turn(at(0), Duration::from_secs(9)), None);
        }
        assert_eq!(pace.turn(at(0), PATIENCE), Some(Duration::from_secs(10)));
    }
}
