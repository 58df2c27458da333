//! Clusters: MIDs that serve connections together.

use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::model::Cluster;

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<Cluster>, StoreError> {
    let rows = sqlx::query("SELECT name, mode, mids, networks FROM clusters ORDER BY name").fetch_all(db).await?;
    rows.iter().map(cluster).collect()
}

pub(crate) async fn put<'e>(db: impl Executor<'e, Database = Any>, record: &Cluster) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO clusters (name, mode, mids, networks) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE \
         SET mode = excluded.mode, mids = excluded.mids, networks = excluded.networks",
    )
    .bind(&record.name)
    .bind(to_json(&record.mode)?)
    .bind(to_json(&record.mids)?)
    .bind(to_json(&record.networks)?)
    .execute(db)
    .await?;
    Ok(())
}

fn cluster(row: &AnyRow) -> Result<Cluster, StoreError> {
    Ok(Cluster {
        name: row.try_get(0)?,
        mode: from_json(row.try_get(1)?)?,
        mids: from_json(row.try_get(2)?)?,
        networks: from_json(row.try_get(3)?)?,
    })
}
