//! What a warm lookup touches: one cache line per entry, side by side with the others', so that 100,000 of them are
//! 6 MiB and a lookup costs one miss at most. Nothing else of the entry or of the token is read, and no reference
//! count is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use midward_core::{BootTime, WallLead};

use crate::entry::{Held, Shared, nanos};

/// Lines in one allocation: 64 KiB.
const CHUNK: usize = 1024;

/// How often a lookup compares the wall clock with the boot clock and notes the time of use, in nanoseconds.
const STAMP_EVERY: u64 = 1_000_000_000;

/// One line. All times are nanoseconds of the boot clock.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Hot {
    /// No use without the life cycle's leave from here on; zero when there is no token. Never later than the end of
    /// the token beside it: see [`Hot::publish`].
    quiet_until: AtomicU64,
    held: ArcSwapOption<Held>,
    /// When it was last used, at most a second ago more than this says.
    last_used: AtomicU64,
    hits: AtomicU64,
}

impl Hot {
    /// The token if it may be used without asking the life cycle.
    pub(crate) fn cached(&self, shared: &Shared) -> Option<Guard<Option<Arc<Held>>>> {
        // The order is what makes this right: see `publish`.
        let boot = shared.clock.boot();
        let now = nanos(boot);
        if now >= self.quiet_until.load(Ordering::Acquire) {
            return None;
        }
        let held = self.held.load();
        if held.is_none() {
            return None;
        }
        if now.saturating_sub(self.last_used.load(Ordering::Relaxed)) >= STAMP_EVERY {
            let lead = held.as_ref()?.lead;
            if WallLead::of(boot, shared.clock.wall()).jumped_since(lead, &shared.rules) {
                return None;
            }
            self.last_used.store(now, Ordering::Relaxed);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
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
                let until = nanos(until.min(held.expires));
                (Some(held), until)
            }
            None => (None, 0),
        };
        self.quiet_until.fetch_min(until, Ordering::AcqRel);
        self.held.store(held);
        self.quiet_until.store(until, Ordering::Release);
    }

    pub(crate) fn used(&self, now: BootTime) {
        self.last_used.store(nanos(now), Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> BootTime {
        BootTime::from_duration(std::time::Duration::from_nanos(self.last_used.load(Ordering::Relaxed)))
    }

    pub(crate) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

type Chunk = [Hot; CHUNK];

/// The place of one line.
#[derive(Clone)]
pub(crate) struct HotRef {
    chunk: Arc<Chunk>,
    index: usize,
}

impl std::ops::Deref for HotRef {
    type Target = Hot;

    fn deref(&self) -> &Hot {
        &self.chunk[self.index % CHUNK]
    }
}

/// The lines that no entry has.
#[derive(Default)]
pub(crate) struct FreeLines(Mutex<Vec<HotRef>>);

impl FreeLines {
    /// A line without a token.
    pub(crate) fn take(&self) -> HotRef {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = free.pop() {
            return line;
        }
        let chunk: Arc<Chunk> = Arc::new(std::array::from_fn(|_| Hot::default()));
        free.extend((1..CHUNK).rev().map(|index| HotRef { chunk: Arc::clone(&chunk), index }));
        HotRef { chunk, index: 0 }
    }

    /// Takes a line back from an entry to which no handle leads any more.
    pub(crate) fn give_back(&self, line: HotRef) {
        line.publish(None);
        line.hits.store(0, Ordering::Relaxed);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
