//! Which keys the database was written with, so that a forgotten one is noticed at the start and not by a failed call.

use sqlx::{Any, Transaction};

use super::{AtRest, EncryptionError};
use crate::store::{StoreError, encryption_keys};

impl AtRest {
    /// Names of keys that something was written with since `since`, and that are neither configured nor given up.
    pub(crate) async fn missing(
        &self,
        tx: &mut Transaction<'static, Any>,
        since: i64,
    ) -> Result<Vec<String>, StoreError> {
        let mut known = encryption_keys::all(tx).await?;
        known.retain(|(id, used)| *used > since && self.key(id).is_none() && !self.lost.contains(id));
        Ok(known.into_iter().map(|(id, _)| id).collect())
    }
}

/// Notes that the current key is in use, and forgets those of which nothing is left: not written with since `since`.
///
/// # Errors
/// Something is left that was written with a key which is not configured.
pub(crate) async fn remember_keys(
    tx: &mut Transaction<'static, Any>,
    at_rest: &AtRest,
    now: i64,
    since: i64,
) -> Result<Result<(), EncryptionError>, StoreError> {
    let missing = at_rest.missing(tx, since).await?;
    if !missing.is_empty() {
        return Ok(Err(EncryptionError::Missing(missing.join(", "))));
    }
    encryption_keys::forget(tx, since).await?;
    if let Some(id) = at_rest.current() {
        encryption_keys::used(tx, id, now).await?;
    }
    Ok(Ok(()))
}
