//! How requests end, and which of them are tried again.

use std::sync::{Arc, LazyLock};

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::dialect::Dialect;
use super::leases::ids;
use super::requests::{FAILED, REDUCED, UNKNOWN};
use super::rows::{Sized, keyed_texts, pieces as rows_of};
use super::{StoreError, pieces};
use crate::at_rest::Kept;

type Tx = Transaction<'static, Any>;

/// An outcome to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) state: i64,
    pub(crate) outcome: Arc<String>,
    /// `outcome` as it is stored.
    pub(crate) kept: Kept,
    /// What is stored in its place when its connection keeps metadata only; None: `outcome` holds no more than that.
    pub(crate) reduced: Option<String>,
    pub(crate) trace: String,
}

/// A request whose outcome was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) id: String,
    pub(crate) mid_id: String,
    /// The replica that took it.
    pub(crate) origin: String,
    /// Its connection, when that has limits.
    pub(crate) limited: Option<String>,
    /// The outcome's body and headers were not stored, and the call's are gone.
    pub(crate) reduced: bool,
    /// When its last lease began, in unix milliseconds of the database; 0: it has none any more.
    pub(crate) leased_at: i64,
}

/// When a request ends whose connection keeps metadata only.
pub(super) const REMOVE_CALL: &str =
    "call_json = CASE WHEN keep = 0 THEN call_json ELSE '' END, keep = CASE WHEN keep = 0 THEN 0 ELSE 3 END";

static FINISH_SQLITE: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(
        "WITH reported (id, epoch, mid, state, outcome, trace, reduced, size, replica) AS (VALUES ",
        9,
        ") UPDATE requests SET state = reported.state, trace = reported.trace, \
         call_json = CASE WHEN requests.keep = 0 THEN requests.call_json ELSE '' END, \
         size = CASE WHEN requests.keep = 0 THEN requests.size + reported.size ELSE 0 END, \
         keep = CASE WHEN requests.keep = 1 OR (requests.keep = 2 AND requests.origin = reported.replica) THEN 3 \
         ELSE requests.keep END, outcome = CASE WHEN requests.keep IN (1, 3) OR (requests.keep = 2 \
         AND requests.origin = reported.replica) THEN COALESCE(reported.reduced, reported.outcome) \
         ELSE reported.outcome END, finished_at = ? FROM reported WHERE requests.id = reported.id \
         AND requests.epoch = reported.epoch AND requests.lease_mid = reported.mid AND requests.state IN (0, 1, 4) \
         RETURNING requests.id, requests.lease_mid, requests.origin, \
         CASE WHEN requests.limited = 1 THEN requests.connection END, requests.keep, \
         COALESCE(requests.lease_expires_at - requests.lease_ms, 0)",
    )
});

/// The rows are looked up by the identifiers, and what is reported of each is looked up in the JSON. A join of the two
/// could be planned either way round, and the plan is kept.
static FINISH_POSTGRES: LazyLock<Arc<str>> = LazyLock::new(|| {
    let reported = |field: &str| format!("(SELECT rows FROM reported) -> id ->> '{field}'");
    let (state, size, trace) = (reported("state"), reported("size"), reported("trace"));
    let (outcome, reduced) = (reported("outcome"), reported("reduced"));
    let (epoch, mid) = (reported("epoch"), reported("mid"));
    format!(
        "WITH reported AS MATERIALIZED (SELECT CAST($2 AS jsonb) AS rows) \
         UPDATE requests SET state = CAST({state} AS INTEGER), trace = {trace}, \
         call_json = CASE WHEN keep = 0 THEN call_json ELSE '' END, \
         size = CASE WHEN keep = 0 THEN size + CAST({size} AS BIGINT) ELSE 0 END, \
         keep = CASE WHEN keep = 1 OR (keep = 2 AND origin = $3) THEN 3 ELSE keep END, \
         outcome = CASE WHEN keep IN (1, 3) OR (keep = 2 AND origin = $3) THEN COALESCE({reduced}, {outcome}) \
         ELSE {outcome} END, finished_at = $1 WHERE id = ANY(ARRAY(SELECT jsonb_object_keys(rows) FROM reported)) \
         AND epoch = CAST({epoch} AS BIGINT) AND lease_mid = {mid} AND state IN (0, 1, 4) \
         RETURNING id, lease_mid, origin, CASE WHEN limited = 1 THEN connection END, keep, \
         COALESCE(lease_expires_at - lease_ms, 0)"
    )
    .into()
});

