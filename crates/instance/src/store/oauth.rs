//! OAuth entities and their profiles.

use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row as _};

use super::{StoreError, from_json, to_json};
use crate::model::{OAuthEntity, OAuthEntityProfile};

pub(crate) async fn entities<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<OAuthEntity>, StoreError> {
    sqlx::query(
        "SELECT name, token_url, client_auth, issuer, assertion_audience, assertion_algorithm, revocation_url, \
         certificate_bound_tokens, dpop_bound_tokens FROM oauth_entities \
         ORDER BY name",
    )
    .fetch_all(db)
    .await?
    .iter()
    .map(entity)
    .collect()
}

pub(crate) async fn entity_named<'e>(
    db: impl Executor<'e, Database = Any>,
    name: &str,
) -> Result<Option<OAuthEntity>, StoreError> {
    sqlx::query(
        "SELECT name, token_url, client_auth, issuer, assertion_audience, assertion_algorithm, revocation_url, \
         certificate_bound_tokens, dpop_bound_tokens FROM oauth_entities \
         WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(db)
    .await?
    .as_ref()
    .map(entity)
    .transpose()
}

pub(crate) async fn put_entity<'e>(
    db: impl Executor<'e, Database = Any>,
    entity: &OAuthEntity,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO oauth_entities (name, token_url, client_auth, issuer, assertion_audience, assertion_algorithm, \
         revocation_url, certificate_bound_tokens, dpop_bound_tokens) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (name) DO UPDATE SET token_url = excluded.token_url, client_auth = excluded.client_auth, issuer = excluded.issuer, \
         assertion_audience = excluded.assertion_audience, assertion_algorithm = excluded.assertion_algorithm, \
         revocation_url = excluded.revocation_url, certificate_bound_tokens = excluded.certificate_bound_tokens, \
         dpop_bound_tokens = excluded.dpop_bound_tokens",
    )
    .bind(&entity.name)
    // Empty stands for none.
    .bind(entity.token_url.as_deref().unwrap_or_default())
    .bind(to_json(&entity.client_auth)?)
    .bind(&entity.issuer)
    .bind(&entity.assertion_audience)
    .bind(entity.assertion_algorithm.as_ref().map(to_json).transpose()?)
    .bind(&entity.revocation_url)
    .bind(i64::from(entity.certificate_bound_tokens))
    .bind(i64::from(entity.dpop_bound_tokens))
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn profiles<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<OAuthEntityProfile>, StoreError> {
    sqlx::query(
        "SELECT name, oauth_entity, scopes, audience, resource, extra_parameters, grant_type, jwt_bearer, \
         token_exchange FROM oauth_entity_profiles \
         ORDER BY name",
    )
    .fetch_all(db)
    .await?
    .iter()
    .map(profile)
    .collect()
}

pub(crate) async fn profile_named<'e>(
    db: impl Executor<'e, Database = Any>,
    name: &str,
) -> Result<Option<OAuthEntityProfile>, StoreError> {
    sqlx::query(
        "SELECT name, oauth_entity, scopes, audience, resource, extra_parameters, grant_type, jwt_bearer, \
         token_exchange FROM oauth_entity_profiles \
         WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(db)
    .await?
    .as_ref()
    .map(profile)
    .transpose()
}

pub(crate) async fn put_profile<'e>(
    db: impl Executor<'e, Database = Any>,
    profile: &OAuthEntityProfile,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO oauth_entity_profiles (name, oauth_entity, scopes, audience, resource, extra_parameters, \
         grant_type, jwt_bearer, token_exchange) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (name) DO UPDATE SET oauth_entity = excluded.oauth_entity, \
         scopes = excluded.scopes, audience = excluded.audience, resource = excluded.resource, \
         extra_parameters = excluded.extra_parameters, \
         grant_type = excluded.grant_type, jwt_bearer = excluded.jwt_bearer, \
         token_exchange = excluded.token_exchange",
    )
    .bind(&profile.name)
    .bind(&profile.oauth_entity)
    .bind(to_json(&profile.scopes)?)
    .bind(&profile.audience)
    .bind(to_json(&profile.resource)?)
    .bind(to_json(&profile.extra_parameters)?)
    .bind(to_json(&profile.grant_type)?)
    .bind(profile.jwt_bearer.as_ref().map(to_json).transpose()?)
    .bind(profile.token_exchange.as_ref().map(to_json).transpose()?)
    .execute(db)
    .await?;
    Ok(())
}

fn entity(row: &AnyRow) -> Result<OAuthEntity, StoreError> {
    Ok(OAuthEntity {
        name: row.try_get(0)?,
        token_url: Some(row.try_get::<String, _>(1)?).filter(|url| !url.is_empty()),
        client_auth: from_json(row.try_get(2)?)?,
        issuer: row.try_get(3)?,
        assertion_audience: row.try_get(4)?,
        assertion_algorithm: row.try_get::<Option<&str>, _>(5)?.map(from_json).transpose()?,
        revocation_url: row.try_get(6)?,
        certificate_bound_tokens: row.try_get::<i64, _>(7)? == 1,
        dpop_bound_tokens: row.try_get::<i64, _>(8)? == 1,
    })
}

fn profile(row: &AnyRow) -> Result<OAuthEntityProfile, StoreError> {
    Ok(OAuthEntityProfile {
        name: row.try_get(0)?,
        oauth_entity: row.try_get(1)?,
        scopes: from_json(row.try_get(2)?)?,
        audience: row.try_get(3)?,
        resource: from_json(row.try_get(4)?)?,
        extra_parameters: from_json(row.try_get(5)?)?,
        grant_type: from_json(row.try_get(6)?)?,
        jwt_bearer: row.try_get::<Option<&str>, _>(7)?.map(from_json).transpose()?,
        token_exchange: row.try_get::<Option<&str>, _>(8)?.map(from_json).transpose()?,
    })
}
