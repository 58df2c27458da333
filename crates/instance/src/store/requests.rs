//! Requests, their leases and outcomes. Every change of state is one statement that proves what it relies on.

use std::collections::HashSet;
use std::sync::LazyLock;

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::StoreError;
use super::dialect::Dialect;
use super::rows::{Sized, pieces};

type Tx = Transaction<'static, Any>;

pub(crate) const QUEUED: i64 = 0;
pub(crate) const LEASED: i64 = 1;
pub(crate) const REPLIED: i64 = 2;
pub(crate) const FAILED: i64 = 3;
pub(crate) const UNKNOWN: i64 = 4;

/// A request to be stored, with its lease when one is given at once.
#[derive(Clone, Debug)]
pub(crate) struct NewRequest {
    pub(crate) id: String,
    pub(crate) connection: String,
    pub(crate) config_digest: String,
    pub(crate) resolver: String,
    /// `,id,id,` or empty for any MID.
    pub(crate) mids: String,
    pub(crate) repeatable: bool,
    pub(crate) lease_ms: i64,
    pub(crate) expires_at: i64,
    pub(crate) created_at: i64,
    pub(crate) client_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) fingerprint: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) call_json: String,
    pub(crate) priority: Priority,
    /// The replica that took it.
    pub(crate) origin: String,
    pub(crate) lease: Option<NewLease>,
}

/// Which of the queued requests goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Priority {
    /// Somebody waits for the answer.
    Interactive,
    #[default]
    Standard,
}

impl Priority {
    const fn number(self) -> i64 {
        match self {
            Self::Interactive => 0,
            Self::Standard => 1,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NewLease {
    pub(crate) mid_id: String,
    pub(crate) incarnation: String,
    pub(crate) batch: i64,
    pub(crate) expires_at: i64,
}

/// What a MID is told about a request that it holds.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) lease_expires_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) config_digest: String,
    pub(crate) call_json: String,
    pub(crate) batch: i64,
}

/// An outcome to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) state: i64,
    pub(crate) outcome: String,
    pub(crate) trace: String,
}

/// A request as its caller sees it.
#[derive(Clone, Debug)]
pub(crate) struct RequestRow {
    pub(crate) id: String,
    pub(crate) connection: String,
    pub(crate) state: i64,
    pub(crate) epoch: i64,
    pub(crate) mid_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) finished_at: Option<i64>,
    pub(crate) outcome: Option<String>,
    pub(crate) trace: Option<String>,
}

static INSERT: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(
        "INSERT INTO requests (id, connection, config_digest, resolver, mids, state, repeatable, epoch, lease_mid, \
         lease_incarnation, lease_batch, lease_expires_at, lease_ms, expires_at, created_at, client_id, \
         idempotency_key, fingerprint, method, path, call_json, priority, origin) VALUES ",
        &[
            "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "TEXT", "TEXT", "BIGINT", "BIGINT",
            "BIGINT", "BIGINT", "BIGINT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "TEXT", "BIGINT", "TEXT",
        ],
        "",
        &[],
    )
});

pub(crate) async fn insert(tx: &mut Tx, requests: &[NewRequest]) -> Result<(), StoreError> {
    let dialect = Dialect::of(tx);
    let mut rest = requests;
    for piece in pieces(requests.len()) {
        let (now, later) = rest.split_at(piece);
        rest = later;
        let mut query = sqlx::query(AssertSqlSafe(INSERT.sql(dialect, piece)));
        for request in now {
            let lease = request.lease.as_ref();
            query = query
                .bind(&request.id)
                .bind(&request.connection)
                .bind(&request.config_digest)
                .bind(&request.resolver)
                .bind(&request.mids)
                .bind(if lease.is_some() { LEASED } else { QUEUED })
                .bind(i64::from(request.repeatable))
                .bind(i64::from(lease.is_some()))
                .bind(lease.map(|lease| lease.mid_id.as_str()))
                .bind(lease.map(|lease| lease.incarnation.as_str()))
                .bind(lease.map(|lease| lease.batch))
                .bind(lease.map(|lease| lease.expires_at))
                .bind(request.lease_ms)
                .bind(request.expires_at)
                .bind(request.created_at)
                .bind(&request.client_id)
                .bind(&request.idempotency_key)
                .bind(&request.fingerprint)
                .bind(&request.method)
                .bind(&request.path)
                .bind(&request.call_json)
                .bind(request.priority.number())
                .bind(&request.origin);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Those of `ids` that are stored already: a commit whose answer got lost.
pub(crate) async fn stored<'a>(tx: &mut Tx, ids: &[&'a str]) -> Result<HashSet<&'a str>, StoreError> {
    let mut found = HashSet::new();
    for id in ids {
        let row = sqlx::query("SELECT id FROM requests WHERE id = $1").bind(id).fetch_optional(&mut **tx).await?;
        if row.is_some() {
            found.insert(*id);
        }
    }
    Ok(found)
}