/// What is reported of a request.
#[derive(serde::Serialize)]
struct Reported<'a> {
    epoch: i64,
    mid: &'a str,
    state: i64,
    outcome: &'a str,
    trace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reduced: Option<&'a str>,
    size: i64,
}

/// Records outcomes, each with the MID that reported it and no two on one request; returns the requests for which the
/// MID's last epoch still stands. A late outcome replaces `unknown`, and ends a request that was queued again but that
/// nobody else was given. `replica`: this one, whose waiting callers are told in memory.
pub(crate) async fn finish(
    tx: &mut Tx,
    replica: &str,
    now: i64,
    outcomes: &[(&str, &Finish)],
) -> Result<Vec<Finished>, StoreError> {
    let mut rows = outcomes.iter().map(|(mid, outcome)| {
        let row = Reported {
            epoch: outcome.epoch,
            mid,
            state: outcome.state,
            outcome: outcome.kept.column.as_str(),
            trace: &outcome.trace,
            reduced: outcome.reduced.as_deref(),
            size: outcome.kept.size(),
        };
        (outcome.id.as_str(), row)
    });
    let mut accepted = Vec::with_capacity(outcomes.len());
    if Dialect::of(tx) == Dialect::Postgres {
        for text in keyed_texts(rows)? {
            let query = sqlx::query(AssertSqlSafe(FINISH_POSTGRES.clone())).bind(now).bind(text).bind(replica);
            accepted.extend(query.fetch_all(&mut **tx).await?.iter().map(finished).collect::<Result<Vec<_>, _>>()?);
        }
        return Ok(accepted);
    }
    for piece in rows_of(outcomes.len()) {
        let mut query = sqlx::query(AssertSqlSafe(FINISH_SQLITE.sql(piece)));
        for (id, row) in rows.by_ref().take(piece) {
            query = query.bind(id).bind(row.epoch).bind(row.mid).bind(row.state).bind(row.outcome).bind(row.trace);
            query = query.bind(row.reduced).bind(row.size).bind(replica);
        }
        let rows = query.bind(now).fetch_all(&mut **tx).await?;
        accepted.extend(rows.iter().map(finished).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(accepted)
}

fn finished(row: &AnyRow) -> Result<Finished, StoreError> {
    Ok(Finished {
        id: row.try_get(0)?,
        mid_id: row.try_get(1)?,
        origin: row.try_get(2)?,
        limited: row.try_get(3)?,
        reduced: row.try_get::<i64, _>(4)? == REDUCED,
        leased_at: row.try_get(5)?,
    })
}

/// What is stored as the outcome that this MID reported before, in the same state; and whether it is reduced.
pub(crate) async fn recorded(
    tx: &mut Tx,
    mid_id: &str,
    outcome: &Finish,
) -> Result<Option<(String, bool)>, StoreError> {
    let row = sqlx::query(
        "SELECT outcome, keep FROM requests WHERE id = $1 AND epoch = $2 AND lease_mid = $3 AND state = $4 \
         AND outcome IS NOT NULL",
    )
    .bind(&outcome.id)
    .bind(outcome.epoch)
    .bind(mid_id)
    .bind(outcome.state)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((row.try_get(0)?, row.try_get::<i64, _>(1)? == REDUCED)))
}

/// What is to be known before an outcome is recorded by which a request may be tried again.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    /// JSON of the policy.
    pub(crate) policy: String,
    /// How often it was tried again.
    pub(crate) attempts: i64,
    pub(crate) expires_at: i64,
}

/// The policy of a request that this MID holds; `None`: it has none, or the MID does not hold it.
pub(crate) async fn trial(tx: &mut Tx, mid_id: &str, outcome: &Finish) -> Result<Option<Trial>, StoreError> {
    let row = sqlx::query(
        "SELECT retry, attempts, expires_at FROM requests WHERE id = $1 AND epoch = $2 AND lease_mid = $3 \
         AND state IN (0, 1) AND retry IS NOT NULL",
    )
    .bind(&outcome.id)
    .bind(outcome.epoch)
    .bind(mid_id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Trial { policy: row.try_get(0)?, attempts: row.try_get(1)?, expires_at: row.try_get(2)? }))
}

