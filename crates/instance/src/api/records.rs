//! Connections, credentials, OAuth entities and profiles: list, get, put, delete.

use std::future::Future;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{MethodRouter, get};
use midward_core::{Failure, Hop};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{Any, Transaction};

use super::{Body, body, page, parse};
use crate::app::Shared;
use crate::auth;
use crate::check;
use crate::model::{AppliesTo, Cluster, Connection, Credential, OAuthEntity, OAuthEntityProfile};
use crate::problem::Problem;
use crate::store::{StoreError, clusters, connections, credentials, oauth};

pub(crate) type Tx = Transaction<'static, Any>;

/// A record that is kept by name.
pub(crate) trait Record: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static {
    /// As in messages.
    const KIND: &'static str;
    /// The column that holds the name.
    const NAME: &'static str;
    const TABLE: &'static str;

    fn name(&self) -> &str;
    fn check(&self) -> Result<(), Problem>;
    fn all(tx: &mut Tx) -> impl Future<Output = Result<Vec<Self>, StoreError>> + Send;
    fn put(&self, tx: &mut Tx) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Kinds and names of the records that this one refers to.
    fn refers_to(&self) -> Vec<(&'static str, &'static str, &'static str, String)>;
    /// Table and column of those that refer to this kind.
    fn referred_by() -> Option<(&'static str, &'static str)>;
}

macro_rules! record {
    ($type:ty, $kind:literal, $table:literal, $column:literal, $name:ident, $check:path, $all:path, $put:path,
     $refers:expr, $referred:expr) => {
        impl Record for $type {
            const KIND: &'static str = $kind;
            const NAME: &'static str = $column;
            const TABLE: &'static str = $table;

            fn name(&self) -> &str {
                &self.$name
            }
            fn check(&self) -> Result<(), Problem> {
                $check(self)
            }
            async fn all(tx: &mut Tx) -> Result<Vec<Self>, StoreError> {
                $all(&mut **tx).await
            }
            async fn put(&self, tx: &mut Tx) -> Result<(), StoreError> {
                $put(&mut **tx, self).await
            }
            fn refers_to(&self) -> Vec<(&'static str, &'static str, &'static str, String)> {
                let refers: fn(&$type) -> Vec<(&'static str, &'static str, &'static str, String)> = $refers;
                refers(self)
            }
            fn referred_by() -> Option<(&'static str, &'static str)> {
                $referred
            }
        }
    };
}

record!(
    OAuthEntity,
    "OAuth entity",
    "oauth_entities",
    "name",
    name,
    check::entity,
    oauth::entities,
    oauth::put_entity,
    |_| Vec::new(),
    Some(("oauth_entity_profiles", "oauth_entity"))
);
record!(
    OAuthEntityProfile,
    "OAuth entity profile",
    "oauth_entity_profiles",
    "name",
    name,
    check::profile,
    oauth::profiles,
    oauth::put_profile,
    |profile| vec![("OAuth entity", "oauth_entities", "name", profile.oauth_entity.clone())],
    Some(("credentials", "oauth_entity_profile"))
);
record!(
    Credential,
    "credential",
    "credentials",
    "name",
    name,
    check::credential,
    credentials::all,
    credentials::put,
    |credential| {
        vec![("OAuth entity profile", "oauth_entity_profiles", "name", credential.oauth_entity_profile.clone())]
    },
    Some(("connections", "credential"))
);
record!(
    Connection,
    "connection",
    "connections",
    "alias",
    alias,
    check::connection,
    connections::all,
    connections::put,
    |connection| {
        let cluster = connection.cluster.clone().map(|name| ("cluster", "clusters", "name", name));
        let credential = ("credential", "credentials", "name", connection.credential.clone());
        std::iter::once(credential).chain(cluster).collect()
    },
    None
);
record!(
    Cluster,
    "cluster",
    "clusters",
    "name",
    name,
    check::cluster,
    clusters::all,
    clusters::put,
    |_| Vec::new(),
    Some(("connections", "cluster"))
);

impl Credential {
    /// Names of MIDs that it is limited to.
    pub(crate) fn mid_names(&self) -> &[String] {
        match &self.applies_to {
            AppliesTo::All => &[],
            AppliesTo::Mids(names) => names,
        }
    }
}

pub(super) fn one<R: Record>() -> MethodRouter<Shared> {
    get(find::<R>).put(put::<R>).delete(delete::<R>)
}

pub(super) async fn list<R: Record>(State(app): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::administrator(&app, &headers).await?;
    let mut tx = app.store.readers().begin().await?;
    Ok(page(R::all(&mut tx).await?))
}

async fn find<R: Record>(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<R>, Problem> {
    auth::administrator(&app, &headers).await?;
    let mut tx = app.store.readers().begin().await?;
    let found = R::all(&mut tx).await?.into_iter().find(|record| record.name() == name);
    found.map(Json).ok_or_else(|| Problem::not_found(R::KIND, &name))
}

async fn put<R: Record>(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(name): Path<String>,
    content: Body,
) -> Result<Json<R>, Problem> {
    auth::administrator(&app, &headers).await?;
    let mut value: Value = parse(&body(content, app.limits.body_bytes)?)?;
    if let Some(fields) = value.as_object_mut() {
        let given = fields.entry(R::NAME).or_insert_with(|| Value::String(name.clone()));
        if given.as_str() != Some(&name) {
            return Err(Problem::bad_request(
                "name_differs",
                "the name in the body is not the one in the path",
                "Use one name.",
            ));
        }
    }
    let record: R = parse(&value.to_string().into())?;
    record.check()?;
    let mut tx = app.store.begin_change().await?;
    record.put(&mut tx).await?;
    check_references(&mut tx, &record).await?;
    tx.commit().await?;
    app.routes.forget();
    Ok(Json(record))
}

async fn delete<R: Record>(
    State(app): State<Shared>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    auth::administrator(&app, &headers).await?;
    let mut tx = app.store.begin_change().await?;
    if let Some((table, column)) = R::referred_by()
        && exists(&mut tx, table, column, &name).await?
    {
        let failure = Failure::permanent(
            Hop::Caller,
            "still_used",
            format!("{} {name} is still used by a record in {table}", R::KIND),
            "Change or delete that one first.",
        );
        return Err(Problem::new(StatusCode::CONFLICT, failure));
    }
    let sql = format!("DELETE FROM {} WHERE {} = $1", R::TABLE, R::NAME);
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&name).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Err(Problem::not_found(R::KIND, &name));
    }
    tx.commit().await?;
    app.routes.forget();
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses a record that refers to one that does not exist.
pub(super) async fn check_references<R: Record>(tx: &mut Tx, record: &R) -> Result<(), Problem> {
    for (kind, table, column, name) in record.refers_to() {
        if !exists(tx, table, column, &name).await? {
            return Err(Problem::bad_request(
                "dangling_reference",
                format!("{} {} refers to {kind} {name:?}, which does not exist", R::KIND, record.name()),
                format!("Define that {kind} too, or correct the name."),
            ));
        }
    }
    Ok(())
}

async fn exists(tx: &mut Tx, table: &str, column: &str, name: &str) -> Result<bool, StoreError> {
    let sql = format!("SELECT {column} FROM {table} WHERE {column} = $1 LIMIT 1");
    Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(&mut **tx).await?.is_some())
}
