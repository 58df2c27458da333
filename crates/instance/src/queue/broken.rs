//! The disk under an embedded database failed. After a failed write or fsync nobody knows what is on it, so nothing more
//! is acknowledged until the instance was started anew and has read what is there.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::store::StoreError;

/// Said once, and for good.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    error: OnceLock<StoreError>,
    said: CancellationToken,
}

impl Broken {
    /// True the first time.
    pub(super) fn say(&self, error: &StoreError) -> bool {
        let is_first = self.error.set(error.clone()).is_ok();
        self.said.cancel();
        is_first
    }

    pub(crate) fn error(&self) -> Option<&StoreError> {
        self.error.get()
    }

    /// Ends when the disk has failed.
    pub(crate) async fn said(&self) {
        self.said.cancelled().await;
    }
}
