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
    /// Looks at what the store said, to whomever: all that may meet a failing disk tell of it here.
    pub(crate) fn see(&self, error: &StoreError) {
        if error.is_disk() && self.error.set(error.clone()).is_ok() {
            tracing::error!(%error, "the disk failed: nothing more is acknowledged");
            self.said.cancel();
        }
    }

    pub(crate) fn error(&self) -> Option<&StoreError> {
        self.error.get()
    }

    /// Ends when the disk has failed.
    pub(crate) async fn said(&self) {
        self.said.cancelled().await;
    }
}
