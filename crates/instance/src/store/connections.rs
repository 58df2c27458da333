//! Connections, and the documents that leases name by digest.

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::model::{Connection, Keep};

const COLUMNS: &str = "SELECT alias, base_url, credential, mid, timeout_ms, replay_methods, cluster, retry, \
                       max_concurrent, max_per_minute, keep FROM connections";

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<Connection>, StoreError> {
    let sql = format!("{COLUMNS} ORDER BY alias");
    sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await?.iter().map(connection).collect()
}

pub(crate) async fn named<'e>(
    db: impl Executor<'e, Database = Any>,
    alias: &str,
) -> Result<Option<Connection>, StoreError> {
    let sql = format!("{COLUMNS} WHERE alias = $1");
    sqlx::query(AssertSqlSafe(sql)).bind(alias).fetch_optional(db).await?.as_ref().map(connection).transpose()
}

pub(crate) async fn put<'e>(db: impl Executor<'e, Database = Any>, record: &Connection) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO connections (alias, base_url, credential, mid, timeout_ms, replay_methods, cluster, retry, \
         max_concurrent, max_per_minute, keep) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (alias) DO UPDATE SET base_url = excluded.base_url, credential = excluded.credential, \
         mid = excluded.mid, timeout_ms = excluded.timeout_ms, \
         replay_methods = excluded.replay_methods, cluster = excluded.cluster, retry = excluded.retry, \
         max_concurrent = excluded.max_concurrent, max_per_minute = excluded.max_per_minute, keep = excluded.keep",
    )
    .bind(&record.alias)
    .bind(&record.base_url)
    .bind(&record.credential)
    .bind(&record.mid)
    .bind(i64::try_from(record.timeout_ms).unwrap_or(i64::MAX))
    .bind(record.replay_methods.as_ref().map(to_json).transpose()?)
    .bind(&record.cluster)
    .bind(record.retry.as_ref().map(to_json).transpose()?)
    .bind(record.max_concurrent.map(i64::from))
    .bind(record.max_per_minute.map(i64::from))
    .bind(match record.keep {
        Keep::Everything => "everything",
        Keep::Metadata => "metadata",
    })
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn put_document<'e>(
    db: impl Executor<'e, Database = Any>,
    digest: &str,
    document: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO config_documents (digest, document) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING")
        .bind(digest)
        .bind(document)
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn document<'e>(
    db: impl Executor<'e, Database = Any>,
    digest: &str,
) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("SELECT document FROM config_documents WHERE digest = $1").bind(digest).fetch_optional(db);
    Ok(row.await?.map(|row| row.try_get(0)).transpose()?)
}

/// Digests of the documents that no unfinished request names.
pub(crate) async fn unnamed_documents(tx: &mut sqlx::Transaction<'static, Any>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT digest FROM config_documents WHERE digest NOT IN (SELECT config_digest FROM requests \
               WHERE state = 0 UNION SELECT config_digest FROM requests WHERE state = 1)";
    let rows = sqlx::query(sql).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

pub(crate) async fn remove_document<'e>(db: impl Executor<'e, Database = Any>, digest: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM config_documents WHERE digest = $1").bind(digest).execute(db).await?;
    Ok(())
}

/// Removes what was noted of the rates of connections that are gone, and of which nothing waits or runs.
pub(crate) async fn forget_use(tx: &mut sqlx::Transaction<'static, Any>) -> Result<u64, StoreError> {
    let sql = "DELETE FROM connection_use WHERE alias NOT IN (SELECT alias FROM connections) AND NOT EXISTS \
               (SELECT 1 FROM requests r WHERE r.connection = connection_use.alias AND r.state = 0 AND r.limited = 1) \
               AND NOT EXISTS \
               (SELECT 1 FROM requests r WHERE r.connection = connection_use.alias AND r.state = 1 AND r.limited = 1)";
    Ok(sqlx::query(sql).execute(&mut **tx).await?.rows_affected())
}

fn connection(row: &AnyRow) -> Result<Connection, StoreError> {
    Ok(Connection {
        alias: row.try_get(0)?,
        base_url: row.try_get(1)?,
        credential: row.try_get(2)?,
        mid: row.try_get(3)?,
        timeout_ms: u64::try_from(row.try_get::<i64, _>(4)?).unwrap_or(0),
        replay_methods: row.try_get::<Option<&str>, _>(5)?.map(from_json).transpose()?,
        cluster: row.try_get(6)?,
        retry: row.try_get::<Option<&str>, _>(7)?.map(from_json).transpose()?,
        max_concurrent: row.try_get::<Option<i64>, _>(8)?.and_then(|most| u32::try_from(most).ok()),
        max_per_minute: row.try_get::<Option<i64>, _>(9)?.and_then(|most| u32::try_from(most).ok()),
        keep: if row.try_get::<&str, _>(10)? == "metadata" { Keep::Metadata } else { Keep::Everything },
    })
}
