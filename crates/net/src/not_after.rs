//! The end of what a request is good for, looked at when nothing stands between it and the wire any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{BootTime, Clock};

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
}

impl fmt::Debug for NotAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotAfter").field(&self.at).finish()
    }
}
