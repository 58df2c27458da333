//! Which keys the database was written with, so that a forgotten one is noticed at the start and not by a failed call.

use sqlx::{Any, Transaction};

use super::{AtRest, EncryptionError};
use crate::store::{StoreError, encryption_keys};

impl AtRest {
    /// Keys that were written with since `since` and that are neither configured nor given up.
    fn missing<'a>(&self, known: &'a [(String, i64)], since: i64, lost: &[String]) -> Vec<&'a str> {
        let ids = known.iter().filter(|(_, used)| *used > since).map(|(id, _)| id.as_str());
        ids.filter(|id| self.key(id).is_none() && !lost.iter().any(|lost| lost == id)).collect()
    }
}

/// Notes that the current key is in use, and forgets those of which nothing is left: not written with since `since`.
///
/// # Errors
/// Something is left that was written with a key which is not configured.
pub(crate) async fn remember_keys(
    tx: &mut Transaction<'static, Any>,
    at_rest: &AtRest,
    lost: &[String],
    now: i64,
    since: i64,
) -> Result<Result<(), EncryptionError>, StoreError> {
    let known = encryption_keys::all(tx).await?;
    let missing = at_rest.missing(&known, since, lost);
    if !missing.is_empty() {
        return Ok(Err(EncryptionError::Missing(missing.join(", "))));
    }
    encryption_keys::forget(tx, since).await?;
    if let Some(id) = at_rest.current() {
        encryption_keys::used(tx, id, now).await?;
    }
    Ok(Ok(()))
}
