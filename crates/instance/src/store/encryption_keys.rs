//! Names of the keys that rows were encrypted with, and when the last time.

use sqlx::{Any, Row as _, Transaction};

use super::StoreError;

type Tx = Transaction<'static, Any>;

pub(crate) async fn all(tx: &mut Tx) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = sqlx::query("SELECT id, used_at FROM encryption_keys ORDER BY id").fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

pub(crate) async fn used(tx: &mut Tx, id: &str, now: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO encryption_keys (id, used_at) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET \
               used_at = excluded.used_at";
    sqlx::query(sql).bind(id).bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// Those that were not used since.
pub(crate) async fn forget(tx: &mut Tx, since: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM encryption_keys WHERE used_at <= $1").bind(since).execute(&mut **tx).await?;
    Ok(())
}