/// The request that a client submitted under this key before, with its fingerprint.
pub(crate) async fn by_idempotency_key(
    tx: &mut Tx,
    client_id: &str,
    key: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let row = sqlx::query("SELECT id, fingerprint FROM requests WHERE client_id = $1 AND idempotency_key = $2")
        .bind(client_id)
        .bind(key)
        .fetch_optional(&mut **tx)
        .await?;
    match row {
        Some(row) => Ok(Some((row.try_get(0)?, row.try_get(1)?))),
        None => Ok(None),
    }
}

/// Who claims, and what.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) mid_id: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) batch: i64,
    /// Names of resolvers that the MID can use.
    pub(crate) resolvers: &'a [String],
    pub(crate) limit: u32,
    pub(crate) now: i64,
}

/// Leases queued requests that the MID can serve: interactive ones first, then the oldest.
pub(crate) async fn claim(tx: &mut Tx, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError> {
    use std::fmt::Write as _;
    if claim.resolvers.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = String::new();
    for number in 0..claim.resolvers.len() {
        let _ = write!(names, "{}${}", if number == 0 { "" } else { ", " }, number + 7);
    }
    let skip_locked = Dialect::of(tx).skip_locked();
    let sql = format!(
        "UPDATE requests SET state = 1, epoch = epoch + 1, lease_mid = $1, lease_incarnation = $2, \
         lease_batch = $3, lease_expires_at = $4 + lease_ms WHERE id IN (SELECT id FROM requests WHERE state = 0 \
         AND expires_at > $4 AND (mids = '' OR mids LIKE $5) AND resolver IN ({names}) ORDER BY priority, created_at, \
         id LIMIT $6{skip_locked}) RETURNING id, epoch, lease_expires_at, expires_at, config_digest, call_json, \
         lease_batch"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.mid_id)
        .bind(claim.incarnation)
        .bind(claim.batch)
        .bind(claim.now)
        .bind(format!("%,{},%", claim.mid_id))
        .bind(i64::from(claim.limit));
    for name in claim.resolvers {
        query = query.bind(name);
    }
    // RETURNING promises no order.
    let mut leased = query.fetch_all(&mut **tx).await?.iter().map(leased).collect::<Result<Vec<_>, _>>()?;
    leased.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(leased)
}

/// Leases of batches after `received`: delivered again to the incarnation that they were made for.
pub(crate) async fn undelivered(
    tx: &mut Tx,
    mid_id: &str,
    incarnation: &str,
    received: i64,
) -> Result<Vec<Leased>, StoreError> {
    sqlx::query(
        "SELECT id, epoch, lease_expires_at, expires_at, config_digest, call_json, lease_batch FROM requests \
         WHERE state = 1 AND lease_mid = $1 AND lease_incarnation = $2 AND lease_batch > $3 ORDER BY id",
    )
    .bind(mid_id)
    .bind(incarnation)
    .bind(received)
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(leased)
    .collect()
}

static FINISH: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(
        "WITH reported (id, epoch, state, outcome, trace) AS (VALUES ",
        &["TEXT", "BIGINT", "BIGINT", "TEXT", "TEXT"],
        ") UPDATE requests SET state = reported.state, outcome = reported.outcome, trace = reported.trace, \
         finished_at = ",
        &[
            (
                "BIGINT",
                " FROM reported WHERE requests.id = reported.id AND requests.epoch = reported.epoch \
                 AND requests.lease_mid = ",
            ),
            ("TEXT", " AND requests.state IN (0, 1, 4) RETURNING requests.id, requests.origin"),
        ],
    )
});

