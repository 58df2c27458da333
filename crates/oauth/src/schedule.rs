//! One queue of times for all entries. What nobody uses is not in it, so idle entries cost nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use midward_core::{BootTime, Clock};
use tokio::sync::Notify;

use crate::entry::Entry;
use crate::sync::{self, Mutex, MutexGuard};

/// Timers of the runtime do not count the time that the machine is suspended, so no sleep is longer than this.
const SLICE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Schedule {
    queue: Mutex<BinaryHeap<Reverse<Alarm>>>,
    changed: Notify,
}

struct Alarm {
    at: BootTime,
    entry: Weak<Entry>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Schedule {
    pub(crate) fn wake(&self, entry: &Arc<Entry>, at: BootTime) {
        let first = {
            let mut queue = self.lock();
            queue.push(Reverse(Alarm { at, entry: Arc::downgrade(entry) }));
            queue.peek().is_some_and(|Reverse(first)| first.at == at)
        };
        if first {
            self.changed.notify_one();
        }
    }

    /// Lets [`run`] look whether the cache is still there.
    pub(crate) fn nudge(&self) {
        self.changed.notify_one();
    }

    fn due(&self, now: BootTime) -> Option<(BootTime, Weak<Entry>)> {
        let mut queue = self.lock();
        if queue.peek()?.0.at > now {
            return None;
        }
        queue.pop().map(|Reverse(alarm)| (alarm.at, alarm.entry))
    }

    fn next(&self) -> Option<BootTime> {
        self.lock().peek().map(|Reverse(alarm)| alarm.at)
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Alarm>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rings the alarms until the cache, whose life is `alive`, is gone.
pub(crate) async fn run(schedule: Arc<Schedule>, clock: Arc<dyn Clock>, alive: Weak<()>) {
    while alive.strong_count() > 0 {
        let now = clock.boot();
        while let Some((at, entry)) = schedule.due(now) {
            if let Some(entry) = entry.upgrade() {
                entry.alarm(at, now);
            }
        }
        let wait = schedule.next().map_or(SLICE, |next| next.saturating_since(now).min(SLICE));
        tokio::select! {
            biased;
            () = schedule.changed.notified() => {}
            () = sync::sleep(wait) => {}
        }
    }
}
