//! Resolver JARs that MIDs may fetch. They are kept as bytes and looked at by nobody here.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use midward_wire::{JarDocument, MAX_JAR_LEN, VERSION, jar_digest};
use serde_json::{Value, json};

use super::page::{Page, PageQuery};
use super::{Body, body, parse};
use crate::app::Shared;
use crate::auth;
use crate::check;
use crate::client::Right;
use crate::extract::{Params, Segments};
use crate::problem::Problem;
use crate::store::jars::{self, Jar};

/// Largest message with a JAR, in bytes: base64 inside JSON.
pub(super) const LARGEST: usize = MAX_JAR_LEN / 3 * 4 + 64 * 1024;

pub(super) async fn list(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadRecords).await?;
    let page = Page::of(&query)?;
    let mut all = jars::all(app.store.readers()).await?;
    all.retain(|jar| jar.name > page.after);
    Ok(page.answer(all, |jar| jar.name.clone()))
}

pub(super) async fn put(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
    content: Body,
) -> Result<Json<Jar>, Problem> {
    let client = auth::allowed(&app, &headers, Right::ChangeRecords).await?;
    check::name("JAR", &name)?;
    let document: JarDocument = parse(&body(content, MAX_JAR_LEN)?)?;
    let content = document.content.0;
    if document.version != VERSION {
        return Err(Problem::bad_request("document_version", "the document's version is not 1", "Send version 1."));
    }
    if content.len() > MAX_JAR_LEN {
        return Err(Problem::too_large(MAX_JAR_LEN));
    }
    // The local header of a ZIP file's first entry (APPNOTE.TXT 4.3.7).
    if !content.starts_with(b"PK\x03\x04") {
        return Err(Problem::bad_request("not_a_jar", "the content is not a JAR", "Name the JAR itself."));
    }
    let size = i64::try_from(content.len()).unwrap_or(i64::MAX);
    let jar = Jar { name, sha256: jar_digest(&content), size, updated_at: app.now() };
    let mut tx = app.store.begin().await?;
    jars::put(&mut *tx, &jar, &content).await?;
    let details = json!({ "name": jar.name, "sha256": jar.sha256 });
    let pending = app.audit.change(&mut tx, app.now(), &client, "jar_put", details).await?;
    tx.commit().await?;
    pending.settle();
    tracing::info!(client = client.name, jar = jar.name, sha256 = jar.sha256, "a JAR was stored");
    Ok(Json(jar))
}

pub(super) async fn delete(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Problem> {
    let client = auth::allowed(&app, &headers, Right::ChangeRecords).await?;
    let mut tx = app.store.begin().await?;
    if !jars::delete(&mut *tx, &name).await? {
        return Err(Problem::not_found("JAR", &name));
    }
    let details = json!({ "name": name });
    let pending = app.audit.change(&mut tx, app.now(), &client, "jar_deleted", details).await?;
    tx.commit().await?;
    pending.settle();
    Ok(StatusCode::NO_CONTENT)
}
