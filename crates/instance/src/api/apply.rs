//! A whole document of records at once, in one transaction.

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::records::{Record, Tx, check_references};
use super::{Body, body, parse};
use crate::app::Shared;
use crate::auth;
use crate::model::{ApplyDocument, Credential};
use crate::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    #[serde(default)]
    dry_run: bool,
}

/// What happens to one record.
#[derive(Debug, Serialize)]
struct Change {
    action: &'static str,
    kind: &'static str,
    name: String,
    /// Fields that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
}

pub(super) async fn apply(
    State(app): State<Shared>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    content: Body,
) -> Result<Json<Value>, Problem> {
    let client = auth::administrator(&app, &headers).await?;
    let document: ApplyDocument = parse(&body(content, app.limits.body_bytes)?)?;
    if document.version != 1 {
        return Err(Problem::bad_request(
            "document_version",
            "the document's version is not 1",
            "Begin it with `version: 1`.",
        ));
    }
    let mut tx = app.store.begin_change().await?;
    let mut changes = Vec::new();
    put_all(&mut tx, &document.oauth_entities, &mut changes).await?;
    put_all(&mut tx, &document.oauth_entity_profiles, &mut changes).await?;
    put_all(&mut tx, &document.credentials, &mut changes).await?;
    put_all(&mut tx, &document.clusters, &mut changes).await?;
    put_all(&mut tx, &document.connections, &mut changes).await?;
    if options.dry_run {
        tx.rollback().await?;
    } else {
        tx.commit().await?;
        app.routes.forget();
        tracing::info!(client = client.name, changes = changes.len(), "a document was applied");
    }
    let unknown: Vec<&String> = document
        .connections
        .iter()
        .filter_map(|connection| connection.mid.as_ref())
        .chain(document.clusters.iter().flat_map(|cluster| &cluster.mids))
        .chain(document.credentials.iter().flat_map(Credential::mid_names))
        .filter(|name| app.fleet.by_name(name).is_none())
        .collect();
    let warnings: Vec<String> =
        unknown.into_iter().map(|name| format!("MID {name} is named but not enrolled (yet)")).collect();
    Ok(Json(json!({ "dry_run": options.dry_run, "changes": changes, "warnings": warnings })))
}

async fn put_all<R: Record>(tx: &mut Tx, records: &[R], changes: &mut Vec<Change>) -> Result<(), Problem> {
    let present: HashMap<String, R> =
        R::all(tx).await?.into_iter().map(|record| (record.name().to_owned(), record)).collect();
    let mut seen = HashSet::new();
    for record in records {
        record.check()?;
        if !seen.insert(record.name()) {
            return Err(Problem::bad_request(
                "duplicate_name",
                format!("{} {} is in the document twice", R::KIND, record.name()),
                "Keep one of them.",
            ));
        }
        check_references(tx, record).await?;
        let old = present.get(record.name());
        if old == Some(record) {
            continue;
        }
        record.put(tx).await?;
        let action = if old.is_some() { "update" } else { "create" };
        let fields = old.map(|old| differing(old, record)).unwrap_or_default();
        changes.push(Change { action, kind: R::KIND, name: record.name().to_owned(), fields });
    }
    Ok(())
}

fn differing<R: Record>(old: &R, new: &R) -> Vec<String> {
    let fields = |record: &R| serde_json::to_value(record).unwrap_or_default();
    let (old, new) = (fields(old), fields(new));
    let names =
        |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = names(&old);
    all.extend(names(&new));
    all.sort();
    all.dedup();
    all.retain(|name| old.get(name) != new.get(name));
    all
}
