//! The end of what a request is good for, looked at when nothing stands between it and the wire any more.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Clock};

use crate::SendErrorKind;

tokio::task_local! {
    /// Of the request that a connection is made for.
    static CURRENT: NotAfter;
}

/// Nothing of a request is written from this time on. By the boot clock: a deadline by the runtime's timers does not
/// count the time that the machine is suspended, and a connection may be made right after.
#[derive(Clone)]
pub struct NotAfter {
    pub clock: Arc<dyn Clock>,
    pub at: BootTime,
}

impl NotAfter {
    pub(crate) fn is_over(&self) -> bool {
        self.clock.boot() >= self.at
    }

    pub(crate) fn left(&self) -> Duration {
        self.at.saturating_since(self.clock.boot())
    }

    /// Connections that `exchange` makes are looked at by [`check`].
    pub(crate) async fn over<F: Future>(self, exchange: F) -> F::Output {
        CURRENT.scope(self, exchange).await
    }
}

impl fmt::Debug for NotAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotAfter").field(&self.at).finish()
    }
}

/// The connection is there; so late that its request must not be written?
pub(crate) fn check() -> Result<(), SendErrorKind> {
    // Absent: the request has no end, or another connection took it and this one is for those to come.
    match CURRENT.try_with(NotAfter::is_over) {
        Ok(true) => Err(SendErrorKind::Timeout),
        Ok(false) | Err(_) => Ok(()),
    }
}