/// Queues a request again for its next attempt, and keeps how this one ended. Returns its connection, when that has
/// limits; `None`: the MID does not hold it.
pub(crate) async fn try_again(
    tx: &mut Tx,
    mid_id: &str,
    outcome: &Finish,
    not_before: i64,
) -> Result<Option<Option<String>>, StoreError> {
    let row = sqlx::query(
        "UPDATE requests SET state = 0, not_before = $1, delayed_until = $1, attempts = attempts + 1, unsure = 0, \
         lease_mid = NULL, lease_expires_at = NULL, last_state = $2, last_outcome = CASE WHEN keep = 0 THEN $3 ELSE $4 END, \
         last_trace = $5, last_epoch = epoch WHERE id = $6 AND epoch = $7 AND lease_mid = $8 AND state IN (0, 1) RETURNING keep, \
         CASE WHEN limited = 1 THEN connection END",
    )
    .bind(not_before)
    .bind(outcome.state)
    .bind(outcome.kept.column.as_str())
    .bind(outcome.reduced.as_deref().unwrap_or(&outcome.kept.column))
    .bind(&outcome.trace)
    .bind(&outcome.id)
    .bind(outcome.epoch)
    .bind(mid_id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    pieces::forget_attempts(tx, &outcome.id, &outcome.kept.set).await?;
    if row.try_get::<i64, _>(0)? == 0 {
        pieces::insert(tx, &outcome.id, &outcome.kept).await?;
    }
    Ok(Some(row.try_get(1)?))
}

/// What is stored as the outcome after which a request was tried again last, whatever became of it since; and whether it
/// is reduced.
pub(crate) async fn tried_again(tx: &mut Tx, outcome: &Finish) -> Result<Option<(String, bool)>, StoreError> {
    let sql = "SELECT last_outcome, keep FROM requests WHERE id = $1 AND last_epoch = $2 AND last_outcome IS NOT NULL";
    let row = sqlx::query(sql).bind(&outcome.id).bind(outcome.epoch).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((row.try_get(0)?, row.try_get::<i64, _>(1)? != 0)))
}

