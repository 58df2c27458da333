//! Time as a parameter.
//!
//! [`BootTime`] counts the time a machine was suspended (`CLOCK_BOOTTIME`) and never jumps: token expiry, leases and
//! back-off use it. [`WallTime`] is needed for certificates, JWT times and records, and for nothing else.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since boot, suspend included. Only differences mean anything. Nanoseconds, enough for 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(u64);

impl BootTime {
    pub const fn from_duration(since_boot: Duration) -> Self {
        Self(nanos(since_boot))
    }

    pub const fn as_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    pub const fn from_nanos(since_boot: u64) -> Self {
        Self(since_boot)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

const fn nanos(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1_000_000_000).saturating_add(span.subsec_nanos() as u64)
}

/// Unix time in milliseconds, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(i64);

impl WallTime {
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl std::ops::Add<Duration> for WallTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// The source of time. Everything that asks what time it is takes one.
pub trait Clock: Send + Sync + 'static {
    fn boot(&self) -> BootTime;
    fn wall(&self) -> WallTime;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
    }

    fn wall(&self) -> WallTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        WallTime(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000))
    }
}

/// A clock that moves only when told to. For tests and simulations.
#[derive(Debug)]
pub struct ManualClock(Mutex<(BootTime, WallTime)>);

impl ManualClock {
    pub fn new(boot: BootTime, wall: WallTime) -> Self {
        Self(Mutex::new((boot, wall)))
    }

    /// Moves both clocks forward, as time does.
    pub fn advance(&self, span: Duration) {
        let mut now = self.lock();
        now.0 = now.0 + span;
        now.1 = now.1 + span;
    }

    /// Sets the wall clock alone, as an administrator or a resumed snapshot does.
    pub fn set_wall(&self, wall: WallTime) {
        self.lock().1 = wall;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (BootTime, WallTime)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn boot(&self) -> BootTime {
        self.lock().0
    }

    fn wall(&self) -> WallTime {
        self.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_does_not_follow_the_wall_clock() {
        let clock = ManualClock::new(BootTime::from_duration(Duration::from_secs(5)), WallTime::from_unix_millis(0));
        clock.set_wall(WallTime::from_unix_millis(i64::MAX));
        assert_eq!(clock.boot(), BootTime::from_duration(Duration::from_secs(5)));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.boot().as_duration(), Duration::from_secs(7));
        assert_eq!(clock.wall().unix_millis(), i64::MAX);
    }

    #[test]
    fn the_system_clock_moves_forward() {
        let earlier = SystemClock.boot();
        assert!(SystemClock.boot() >= earlier);
        assert!(SystemClock.wall().unix_seconds() > 1_700_000_000);
    }
}