/// Records outcomes of one MID; returns the requests for which the MID's last epoch still stands, and their origins. A late outcome
/// replaces `unknown`, and ends a request that was queued again but that nobody else was given.
pub(crate) async fn finish(
    tx: &mut Tx,
    mid_id: &str,
    now: i64,
    outcomes: &[&Finish],
) -> Result<Vec<(String, String)>, StoreError> {
    let dialect = Dialect::of(tx);
    let mut rest = outcomes;
    let mut accepted = Vec::with_capacity(outcomes.len());
    for piece in pieces(outcomes.len()) {
        let (these, later) = rest.split_at(piece);
        rest = later;
        let mut query = sqlx::query(AssertSqlSafe(FINISH.sql(dialect, piece)));
        for outcome in these {
            query = query
                .bind(&outcome.id)
                .bind(outcome.epoch)
                .bind(outcome.state)
                .bind(&outcome.outcome)
                .bind(&outcome.trace);
        }
        for row in query.bind(now).bind(mid_id).fetch_all(&mut **tx).await? {
            accepted.push((row.try_get(0)?, row.try_get(1)?));
        }
    }
    Ok(accepted)
}

/// Whether exactly this outcome was recorded before.
pub(crate) async fn is_recorded(tx: &mut Tx, mid_id: &str, outcome: &Finish) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT id FROM requests WHERE id = $1 AND epoch = $2 AND lease_mid = $3 AND state = $4 AND outcome = $5",
    )
    .bind(&outcome.id)
    .bind(outcome.epoch)
    .bind(mid_id)
    .bind(outcome.state)
    .bind(&outcome.outcome)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.is_some())
}

/// Queues a request again of which its MID, or the instance, knows that no byte was sent.
pub(crate) async fn hand_back(tx: &mut Tx, mid_id: &str, id: &str, epoch: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE requests SET state = 0, lease_mid = NULL, lease_expires_at = NULL WHERE id = $1 AND epoch = $2 \
         AND lease_mid = $3 AND state = 1",
    )
    .bind(id)
    .bind(epoch)
    .bind(mid_id)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The statement that moves work proves itself that the MID is dead.
static DEAD: LazyLock<String> = LazyLock::new(|| {
    format!(
        "$1 = $2 AND lease_mid IN (SELECT id FROM mids WHERE last_seen_at < $3 - {})",
        crate::fleet::LIVE_FOR.as_millis()
    )
});

/// Ends leases: of all incarnations of a MID but one, of MIDs that are dead, or of everybody whose time is over. What
/// may be repeated is queued again, the rest becomes `unknown` with `outcome`. Returns the requests that became unknown.
pub(crate) async fn end_leases(
    tx: &mut Tx,
    which: Ended<'_>,
    now: i64,
    outcome: &str,
) -> Result<Vec<String>, StoreError> {
    let (filter, mid_id, incarnation) = match which {
        Ended::OtherIncarnations { mid_id, current } => {
            ("lease_mid = $1 AND lease_incarnation <> $2 AND $3 = $3", mid_id, current)
        }
        Ended::Dead => (DEAD.as_str(), "", ""),
        Ended::Overdue => ("$1 = $2 AND lease_expires_at <= $3", "", ""),
    };
    let again = format!("UPDATE requests SET state = 0, unsure = 1 WHERE state = 1 AND repeatable = 1 AND {filter}");
    sqlx::query(AssertSqlSafe(again)).bind(mid_id).bind(incarnation).bind(now).execute(&mut **tx).await?;
    let unknown = format!(
        "UPDATE requests SET state = 4, outcome = $4, trace = '[]', finished_at = $3 WHERE state = 1 AND {filter} \
         RETURNING id"
    );
    let rows = sqlx::query(AssertSqlSafe(unknown))
        .bind(mid_id)
        .bind(incarnation)
        .bind(now)
        .bind(outcome)
        .fetch_all(&mut **tx)
        .await?;
    ids(&rows)
}

/// Whose leases end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended<'a> {
    OtherIncarnations {
        mid_id: &'a str,
        current: &'a str,
    },
    /// Of MIDs that are heard of no more.
    Dead,
    Overdue,
}

