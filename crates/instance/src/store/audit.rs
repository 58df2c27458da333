//! Blocks and checkpoints of the audit. They are inserted, read, and removed when they are old: never changed.

use midward_wire::AuditCheckpoint;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::StoreError;

/// A block as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct BlockRow {
    pub(crate) chain: String,
    pub(crate) seq: i64,
    pub(crate) at: i64,
    pub(crate) entries: String,
    pub(crate) hash: String,
}

pub(crate) async fn insert<'e>(db: impl Executor<'e, Database = Any>, block: &BlockRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit_blocks (chain, seq, at, entries, hash) VALUES ($1, $2, $3, $4, $5)")
        .bind(&block.chain)
        .bind(block.seq)
        .bind(block.at)
        .bind(&block.entries)
        .bind(&block.hash)
        .execute(db)
        .await?;
    Ok(())
}

/// Number and hash of a chain's last block; of its last checkpoint, when its blocks are so old that they are gone.
pub(crate) async fn head(tx: &mut Transaction<'static, Any>, chain: &str) -> Result<Option<(i64, String)>, StoreError> {
    for table in ["audit_blocks", "audit_checkpoints"] {
        let sql = format!("SELECT seq, hash FROM {table} WHERE chain = $1 ORDER BY seq DESC LIMIT 1");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(chain).fetch_optional(&mut **tx).await?;
        if let Some(row) = row {
            return Ok(Some((row.try_get(0)?, row.try_get(1)?)));
        }
    }
    Ok(None)
}

/// Chain, number and hash of the last blocks of the newest chains.
pub(crate) async fn heads<'e>(
    db: impl Executor<'e, Database = Any>,
    most: i64,
) -> Result<Vec<(String, i64, String)>, StoreError> {
    let sql = "SELECT b.chain, b.seq, b.hash FROM audit_blocks b JOIN (SELECT chain, MAX(seq) AS last FROM audit_blocks \
               GROUP BY chain ORDER BY chain DESC LIMIT $1) h ON h.chain = b.chain AND h.last = b.seq ORDER BY b.chain";
    let rows = sqlx::query(sql).bind(most).fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

/// Chain, number and hash of the last blocks, older than `before`, that no checkpoint covers: at most `most` of them. One
/// step in an index for each chain, however long they are.
pub(crate) async fn unsigned(
    tx: &mut Transaction<'static, Any>,
    before: i64,
    most: i64,
) -> Result<Vec<(String, i64, String)>, StoreError> {
    let sql = "WITH RECURSIVE chains (chain) AS (SELECT MIN(chain) FROM audit_blocks UNION ALL \
               SELECT (SELECT MIN(chain) FROM audit_blocks WHERE chain > chains.chain) FROM chains \
               WHERE chain IS NOT NULL) SELECT b.chain, b.seq, b.hash FROM chains \
               JOIN audit_blocks b ON b.chain = chains.chain \
               AND b.seq = (SELECT MAX(seq) FROM audit_blocks WHERE chain = chains.chain) WHERE b.at < $1 \
               AND NOT EXISTS (SELECT 1 FROM audit_checkpoints c WHERE c.chain = b.chain AND c.seq >= b.seq) \
               ORDER BY b.chain LIMIT $2";
    let rows = sqlx::query(sql).bind(before).bind(most).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

/// Number and hash of a chain's last checkpoint.
pub(crate) async fn last_signed(
    tx: &mut Transaction<'static, Any>,
    chain: &str,
) -> Result<Option<(i64, String)>, StoreError> {
    let sql = "SELECT seq, hash FROM audit_checkpoints WHERE chain = $1 ORDER BY seq DESC LIMIT 1";
    let row = sqlx::query(sql).bind(chain).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Blocks in order of chain and number, after one of them.
pub(crate) async fn page<'e>(
    db: impl Executor<'e, Database = Any>,
    chain: &str,
    seq: i64,
    limit: i64,
) -> Result<Vec<BlockRow>, StoreError> {
    let sql = "SELECT chain, seq, at, entries, hash FROM audit_blocks WHERE chain > $1 OR (chain = $1 AND seq > $2) \
               ORDER BY chain, seq LIMIT $3";
    let rows = sqlx::query(sql).bind(chain).bind(seq).bind(limit).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            Ok(BlockRow {
                chain: row.try_get(0)?,
                seq: row.try_get(1)?,
                at: row.try_get(2)?,
                entries: row.try_get(3)?,
                hash: row.try_get(4)?,
            })
        })
        .collect()
}

pub(crate) async fn insert_checkpoint<'e>(
    db: impl Executor<'e, Database = Any>,
    checkpoint: &AuditCheckpoint,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_checkpoints (chain, seq, hash, at, key_id, signature) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (chain, seq) DO NOTHING",
    )
    .bind(&checkpoint.chain)
    .bind(checkpoint.seq)
    .bind(&checkpoint.hash)
    .bind(checkpoint.at)
    .bind(&checkpoint.key)
    .bind(&checkpoint.signature)
    .execute(db)
    .await?;
    Ok(())
}

const CHECKPOINTS: &str = "SELECT chain, seq, hash, at, key_id, signature FROM audit_checkpoints";

/// Checkpoints in order of chain and number, after one of them.
pub(crate) async fn checkpoints<'e>(
    db: impl Executor<'e, Database = Any>,
    chain: &str,
    seq: i64,
    limit: i64,
) -> Result<Vec<AuditCheckpoint>, StoreError> {
    let sql = format!("{CHECKPOINTS} WHERE chain > $1 OR (chain = $1 AND seq > $2) ORDER BY chain, seq LIMIT $3");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(chain).bind(seq).bind(limit);
    query.fetch_all(db).await?.iter().map(checkpoint).collect()
}

/// The newest ones.
pub(crate) async fn newest_checkpoints<'e>(
    db: impl Executor<'e, Database = Any>,
    limit: i64,
) -> Result<Vec<AuditCheckpoint>, StoreError> {
    let sql = format!("{CHECKPOINTS} ORDER BY at DESC, chain, seq DESC LIMIT $1");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(limit);
    query.fetch_all(db).await?.iter().map(checkpoint).collect()
}

/// Removes the blocks of each chain up to its last checkpoint before `before`, and the checkpoints before that one, which
/// stays, so that what is left can be checked. Returns how many blocks.
pub(crate) async fn remove_before(tx: &mut Transaction<'static, Any>, before: i64) -> Result<u64, StoreError> {
    // By the checkpoints' times alone: those of the blocks may be another clock's.
    let blocks = "DELETE FROM audit_blocks WHERE EXISTS (SELECT 1 FROM audit_checkpoints c WHERE \
                  c.chain = audit_blocks.chain AND c.seq >= audit_blocks.seq AND c.at < $1)";
    let removed = sqlx::query(blocks).bind(before).execute(&mut **tx).await?.rows_affected();
    let checkpoints = "DELETE FROM audit_checkpoints WHERE EXISTS (SELECT 1 FROM audit_checkpoints c WHERE \
                       c.chain = audit_checkpoints.chain AND c.seq > audit_checkpoints.seq AND c.at < $1)";
    sqlx::query(checkpoints).bind(before).execute(&mut **tx).await?;
    Ok(removed)
}

fn checkpoint(row: &AnyRow) -> Result<AuditCheckpoint, StoreError> {
    Ok(AuditCheckpoint {
        chain: row.try_get(0)?,
        seq: row.try_get(1)?,
        hash: row.try_get(2)?,
        at: row.try_get(3)?,
        key: row.try_get(4)?,
        signature: row.try_get(5)?,
    })
}
