//! How many calls may run, and how many do.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts running calls against the configured most.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    max: u32,
    free: Arc<Semaphore>,
}

impl Capacity {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, free: Arc::new(Semaphore::new(max as usize)) }
    }

    pub(crate) const fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn free(&self) -> u32 {
        u32::try_from(self.free.available_permits()).unwrap_or(self.max)
    }

    pub(crate) fn running(&self) -> u32 {
        self.max.saturating_sub(self.free())
    }

    /// Waits until at least one call may start.
    pub(crate) async fn wait_for_room(&self) {
        // The semaphore is never closed, so an error cannot come; the permit goes back at once.
        let _ = self.free.acquire().await;
    }

    /// A place for one call; `None` when the instance gave more than was asked for.
    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }
}
