//! Credentials: identifiers of secrets that live in a customer's vault.

use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::model::Credential;

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<Credential>, StoreError> {
    sqlx::query("SELECT name, credential_id, resolver, oauth_entity_profile, applies_to FROM credentials ORDER BY name")
        .fetch_all(db)
        .await?
        .iter()
        .map(credential)
        .collect()
}

pub(crate) async fn named<'e>(
    db: impl Executor<'e, Database = Any>,
    name: &str,
) -> Result<Option<Credential>, StoreError> {
    sqlx::query(
        "SELECT name, credential_id, resolver, oauth_entity_profile, applies_to FROM credentials WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(db)
    .await?
    .as_ref()
    .map(credential)
    .transpose()
}

pub(crate) async fn put<'e>(db: impl Executor<'e, Database = Any>, record: &Credential) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO credentials (name, credential_id, resolver, oauth_entity_profile, applies_to) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET credential_id = excluded.credential_id, \
         resolver = excluded.resolver, oauth_entity_profile = excluded.oauth_entity_profile, \
         applies_to = excluded.applies_to",
    )
    .bind(&record.name)
    .bind(&record.credential_id)
    .bind(&record.resolver)
    .bind(&record.oauth_entity_profile)
    .bind(to_json(&record.applies_to)?)
    .execute(db)
    .await?;
    Ok(())
}

fn credential(row: &AnyRow) -> Result<Credential, StoreError> {
    Ok(Credential {
        name: row.try_get(0)?,
        credential_id: row.try_get(1)?,
        resolver: row.try_get(2)?,
        oauth_entity_profile: row.try_get(3)?,
        applies_to: from_json(row.try_get(4)?)?,
    })
}
