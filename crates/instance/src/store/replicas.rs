//! What replicas on one database agree on: who looks after leases now, what has changed, where a MID polls.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::dialect::Dialect;
use super::{Store, StoreError, to_json};

type Tx = Transaction<'static, Any>;

/// A pause in looking after leases that is longer than this: nobody could report meanwhile.
const PAUSE: Duration = Duration::from_secs(2);
/// What one replica has just looked after, no other one does.
const FRESH_MS: i64 = 200;

/// What a replica is to look after now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Since when leases are looked after without a pause, by the database's clock in unix milliseconds.
    pub(crate) alive_since: i64,
    /// Nobody did for a while: all instances, or the database, were down.
    pub(crate) after_pause: bool,
}

/// Takes the turn to look after leases; `None` when another replica has just done it, or does.
pub(crate) async fn take_turn(tx: &mut Tx, now: i64) -> Result<Option<Turn>, StoreError> {
    let skip_locked = Dialect::of(tx).skip_locked();
    let pause = i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX);
    // A clock that was set back counts as a pause, too.
    let sql = format!(
        "UPDATE sweeps SET alive_since = CASE WHEN swept_at < $1 - {pause} OR swept_at > $1 + 1000 THEN $1 ELSE alive_since \
         END, swept_at = $1 WHERE id IN (SELECT id FROM sweeps WHERE id = 1 AND (swept_at <= $1 - {FRESH_MS} \
         OR swept_at > $1 + 1000){skip_locked}) RETURNING alive_since"
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(now).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    let alive_since = row.try_get(0)?;
    Ok(Some(Turn { alive_since, after_pause: alive_since == now }))
}

/// How long ago some replica looked after leases, in milliseconds.
pub(crate) async fn last_turn_ago(tx: &mut Tx, now: i64) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT swept_at FROM sweeps WHERE id = 1").fetch_one(&mut **tx).await?;
    Ok(now.saturating_sub(row.try_get(0)?))
}

pub(super) async fn count_change(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query("UPDATE changes SET number = number + 1 WHERE id = 1").execute(&mut **tx).await?;
    Ok(())
}

/// How many changes were made so far.
pub(crate) async fn changes<'e>(db: impl Executor<'e, Database = Any>) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT number FROM changes WHERE id = 1").fetch_one(db).await?;
    Ok(row.try_get(0)?)
}

/// Makes `replica` the one that gives leases to these MIDs; returns those for which it was not. It is committed at once:
/// what another replica gave before is committed then, and what it would give later is refused by [`polls_here`].
pub(crate) async fn take_polls(store: &Store, replica: &str, mids: &[&str]) -> Result<Vec<String>, StoreError> {
    // As a rule there is none, and one question for all of them says so.
    let elsewhere = "SELECT id FROM mids WHERE id = ANY(ARRAY(SELECT json_array_elements_text(CAST($1 AS json)))) \
                     AND polls_at IS DISTINCT FROM $2 ORDER BY id";
    let elsewhere = sqlx::query(elsewhere).bind(to_json(&mids)?).bind(replica).fetch_all(&store.queue).await?;
    let mut taken = Vec::with_capacity(elsewhere.len());
    for row in elsewhere {
        let mid: String = row.try_get(0)?;
        let update = sqlx::query("UPDATE mids SET polls_at = $1 WHERE id = $2").bind(replica).bind(&mid);
        update.execute(&store.writer).await?;
        taken.push(mid);
    }
    Ok(taken)
}

/// To which of these MIDs `replica` may give leases, where the incarnation that is named has the word; it stays so until
/// the transaction ends. Rows are locked in order, so that two who lock several do not wait for each other.
pub(crate) async fn polls_here(
    tx: &mut Tx,
    replica: &str,
    mids: &HashMap<&str, &str>,
) -> Result<HashSet<String>, StoreError> {
    let sql = "SELECT id FROM mids WHERE id = ANY(ARRAY(SELECT jsonb_object_keys(CAST($1 AS jsonb)))) AND polls_at = $2 \
               AND incarnation = CAST($1 AS jsonb) ->> id ORDER BY id FOR SHARE";
    let rows = sqlx::query(sql).bind(to_json(mids)?).bind(replica).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// The channel of the hints between replicas. They carry nothing: who hears one looks into the database.
pub(crate) const CHANNEL: &str = "midward";

/// Tells the other replicas to look, once this transaction is committed.
pub(crate) async fn hint(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query("NOTIFY midward").execute(&mut **tx).await?;
    Ok(())
}
