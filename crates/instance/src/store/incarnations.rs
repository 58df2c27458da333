//! Which run of a MID speaks for it. Each start makes a new incarnation, and the newest one has the word. When one that
//! was superseded speaks again, two programs run with one key: the older one is fenced, for as long as the newer one is
//! heard of.

use sqlx::{Any, Row as _, Transaction};

use super::StoreError;

/// How much of the past is kept, in characters: eight incarnations at least.
const KEPT: usize = 600;

/// Gives a MID's word to an incarnation, unless that one was superseded and the present one was heard of at `live_since`
/// or later. True when it has it now.
pub(crate) async fn speak(
    tx: &mut Transaction<'static, Any>,
    mid_id: &str,
    incarnation: &str,
    live_since: i64,
) -> Result<bool, StoreError> {
    let sql = format!(
        "UPDATE mids SET superseded = CASE WHEN incarnation = $1 OR incarnation = '' THEN superseded \
         ELSE substr(',' || incarnation || replace(superseded, $2, ','), 1, {KEPT}) END, \
         draining = CASE WHEN incarnation = $1 OR incarnation = '' THEN draining ELSE 0 END, \
         fenced = CASE WHEN incarnation = $1 THEN fenced ELSE 0 END, \
         version = CASE WHEN incarnation = $1 THEN version ELSE version + 1 END, incarnation = $1 \
         WHERE id = $3 AND (incarnation = $1 OR superseded NOT LIKE $4 OR last_seen_at IS NULL OR last_seen_at < $5)"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(incarnation)
        .bind(format!(",{incarnation},"))
        .bind(mid_id)
        .bind(format!("%,{incarnation},%"))
        .bind(live_since)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a superseded incarnation spoke, and tells how often one did since the present one came.
pub(crate) async fn fence(tx: &mut Transaction<'static, Any>, mid_id: &str, now: i64) -> Result<i64, StoreError> {
    let sql = "UPDATE mids SET fenced = fenced + 1, fenced_at = $1, version = version + 1 WHERE id = $2 \
               RETURNING fenced";
    let row = sqlx::query(sql).bind(now).bind(mid_id).fetch_optional(&mut **tx).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}
