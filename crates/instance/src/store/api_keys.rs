//! API keys: only their hashes.

use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::model::{ApiKey, Role};

const COLUMNS: &str = "SELECT id, name, role, connections, prefix, first_admin, created_at FROM api_keys";

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<ApiKey>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY name"));
    sqlx::query(sql).fetch_all(db).await?.iter().map(key).collect()
}

pub(crate) async fn by_hash<'e>(
    db: impl Executor<'e, Database = Any>,
    hash: &str,
) -> Result<Option<ApiKey>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE key_hash = $1"));
    sqlx::query(sql).bind(hash).fetch_optional(db).await?.as_ref().map(key).transpose()
}

/// False when the name is taken.
pub(crate) async fn insert<'e>(
    db: impl Executor<'e, Database = Any>,
    key: &ApiKey,
    hash: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO api_keys (id, name, role, connections, key_hash, prefix, first_admin, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING",
    )
    .bind(&key.id)
    .bind(&key.name)
    .bind(key.role.name())
    .bind(to_json(&key.connections)?)
    .bind(hash)
    .bind(&key.prefix)
    .bind(i64::from(key.first_admin))
    .bind(key.created_at)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// False when there is none.
pub(crate) async fn delete<'e>(db: impl Executor<'e, Database = Any>, name: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query("DELETE FROM api_keys WHERE name = $1").bind(name).execute(db).await?.rows_affected() == 1)
}

/// The first administrator's key was used: its file is no longer needed.
pub(crate) async fn clear_first_admin<'e>(db: impl Executor<'e, Database = Any>) -> Result<(), StoreError> {
    sqlx::query("UPDATE api_keys SET first_admin = 0 WHERE first_admin = 1").execute(db).await?;
    Ok(())
}

fn key(row: &AnyRow) -> Result<ApiKey, StoreError> {
    let role: String = row.try_get(2)?;
    Ok(ApiKey {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        role: Role::parse(&role).ok_or_else(|| StoreError::Corrupt(format!("role {role}")))?,
        connections: from_json(row.try_get(3)?)?,
        prefix: row.try_get(4)?,
        first_admin: row.try_get::<i64, _>(5)? == 1,
        created_at: row.try_get(6)?,
    })
}
