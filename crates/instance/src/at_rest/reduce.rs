//! Outcomes without bodies and headers, for connections that keep metadata only.

use midward_wire::{ApiReply, Bytes64, Outcome};

use super::AtRest;
use crate::store::{Store, StoreError, reduce, to_json};

/// What is stored in place of an outcome; None: it is nothing but metadata already.
pub(crate) fn reduced(outcome: &Outcome) -> Result<Option<String>, StoreError> {
    let Outcome::Replied { reply } = outcome else { return Ok(None) };
    let reply = ApiReply { status: reply.status, headers: Vec::new(), body: Bytes64::default() };
    to_json(&Outcome::Replied { reply }).map(Some)
}

/// Removes answers that callers have, or that nobody fetched.
pub(crate) async fn reduce_delivered(
    store: &Store,
    at_rest: &AtRest,
    outcomes: Vec<(String, String)>,
) -> Result<(), StoreError> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    for (id, column) in outcomes {
        let outcome = at_rest.outcome(&mut *tx, &id, column).await?;
        let outcome = outcome.unwrap_or_else(|why| Outcome::Unknown { failure: why.failure() });
        let text = match reduced(&outcome)? {
            Some(text) => text,
            None => to_json(&outcome)?,
        };
        reduce::reduce(&mut tx, &id, &text).await?;
    }
    Ok(tx.commit().await?)
}