/// Ends a request that waits and that no MID was ever given, with `outcome`. False: it is too late for that.
pub(crate) async fn withdraw(tx: &mut Tx, id: &str, now: i64, outcome: &str) -> Result<bool, StoreError> {
    let sql = format!(
        "UPDATE requests SET state = {FAILED}, outcome = $1, trace = '[]', finished_at = $2 WHERE id = $3 AND state = 0 \
         AND lease_mid IS NULL AND epoch = 0"
    );
    let done = sqlx::query(AssertSqlSafe(sql)).bind(outcome).bind(now).bind(id).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Ends queued requests whose time is over with `outcome`. Returns which. Those that were surely never sent fail: never
/// leased, or handed back; the others (`was_given_out`) become `unknown`.
pub(crate) async fn expire(
    tx: &mut Tx,
    now: i64,
    outcome: &str,
    was_given_out: bool,
) -> Result<Vec<String>, StoreError> {
    let (state, which) = if was_given_out {
        (UNKNOWN, "(lease_mid IS NOT NULL OR unsure = 1)")
    } else {
        (FAILED, "lease_mid IS NULL AND unsure = 0")
    };
    let sql = format!(
        "UPDATE requests SET state = {state}, outcome = $1, trace = '[]', finished_at = $2 WHERE state = 0 \
         AND expires_at <= $2 AND {which} RETURNING id"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(outcome).bind(now).fetch_all(&mut **tx).await?;
    ids(&rows)
}

/// Removes up to `limit` requests that finished before `before`. Returns how many.
pub(crate) async fn remove_finished(tx: &mut Tx, before: i64, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE finished_at < $1 AND finished_at IS NOT NULL \
         ORDER BY finished_at LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// After a restart: no live lease ends before `until`, so that MIDs can report what they did meanwhile.
pub(crate) async fn grant_grace(tx: &mut Tx, until: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE requests SET lease_expires_at = $1 WHERE state = 1 AND lease_expires_at < $1")
        .bind(until)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether something waits for a MID.
pub(crate) async fn any_queued(tx: &mut Tx) -> Result<bool, StoreError> {
    Ok(sqlx::query("SELECT id FROM requests WHERE state = 0 LIMIT 1").fetch_optional(&mut **tx).await?.is_some())
}

const COLUMNS: &str = "SELECT id, connection, state, epoch, lease_mid, client_id, method, path, created_at, \
                       expires_at, finished_at, outcome, trace FROM requests";

pub(crate) async fn find<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
) -> Result<Option<RequestRow>, StoreError> {
    static SQL: LazyLock<std::sync::Arc<str>> = LazyLock::new(|| format!("{COLUMNS} WHERE id = $1").into());
    sqlx::query(AssertSqlSafe(SQL.clone())).bind(id).fetch_optional(db).await?.as_ref().map(request).transpose()
}

/// How those of `ids` ended that have ended: identifier, outcome, trace.
pub(crate) async fn ended<'e>(
    db: impl Executor<'e, Database = Any>,
    ids: &[String],
) -> Result<Vec<(String, String, String)>, StoreError> {
    use std::fmt::Write as _;
    let mut list = String::new();
    for number in 1..=ids.len() {
        let _ = write!(list, "{}${number}", if number == 1 { "" } else { ", " });
    }
    let sql = format!("SELECT id, outcome, trace FROM requests WHERE outcome IS NOT NULL AND id IN ({list})");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for id in ids {
        query = query.bind(id);
    }
    let rows = query.fetch_all(db).await?;
    let trace =
        |row: &AnyRow| row.try_get::<Option<String>, _>(2).map(|trace| trace.unwrap_or_else(|| "[]".to_owned()));
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, trace(row)?))).collect()
}

fn ids(rows: &[AnyRow]) -> Result<Vec<String>, StoreError> {
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

fn leased(row: &AnyRow) -> Result<Leased, StoreError> {
    Ok(Leased {
        id: row.try_get(0)?,
        epoch: row.try_get(1)?,
        lease_expires_at: row.try_get(2)?,
        expires_at: row.try_get(3)?,
        config_digest: row.try_get(4)?,
        call_json: row.try_get(5)?,
        batch: row.try_get(6)?,
    })
}

fn request(row: &AnyRow) -> Result<RequestRow, StoreError> {
    Ok(RequestRow {
        id: row.try_get(0)?,
        connection: row.try_get(1)?,
        state: row.try_get(2)?,
        epoch: row.try_get(3)?,
        mid_id: row.try_get(4)?,
        client_id: row.try_get(5)?,
        method: row.try_get(6)?,
        path: row.try_get(7)?,
        created_at: row.try_get(8)?,
        expires_at: row.try_get(9)?,
        finished_at: row.try_get(10)?,
        outcome: row.try_get(11)?,
        trace: row.try_get(12)?,
    })
}
