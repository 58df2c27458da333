//! Requests of connections that keep metadata only, of which an answer was stored because its caller waited at another
//! replica: it is removed once that caller has it, or after a while.

use sqlx::{Any, Row as _, Transaction};

use super::{StoreError, pieces};

type Tx = Transaction<'static, Any>;

/// Identifier and outcome of finished requests that still hold an answer and ended before `before`.
pub(crate) async fn late(tx: &mut Tx, before: i64, limit: i64) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT id, outcome FROM requests WHERE keep = 2 AND finished_at IS NOT NULL AND finished_at < $1 \
               ORDER BY finished_at LIMIT $2";
    let rows = sqlx::query(sql).bind(before).bind(limit).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Puts `outcome` in place of the answer, if the request still holds one.
pub(crate) async fn reduce(tx: &mut Tx, id: &str, outcome: &str) -> Result<(), StoreError> {
    let sql =
        "UPDATE requests SET outcome = $1, keep = 3, size = 0 WHERE id = $2 AND keep = 2 AND finished_at IS NOT NULL";
    let done = sqlx::query(sql).bind(outcome).bind(id).execute(&mut **tx).await?;
    if done.rows_affected() > 0 {
        pieces::forget_reduced(tx, &[id.to_owned()]).await?;
    }
    Ok(())
}
