//! Resolver JARs, for MIDs to fetch.

use serde::Serialize;
use sqlx::{Any, Executor, Row as _};

use super::StoreError;

/// What is shown of a JAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Jar {
    pub(crate) name: String,
    /// As [`midward_wire::jar_digest`] has it: what a MID's `sha256` and policy name.
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: i64,
    pub(crate) updated_at: i64,
}

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<Jar>, StoreError> {
    let rows = sqlx::query("SELECT name, sha256, size, updated_at FROM jars ORDER BY name").fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            Ok(Jar {
                name: row.try_get(0)?,
                sha256: row.try_get(1)?,
                size: row.try_get(2)?,
                updated_at: row.try_get(3)?,
            })
        })
        .collect()
}

pub(crate) async fn put<'e>(
    db: impl Executor<'e, Database = Any>,
    jar: &Jar,
    content: &[u8],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO jars (name, sha256, size, content, updated_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size, \
         content = excluded.content, updated_at = excluded.updated_at",
    )
    .bind(&jar.name)
    .bind(&jar.sha256)
    .bind(jar.size)
    .bind(content.to_vec())
    .bind(jar.updated_at)
    .execute(db)
    .await?;
    Ok(())
}

/// False when there is none.
pub(crate) async fn delete<'e>(db: impl Executor<'e, Database = Any>, name: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query("DELETE FROM jars WHERE name = $1").bind(name).execute(db).await?.rows_affected() == 1)
}

/// The bytes with that digest, whatever their name.
pub(crate) async fn content<'e>(
    db: impl Executor<'e, Database = Any>,
    sha256: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sqlx::query("SELECT content FROM jars WHERE sha256 = $1 LIMIT 1").bind(sha256).fetch_optional(db).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}
