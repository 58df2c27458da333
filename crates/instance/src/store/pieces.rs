//! Large texts, in pieces beside the rows of their requests. They go with the request.

use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::StoreError;
use super::dialect::Dialect;
use crate::at_rest::Kept;

type Tx = Transaction<'static, Any>;

/// Stores the pieces of a text; nothing when it is in one.
pub(crate) async fn insert(tx: &mut Tx, request: &str, kept: &Kept) -> Result<(), StoreError> {
    let sql = "INSERT INTO request_pieces (request_id, piece_set, number, content) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (request_id, piece_set, number) DO UPDATE SET content = excluded.content";
    for (number, piece) in (0_i64..).zip(kept.pieces.iter()) {
        let query = sqlx::query(sql).bind(request).bind(&kept.set).bind(number).bind(piece.as_slice());
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// The pieces of a set, in order.
pub(crate) async fn read<'e>(
    db: impl Executor<'e, Database = Any>,
    request: &str,
    set: &str,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT content FROM request_pieces WHERE request_id = $1 AND piece_set = $2 ORDER BY number";
    let rows = sqlx::query(sql).bind(request).bind(set).fetch_all(db).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// Removes what earlier attempts left; `set` stays, and the call.
pub(crate) async fn forget_attempts(tx: &mut Tx, request: &str, set: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM request_pieces WHERE request_id = $1 AND piece_set <> $2 AND piece_set <> 'call'";
    sqlx::query(sql).bind(request).bind(set).execute(&mut **tx).await?;
    Ok(())
}

/// Removes all pieces of those of `ids` that are reduced to their metadata.
pub(crate) async fn forget_reduced(tx: &mut Tx, ids: &[String]) -> Result<(), StoreError> {
    // A join could be planned either way round, and PostgreSQL keeps the plan.
    let (before, after) = match Dialect::of(tx) {
        Dialect::Sqlite => ("IN (", ")"),
        Dialect::Postgres => ("= ANY(ARRAY(", "))"),
    };
    for ids in ids.chunks(64) {
        let list: Vec<String> = (1..=ids.len()).map(|number| format!("${number}")).collect();
        let sql = format!(
            "DELETE FROM request_pieces WHERE request_id {before}SELECT id FROM requests WHERE keep = 3 \
             AND id IN ({}){after}",
            list.join(", ")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for id in ids {
            query = query.bind(id);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}
