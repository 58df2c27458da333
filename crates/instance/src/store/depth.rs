//! How much waits, for the metrics.

use sqlx::{Any, Executor, Row as _};

use super::StoreError;
use crate::metrics::Depth;

/// `now` in unix milliseconds, by the database's clock.
pub(crate) async fn depth<'e>(db: impl Executor<'e, Database = Any>, now: i64) -> Result<Depth, StoreError> {
    // Each part is answered by an index of unfinished requests only.
    let sql = "SELECT (SELECT COUNT(*) FROM requests WHERE state = 0), (SELECT COUNT(*) FROM requests WHERE state = 1), \
               (SELECT MIN(created_at) FROM requests WHERE state = 0)";
    let row = sqlx::query(sql).fetch_one(db).await?;
    let oldest: Option<i64> = row.try_get(2)?;
    let oldest_ms = oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
    Ok(Depth { queued: row.try_get(0)?, leased: row.try_get(1)?, oldest_ms })
}
