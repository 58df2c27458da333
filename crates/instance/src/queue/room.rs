//! How much is queued, and whether there is room for more. The database is counted now and then, beside the writer; what
//! this process adds and takes away in between is reckoned in. Another replica's additions are seen with the next count.

use std::ops::{AddAssign, Sub, SubAssign};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::LimitsConfig;
use crate::store::{Store, StoreError, depth};

/// How often is counted, at most.
const EVERY: Duration = Duration::from_millis(500);
/// A count that took long, since much is queued, is followed by a pause of so many times that.
const PAUSE: u32 = 10;

/// Requests, and their bytes as they are stored. Of a change, either may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    requests: i64,
    bytes: i64,
}

impl Amount {
    /// One request of so many bytes.
    pub(crate) const fn one(bytes: i64) -> Self {
        Self { requests: 1, bytes }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_sub(other.requests);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self -= other;
        self
    }
}

/// What may be queued, and what is.
#[derive(Debug)]
pub(crate) struct Room {
    most: Amount,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    counted: Amount,
    /// By how much this process changed it, ever.
    moved: Amount,
    /// The same when the last count began.
    moved_then: Amount,
}

impl Room {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        let of = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
        let most = Amount { requests: of(limits.queued_requests), bytes: of(limits.queued_bytes) };
        Self { most, known: Mutex::default() }
    }

    /// Whether `one` more would be too much, when `besides` is about to be committed.
    pub(crate) fn is_full_for(&self, one: Amount, besides: Amount) -> bool {
        let known = self.known();
        let mut all = known.counted;
        all += known.moved - known.moved_then;
        all += besides;
        all += one;
        all.requests > self.most.requests || all.bytes > self.most.bytes
    }

    /// After a commit.
    pub(super) fn changed(&self, by: Amount) {
        self.known().moved += by;
    }

    /// Counts what is in the database. What is committed meanwhile may be reckoned twice, until the next count.
    pub(crate) async fn count(&self, store: &Store) -> Result<(), StoreError> {
        let moved_then = self.known().moved;
        let (requests, bytes) = depth::queued(store.readers()).await?;
        let mut known = self.known();
        (known.counted, known.moved_then) = (Amount { requests, bytes }, moved_then);
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts until the instance closes.
pub(crate) async fn follow(app: &App, closing: &CancellationToken) {
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closing.cancelled() => return,
        }
        let began = app.clock.boot();
        if let Err(error) = app.room.count(&app.store).await {
            tracing::warn!(%error, "what is queued was not counted");
        }
        pause = EVERY.max(app.clock.boot().saturating_since(began) * PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room::new(&LimitsConfig { queued_requests: 3, queued_bytes: 100, ..LimitsConfig::default() })
    }

    #[test]
    fn either_measure_may_be_full() {
        let (room, none) = (room(), Amount::default());
        assert!(!room.is_full_for(Amount::one(100), none));
        assert!(room.is_full_for(Amount::one(101), none));
        room.changed(Amount { requests: 2, bytes: 60 });
        assert!(!room.is_full_for(Amount::one(40), none) && room.is_full_for(Amount::one(41), none));
        assert!(room.is_full_for(Amount::one(1), Amount::one(1)), "with what is about to be committed");
        room.changed(none - Amount::one(30));
        assert!(!room.is_full_for(Amount::one(1), Amount::one(1)), "a MID has taken one");
    }

    #[tokio::test]
    async fn what_changed_while_it_was_counted_is_not_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = crate::config::StoreConfig { path: folder.path().to_owned(), ..Default::default() };
        let (store, room) = (Store::open(&config).await.expect("a store"), room());
        room.changed(Amount { requests: 3, bytes: 3 });
        assert!(room.is_full_for(Amount::one(1), Amount::default()));
        room.count(&store).await.expect("counted");
        assert!(!room.is_full_for(Amount::one(1), Amount::default()), "the database holds none");
        room.changed(Amount { requests: 3, bytes: 3 });
        assert!(room.is_full_for(Amount::one(1), Amount::default()));
        store.close().await;
    }
}
