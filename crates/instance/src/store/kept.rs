//! How much finished requests take.

use sqlx::{Any, AnyPool, AssertSqlSafe, Row as _, Transaction};

use super::StoreError;

type Tx = Transaction<'static, Any>;

/// When the oldest of them ended, in unix milliseconds.
pub(crate) async fn oldest(db: &AnyPool) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT MIN(finished_at) FROM requests WHERE finished_at IS NOT NULL";
    Ok(sqlx::query(sql).fetch_one(db).await?.try_get(0)?)
}

/// Their bytes, of those that ended from `from` until before `until`, by time divided by `slot`.
pub(crate) async fn by_slot(db: &AnyPool, from: i64, until: i64, slot: i64) -> Result<Vec<(i64, i64)>, StoreError> {
    // Times are never negative, so that both databases divide alike.
    let sql = format!(
        "SELECT finished_at / {slot}, CAST(SUM(size) AS BIGINT) FROM requests WHERE finished_at >= $1 \
         AND finished_at < $2 AND finished_at IS NOT NULL GROUP BY finished_at / {slot}"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(from).bind(until).fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Removes up to `limit` requests that ended before `before`, with their pieces. Returns how many.
pub(crate) async fn remove_finished(tx: &mut Tx, before: i64, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE finished_at < $1 AND finished_at IS NOT NULL \
         ORDER BY finished_at LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}
