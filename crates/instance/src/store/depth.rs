//! How much waits.

use sqlx::{Any, Executor, Row as _};

use super::StoreError;
use crate::metrics::Depth;

/// For the metrics. `now` in unix milliseconds, by the database's clock.
pub(crate) async fn depth<'e>(db: impl Executor<'e, Database = Any>, now: i64) -> Result<Depth, StoreError> {
    // Each part is answered by an index of unfinished requests only.
    let sql = "SELECT (SELECT COUNT(*) FROM requests WHERE state = 0), (SELECT COUNT(*) FROM requests WHERE state = 1), \
               (SELECT MIN(created_at) FROM requests WHERE state = 0)";
    let row = sqlx::query(sql).fetch_one(db).await?;
    let oldest: Option<i64> = row.try_get(2)?;
    let oldest_ms = oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
    Ok(Depth { queued: row.try_get(0)?, leased: row.try_get(1)?, oldest_ms })
}

const QUEUED: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM requests WHERE state = 0";

/// How many requests are queued, and their bytes as they are stored.
pub(crate) async fn queued<'e>(db: impl Executor<'e, Database = Any>) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query(QUEUED).fetch_one(db).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::super::Store;
    use super::*;
    use crate::config::StoreConfig;

    #[tokio::test]
    async fn what_waits_is_added_up_without_reading_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {QUEUED}"));
        let row = sqlx::query(explain).fetch_one(store.readers()).await.expect("a plan");
        let plan: String = row.try_get(3).expect("text");
        assert!(plan.contains("USING COVERING INDEX requests_queued_expiry"), "{plan}");
        assert_eq!(queued(store.readers()).await.expect("figures"), (0, 0));
        store.close().await;
    }
}
