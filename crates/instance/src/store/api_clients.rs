//! Clients of the API (table `api_keys`): only the hashes of their secrets.

use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::client::{ApiClient, ClientKind, Role};

const COLUMNS: &str = "SELECT id, kind, name, role, connections, prefix, first_admin, created_at, expires_at, \
                       previous_expires_at, requests_per_second FROM api_keys";

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<ApiClient>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY name"));
    sqlx::query(sql).fetch_all(db).await?.iter().map(client).collect()
}

/// Of one kind, by name, after `after`.
pub(crate) async fn page<'e>(
    db: impl Executor<'e, Database = Any>,
    kind: ClientKind,
    after: &str,
    limit: i64,
) -> Result<Vec<ApiClient>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE kind = $1 AND name > $2 ORDER BY name LIMIT $3"));
    let rows = sqlx::query(sql).bind(kind.name()).bind(after).bind(limit).fetch_all(db).await?;
    rows.iter().map(client).collect()
}

pub(crate) async fn named<'e>(
    db: impl Executor<'e, Database = Any>,
    kind: ClientKind,
    name: &str,
) -> Result<Option<ApiClient>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE kind = $1 AND name = $2"));
    sqlx::query(sql).bind(kind.name()).bind(name).fetch_optional(db).await?.as_ref().map(client).transpose()
}

pub(crate) async fn by_id<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
) -> Result<Option<ApiClient>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE id = $1"));
    sqlx::query(sql).bind(id).fetch_optional(db).await?.as_ref().map(client).transpose()
}

/// The client with this secret, and until when that is good.
pub(crate) async fn by_hash<'e>(
    db: impl Executor<'e, Database = Any>,
    kind: ClientKind,
    hash: &str,
) -> Result<Option<(ApiClient, Option<i64>)>, StoreError> {
    let sql = COLUMNS.replace(" FROM", ", CASE WHEN key_hash = $1 THEN 1 ELSE 0 END FROM");
    let sql = sqlx::AssertSqlSafe(format!("{sql} WHERE (key_hash = $1 OR previous_hash = $1) AND kind = $2"));
    let Some(row) = sqlx::query(sql).bind(hash).bind(kind.name()).fetch_optional(db).await? else { return Ok(None) };
    let client = client(&row)?;
    let is_current = row.try_get::<i64, _>(11)? == 1;
    let until = if is_current { client.expires_at } else { Some(client.previous_expires_at.unwrap_or(0)) };
    Ok(Some((client, until)))
}

/// False when the name is taken.
pub(crate) async fn insert<'e>(
    db: impl Executor<'e, Database = Any>,
    client: &ApiClient,
    hash: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO api_keys (id, kind, name, role, connections, key_hash, prefix, first_admin, created_at, \
         expires_at, requests_per_second) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(&client.id)
    .bind(client.kind.name())
    .bind(&client.name)
    .bind(client.role.name())
    .bind(to_json(&client.connections)?)
    .bind(hash)
    .bind(&client.prefix)
    .bind(i64::from(client.first_admin))
    .bind(client.created_at)
    .bind(client.expires_at)
    .bind(client.requests_per_second.map(i64::from))
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a client another secret; the present one becomes the one of before. False when there is no such client.
pub(crate) async fn rotate<'e>(
    db: impl Executor<'e, Database = Any>,
    client: &ApiClient,
    hash: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE api_keys SET previous_hash = key_hash, previous_expires_at = $1, key_hash = $2, prefix = $3, \
         expires_at = $4, first_admin = 0 WHERE id = $5",
    )
    .bind(client.previous_expires_at)
    .bind(hash)
    .bind(&client.prefix)
    .bind(client.expires_at)
    .bind(&client.id)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// False when there is none.
pub(crate) async fn delete<'e>(
    db: impl Executor<'e, Database = Any>,
    kind: ClientKind,
    name: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM api_keys WHERE kind = $1 AND name = $2").bind(kind.name()).bind(name);
    Ok(done.execute(db).await?.rows_affected() == 1)
}

/// The first administrator's key was used: its file is no longer needed.
pub(crate) async fn clear_first_admin<'e>(db: impl Executor<'e, Database = Any>) -> Result<(), StoreError> {
    sqlx::query("UPDATE api_keys SET first_admin = 0 WHERE first_admin = 1").execute(db).await?;
    Ok(())
}

fn client(row: &AnyRow) -> Result<ApiClient, StoreError> {
    let (kind, role): (String, String) = (row.try_get(1)?, row.try_get(3)?);
    let rate: Option<i64> = row.try_get(10)?;
    Ok(ApiClient {
        id: row.try_get(0)?,
        kind: ClientKind::parse(&kind).ok_or_else(|| StoreError::Corrupt(format!("client kind {kind}")))?,
        name: row.try_get(2)?,
        role: Role::parse(&role).ok_or_else(|| StoreError::Corrupt(format!("role {role}")))?,
        connections: from_json(row.try_get(4)?)?,
        prefix: row.try_get(5)?,
        first_admin: row.try_get::<i64, _>(6)? == 1,
        created_at: row.try_get(7)?,
        expires_at: row.try_get(8)?,
        previous_expires_at: row.try_get(9)?,
        requests_per_second: rate.and_then(|rate| u32::try_from(rate).ok()),
    })
}
