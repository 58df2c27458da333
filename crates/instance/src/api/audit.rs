//! The audit, for those who check and keep it.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::Value;

use super::page::{Page, PageQuery};
use crate::app::Shared;
use crate::audit::AuditLine;
use crate::auth;
use crate::client::Right;
use crate::extract::Params;
use crate::problem::Problem;
use crate::store::{audit, instance_keys};

pub(super) async fn blocks(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadAudit).await?;
    let page = Page::of(&query)?;
    let (chain, seq) = after(&page)?;
    let blocks = audit::page(app.store.readers(), chain, seq, page.to_read()).await?;
    let lines = blocks.into_iter().map(|block| {
        let audit::BlockRow { chain, seq, at, entries, hash } = block;
        AuditLine::Block { chain, seq, at, entries, hash }
    });
    Ok(page.answer(lines.collect(), name))
}

pub(super) async fn checkpoints(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadAudit).await?;
    let page = Page::of(&query)?;
    let (chain, seq) = after(&page)?;
    let found = audit::checkpoints(app.store.readers(), chain, seq, page.to_read()).await?;
    Ok(page.answer(found.into_iter().map(AuditLine::Checkpoint).collect(), name))
}

pub(super) async fn keys(State(app): State<Shared>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadAudit).await?;
    let keys = instance_keys::all(app.store.readers()).await?;
    let lines: Vec<_> = keys.into_iter().map(|(id, public_key)| AuditLine::Key { id, public_key }).collect();
    Ok(Json(serde_json::json!({ "items": lines })))
}

/// Chain and number of the last line of the page before, `CHAIN.NUMBER`.
fn after(page: &Page) -> Result<(&str, i64), Problem> {
    if page.after.is_empty() {
        return Ok(("", 0));
    }
    let parts = page.after.rsplit_once('.').and_then(|(chain, seq)| Some((chain, seq.parse().ok()?)));
    parts.ok_or_else(|| {
        let detail = "after is not the `next` of a page of this list";
        Problem::bad_request("invalid_query", detail, "Give `next` as it came.")
    })
}

fn name(line: &AuditLine) -> String {
    match line {
        AuditLine::Block { chain, seq, .. } => format!("{chain}.{seq}"),
        AuditLine::Checkpoint(checkpoint) => format!("{}.{}", checkpoint.chain, checkpoint.seq),
        AuditLine::Key { id, .. } => id.clone(),
    }
}