/// It has failed, and has no attempt left.
pub(crate) async fn bury(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE requests SET dead = 1 WHERE id = $1").bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// Ends requests that wait for their next attempt when their time is over: as the last one ended. At most `most` of them.
pub(crate) async fn expire_retried(
    tx: &mut Tx,
    now: i64,
    most: usize,
) -> Result<Vec<(String, String, String)>, StoreError> {
    let over = "state = 0 AND expires_at <= $1 AND lease_mid IS NULL AND unsure = 0 AND last_outcome IS NOT NULL";
    let sql = format!(
        "UPDATE requests SET state = last_state, outcome = last_outcome, trace = last_trace, dead = 1, \
         finished_at = $1, {REMOVE_CALL} WHERE {over} AND id IN (SELECT id FROM requests WHERE {over} \
         ORDER BY expires_at LIMIT $2) RETURNING id, outcome, trace"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(now).bind(most).fetch_all(&mut **tx).await?;
    pieces::forget_reduced(tx, &ids(&rows)?).await?;
    rows.iter().map(how_ended).collect()
}

/// What a request that is driven again takes from its connection as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Redrive<'a> {
    pub(crate) config_digest: &'a str,
    pub(crate) resolver: &'a str,
    pub(crate) mids: &'a str,
    pub(crate) ordered: bool,
    pub(crate) limited: bool,
    pub(crate) retry: Option<&'a str>,
    pub(crate) lease_ms: i64,
    pub(crate) expires_at: i64,
}

/// Queues a dead letter again with all its attempts. False: it is none.
pub(crate) async fn redrive(tx: &mut Tx, id: &str, terms: &Redrive<'_>) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE requests SET state = 0, dead = 0, attempts = 0, unsure = 0, not_before = 0, delayed_until = NULL, \
         lease_mid = NULL, lease_expires_at = NULL, outcome = NULL, trace = NULL, finished_at = NULL, last_state = NULL, \
         last_outcome = NULL, last_trace = NULL, last_epoch = NULL, config_digest = $1, resolver = $2, mids = $3, ordered = $4, \
         limited = $5, retry = $6, lease_ms = $7, expires_at = $8 WHERE id = $9 AND dead = 1 AND call_json <> ''",
    )
    .bind(terms.config_digest)
    .bind(terms.resolver)
    .bind(terms.mids)
    .bind(i64::from(terms.ordered))
    .bind(i64::from(terms.limited))
    .bind(terms.retry)
    .bind(terms.lease_ms)
    .bind(terms.expires_at)
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a request that waits and that no MID has or may have sent since it was queued: with `outcome`, or, when it waits
/// for its next attempt, as the last one ended. Returns that outcome and the trace, as they are stored; `None`: it is
/// too late.
pub(crate) async fn withdraw(
    tx: &mut Tx,
    id: &str,
    now: i64,
    outcome: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let sql = format!(
        "UPDATE requests SET state = COALESCE(last_state, {FAILED}), outcome = COALESCE(last_outcome, $1), \
         trace = COALESCE(last_trace, '[]'), finished_at = $2, {REMOVE_CALL} \
         WHERE id = $3 AND state = 0 AND lease_mid IS NULL AND unsure = 0 RETURNING id, outcome, trace"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(outcome).bind(now).bind(id).fetch_all(&mut **tx).await?;
    pieces::forget_reduced(tx, &ids(&rows)?).await?;
    let ended = rows.first().map(how_ended).transpose()?;
    Ok(ended.map(|(_, outcome, trace)| (outcome, trace)))
}

/// Ends queued requests whose time is over with `outcome`, at most `most` of them. Returns which. Those that were surely
/// never sent fail: never leased, or handed back; the others (`was_given_out`) become `unknown`.
pub(crate) async fn expire(
    tx: &mut Tx,
    now: i64,
    outcome: &str,
    was_given_out: bool,
    most: usize,
) -> Result<Vec<String>, StoreError> {
    let (state, which) = if was_given_out {
        (UNKNOWN, "(lease_mid IS NOT NULL OR unsure = 1)")
    } else {
        (FAILED, "lease_mid IS NULL AND unsure = 0")
    };
    let over = format!("state = 0 AND expires_at <= $2 AND {which}");
    let sql = format!(
        "UPDATE requests SET state = {state}, outcome = $1, trace = '[]', finished_at = $2, {REMOVE_CALL} \
         WHERE {over} AND id IN (SELECT id FROM requests WHERE {over} ORDER BY expires_at LIMIT $3) RETURNING id"
    );
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(outcome).bind(now).bind(most).fetch_all(&mut **tx).await?;
    let ids = ids(&rows)?;
    pieces::forget_reduced(tx, &ids).await?;
    Ok(ids)
}

/// How a request ended, for one who waits.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    /// As it is stored.
    pub(crate) outcome: String,
    pub(crate) trace: String,
    /// It is stored only until its caller has it.
    pub(crate) passing: bool,
}

/// How those of `ids` ended that have ended.
pub(crate) async fn ended<'e>(db: impl Executor<'e, Database = Any>, ids: &[String]) -> Result<Vec<Told>, StoreError> {
    use std::fmt::Write as _;
    let mut list = String::new();
    for number in 1..=ids.len() {
        let _ = write!(list, "{}${number}", if number == 1 { "" } else { ", " });
    }
    let sql = format!("SELECT id, outcome, trace, keep FROM requests WHERE outcome IS NOT NULL AND id IN ({list})");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for id in ids {
        query = query.bind(id);
    }
    let rows = query.fetch_all(db).await?;
    let told = rows.iter().map(|row| {
        let (id, outcome, trace) = how_ended(row)?;
        Ok(Told { id, outcome, trace, passing: row.try_get::<i64, _>(3)? == 2 })
    });
    told.collect()
}

fn how_ended(row: &AnyRow) -> Result<(String, String, String), StoreError> {
    let trace: Option<String> = row.try_get(2)?;
    Ok((row.try_get(0)?, row.try_get(1)?, trace.unwrap_or_else(|| "[]".to_owned())))
}
