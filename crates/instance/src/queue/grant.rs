//! Leases as MIDs are told of them.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::leases::Leased;

/// A [`midward_wire::LeaseGrant`], with the call's JSON as it was stored.
#[derive(Serialize)]
struct GrantText<'a> {
    request_id: &'a str,
    epoch: i64,
    lease_ms: u64,
    expires_ms: u64,
    config: &'a str,
    call: &'a RawValue,
}

/// Times are counted from when the MID asked, so the time that the poll waited is added.
pub(super) fn grant(lease: &Leased, now: i64, waited: Duration) -> Option<Box<RawValue>> {
    let waited = u64::try_from(waited.as_millis()).unwrap_or(0);
    let left = |until: i64| u64::try_from(until.saturating_sub(now)).unwrap_or(0).saturating_add(waited);
    let call = serde_json::from_str::<&RawValue>(&lease.call_json);
    let text = call.and_then(|call| {
        serde_json::value::to_raw_value(&GrantText {
            request_id: &lease.id,
            epoch: lease.epoch,
            lease_ms: left(lease.lease_expires_at),
            expires_ms: left(lease.expires_at),
            config: &lease.config_digest,
            call,
        })
    });
    match text {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::error!(request = lease.id, %error, "a stored request is not JSON; it runs into its expiry");
            None
        }
    }
}
