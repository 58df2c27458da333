//! Public keys of the instances on this database.

use sqlx::{Any, Executor, Row as _};

use super::StoreError;

/// Makes a key known to the others.
pub(crate) async fn publish<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
    public_key: &str,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO instance_keys (id, public_key, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
    )
    .bind(id)
    .bind(public_key)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Identifier and public key (32 bytes, base64url) of each.
pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sqlx::query("SELECT id, public_key FROM instance_keys ORDER BY created_at, id").fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
