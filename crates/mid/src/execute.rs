//! One leased request, and whoever executes it.

use std::fmt::Debug;
use std::time::Duration;

use midward_core::{BootTime, Trace};
use midward_resolvers::BoxFuture;
use midward_wire::{ConfigDigest, LeaseGrant, Outcome};

/// A request that this MID holds until a time.
#[derive(Debug)]
pub(crate) struct Leased {
    pub grant: LeaseGrant,
    /// When the poll that brought it was sent: lease and expiry count from here.
    pub asked_at: BootTime,
}

impl Leased {
    /// Another MID may have the request from here on.
    pub(crate) fn lease_ends(&self) -> BootTime {
        self.asked_at + Duration::from_millis(self.grant.lease_ms)
    }

    /// Nobody waits for the answer from here on.
    pub(crate) fn expires(&self) -> BootTime {
        self.asked_at + Duration::from_millis(self.grant.expires_ms)
    }

    pub(crate) fn config(&self) -> &ConfigDigest {
        &self.grant.config
    }
}

/// Runs requests side by side. Every path ends in an outcome.
pub(crate) trait Execute: Debug + Send + Sync + 'static {
    fn execute(&self, leased: Leased) -> BoxFuture<'_, (Outcome, Trace)>;

    /// Drops every token: this MID was invalidated.
    fn wipe(&self);

    /// Drops every token and takes it back at its server, within `limit`: this MID ends.
    fn revoke_all(&self, _limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
