//! Leases as MIDs are told of them.

use std::sync::Arc;
use std::time::Duration;

use midward_core::Failure;
use midward_wire::Outcome;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Report;
use crate::app::App;
use crate::at_rest::{Part, Unreadable};
use crate::store::leases::{Call, Leased};
use crate::store::requests::FAILED;
use crate::store::{StoreError, outcomes::Finish, to_json};

/// A lease that is committed. Its call is read by the one who answers the MID, so that the queue waits for no body.
#[derive(Debug)]
pub(crate) struct Granted {
    id: String,
    epoch: i64,
    lease_ms: u64,
    expires_ms: u64,
    config: String,
    call: Call,
}

#[cfg(any(test, feature = "bench"))]
impl Granted {
    /// Request and epoch.
    pub(crate) fn of(&self) -> (&str, i64) {
        (&self.id, self.epoch)
    }
}

/// A [`midward_wire::LeaseGrant`], with the call's JSON as it was submitted.
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
pub(super) fn granted(lease: Leased, now: i64, waited: Duration) -> Granted {
    let waited = u64::try_from(waited.as_millis()).unwrap_or(0);
    let left = |until: i64| u64::try_from(until.saturating_sub(now)).unwrap_or(0).saturating_add(waited);
    Granted {
        epoch: lease.epoch,
        lease_ms: left(lease.lease_expires_at),
        expires_ms: left(lease.expires_at),
        id: lease.id,
        config: lease.config_digest,
        call: lease.call,
    }
}

/// The leases for a MID. Requests that cannot be read end here, as the MID would end them: nothing of them is sent.
pub(crate) async fn texts(app: &App, mid_id: &str, granted: Vec<Granted>) -> Result<Vec<Box<RawValue>>, StoreError> {
    let mut texts = Vec::with_capacity(granted.len());
    let mut unreadable = Vec::new();
    for lease in granted {
        let call = match &lease.call {
            Call::Plain(call) => Ok(Arc::clone(call)),
            Call::Stored(column) => {
                let read = app.at_rest.text(app.store.readers(), &lease.id, Part::Call, column.clone());
                read.await?.map(Arc::new)
            }
        };
        match call.and_then(|call| text(&lease, &call)) {
            Ok(text) => texts.push(text),
            Err(why) => unreadable.push(report(app, lease, why.failure())?),
        }
    }
    if !unreadable.is_empty() {
        app.queue.outcomes(mid_id.to_owned(), unreadable).await?;
    }
    Ok(texts)
}

fn text(lease: &Granted, call: &str) -> Result<Box<RawValue>, Unreadable> {
    let call = serde_json::from_str::<&RawValue>(call);
    let text = call.and_then(|call| {
        serde_json::value::to_raw_value(&GrantText {
            request_id: &lease.id,
            epoch: lease.epoch,
            lease_ms: lease.lease_ms,
            expires_ms: lease.expires_ms,
            config: &lease.config,
            call,
        })
    });
    text.map_err(|_| Unreadable::Damaged)
}

fn report(app: &App, lease: Granted, failure: Failure) -> Result<Report, StoreError> {
    tracing::error!(request = lease.id, code = failure.code, "a request cannot be given to a MID");
    let outcome = Outcome::Failed { failure };
    let text = Arc::new(to_json(&outcome)?);
    let finish = Finish {
        kept: app.at_rest.keep(&lease.id, Part::Outcome(lease.epoch), &text)?,
        id: lease.id,
        epoch: lease.epoch,
        state: FAILED,
        outcome: text,
        reduced: None,
        trace: "[]".to_owned(),
    };
    Ok(Report { finish, outcome: Arc::new(outcome) })
}
