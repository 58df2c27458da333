//! What a warm lookup touches: 32 bytes at the head of an entry. A handle is one pointer to them, the entries lie side
//! by side, and nothing is written, so that lookups of one token by many threads do not wait for each other's caches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use midward_core::{BootTime, WallLead};

use crate::entry::Shared;
use crate::granted::Held;
use crate::sync::{AtomicU64, Loaded, Slot};

/// How often a lookup compares the wall clock with the boot clock and notes the time of use, in nanoseconds.
const STAMP_EVERY: u64 = 1_000_000_000;

/// All times are nanoseconds of the boot clock.
#[derive(Default)]
pub(crate) struct Hot {
    /// No use without the life cycle's leave from here on; zero when there is no token. Never later than the end of
    /// the token beside it: see [`Hot::publish`].
    quiet_until: AtomicU64,
    held: Slot<Held>,
    /// When it was last used, at most a second ago more than this says.
    last_used: AtomicU64,
}

impl Hot {
    /// The token if it may be used without asking the life cycle.
    #[inline]
    pub(crate) fn cached(&self, shared: &Shared) -> Option<Loaded<Held>> {
        // The order is what makes this right: see `publish`.
        let boot = shared.clock.boot();
        let now = boot.as_nanos();
        if now >= self.quiet_until.load(Ordering::Acquire) {
            return None;
        }
        let held = self.held.load();
        if held.is_none() {
            return None;
        }
        if now.saturating_sub(self.last_used.load(Ordering::Relaxed)) >= STAMP_EVERY {
            let lead = (*held).as_ref()?.lead;
            if WallLead::of(boot, shared.clock.wall()).jumped_since(lead, &shared.rules) {
                return None;
            }
            self.last_used.store(now, Ordering::Relaxed);
        }
        shared.counters.hits.add();
        Some(held)
    }

    /// Makes `held` what lookups find until `quiet_until`. One writer at a time.
    ///
    /// A lookup reads the clock, then the time, then the token, and none of them together. The time is lowered before
    /// and raised after the token is changed. So a lookup that finds a token of this change has seen either a time
    /// that holds for it, or one from before the change; then its clock is older than the change too, at which the
    /// token was alive.
    pub(crate) fn publish(&self, held: Option<(Arc<Held>, BootTime)>) {
        let (held, until) = match held {
            Some((held, until)) => {
                let until = until.min(held.expires).as_nanos();
                (Some(held), until)
            }
            None => (None, 0),
        };
        self.quiet_until.fetch_min(until, Ordering::AcqRel);
        self.held.store(held);
        self.quiet_until.store(until, Ordering::Release);
    }

    pub(crate) fn used(&self, now: BootTime) {
        self.last_used.store(now.as_nanos(), Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> BootTime {
        BootTime::from_nanos(self.last_used.load(Ordering::Relaxed))
    }
}
