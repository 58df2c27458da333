//! Leases: requests held by one MID until a time. Every change of state is one statement that proves what it relies on.

use std::sync::{Arc, LazyLock};

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};

use super::dialect::Dialect;
use super::outcomes::REMOVE_CALL;
use super::{StoreError, pieces};

type Tx = Transaction<'static, Any>;

/// What a MID is told about a request that it holds.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) id: String,
    pub(crate) epoch: i64,
    pub(crate) lease_expires_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) config_digest: String,
    pub(crate) call: Call,
    /// Of the call as it is stored, in bytes.
    pub(crate) size: i64,
    pub(crate) batch: i64,
}

/// JSON of a call.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Plain(Arc<String>),
    /// What stands in its column.
    Stored(String),
}

/// Most bytes of calls in what a MID is given at once; the last one of them may go beyond.
pub(crate) const MOST_BYTES: i64 = 16 * 1024 * 1024;

/// Who claims, and what.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) mid_id: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) batch: i64,
    /// Names of resolvers that the MID can use.
    pub(crate) resolvers: &'a [String],
    pub(crate) limit: u32,
    /// Calls are claimed until they are as large as this together, in bytes.
    pub(crate) bytes: i64,
    pub(crate) now: i64,
    /// The one connection whose requests are claimed; None: those of all that have no limits.
    pub(crate) connection: Option<&'a str>,
    /// Resolver and MID: where the order of MIDs counts and that MID stands before, it can serve them itself.
    pub(crate) ahead: &'a [(String, String)],
}

/// Leases queued requests that the MID can serve: interactive ones first, then the oldest.
pub(crate) async fn claim(tx: &mut Tx, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError> {
    use std::fmt::Write as _;
    if claim.resolvers.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = String::new();
    let mut number = 7;
    for _ in claim.resolvers {
        number += 1;
        let _ = write!(names, "{}${number}", if names.is_empty() { "" } else { ", " });
    }
    let mut terms = String::new();
    for _ in claim.ahead {
        let _ = write!(terms, " AND NOT (ordered = 1 AND resolver = ${} AND mids LIKE ${})", number + 1, number + 2);
        number += 2;
    }
    match claim.connection {
        Some(_) => {
            let _ = write!(terms, " AND limited = 1 AND connection = ${}", number + 1);
        }
        None => terms.push_str(" AND limited = 0"),
    }
    let skip_locked = Dialect::of(tx).skip_locked();
    let sql = format!(
        "UPDATE requests SET state = 1, epoch = epoch + 1, lease_mid = $1, lease_incarnation = $2, \
         lease_batch = $3, lease_expires_at = $4 + lease_ms WHERE id IN (SELECT id FROM (SELECT id, \
         SUM(size) OVER (ORDER BY priority, created_at, id) - size AS earlier FROM (SELECT id, size, priority, \
         created_at FROM requests WHERE state = 0 AND expires_at > $4 AND not_before <= $4 \
         AND (mids = '' OR mids LIKE $5) AND resolver IN ({names}){terms} ORDER BY priority, created_at, id \
         LIMIT $6{skip_locked}) AS first_ones) AS added_up WHERE earlier < $7) RETURNING id, epoch, lease_expires_at, \
         expires_at, config_digest, call_json, lease_batch, size"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.mid_id)
        .bind(claim.incarnation)
        .bind(claim.batch)
        .bind(claim.now)
        .bind(format!("%,{},%", claim.mid_id))
        .bind(i64::from(claim.limit))
        .bind(claim.bytes);
    for name in claim.resolvers {
        query = query.bind(name);
    }
    for (resolver, mid_id) in claim.ahead {
        query = query.bind(resolver).bind(format!("%,{mid_id},%{}%", claim.mid_id));
    }
    if let Some(connection) = claim.connection {
        query = query.bind(connection);
    }
    // RETURNING promises no order.
    let mut leased = query.fetch_all(&mut **tx).await?.iter().map(leased).collect::<Result<Vec<_>, _>>()?;
    leased.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(leased)
}

/// Where the order of MIDs counts among the queued requests that a MID may serve: resolver and MIDs, as `,id,id,`.
pub(crate) async fn orders(tx: &mut Tx, mid_id: &str) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT DISTINCT resolver, mids FROM requests WHERE state = 0 AND ordered = 1 AND mids LIKE $1";
    let rows = sqlx::query(sql).bind(format!("%,{mid_id},%")).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Leases of batches after `received`: delivered again to the incarnation that they were made for, batch by batch and
/// not more of them at once than [`MOST_BYTES`]. With the number of the last batch that is left out, if there is one.
pub(crate) async fn undelivered(
    tx: &mut Tx,
    mid_id: &str,
    incarnation: &str,
    received: i64,
) -> Result<(Vec<Leased>, Option<i64>), StoreError> {
    let rows = sqlx::query(
        "SELECT id, epoch, lease_expires_at, expires_at, config_digest, call_json, lease_batch, size FROM requests \
         WHERE state = 1 AND lease_mid = $1 AND lease_incarnation = $2 AND lease_batch > $3 ORDER BY lease_batch, id",
    )
    .bind(mid_id)
    .bind(incarnation)
    .bind(received)
    .fetch_all(&mut **tx)
    .await?;
    let mut found = rows.iter().map(leased).collect::<Result<Vec<_>, _>>()?;
    let (mut bytes, mut fits) = (0_i64, 0);
    for batch in found.chunk_by(|a, b| a.batch == b.batch) {
        bytes = batch.iter().map(|lease| lease.size).fold(bytes, i64::saturating_add);
        if fits > 0 && bytes > MOST_BYTES {
            break;
        }
        fits += batch.len();
    }
    let left_out = found[fits..].last().map(|lease| lease.batch);
    found.truncate(fits);
    Ok((found, left_out))
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

/// The statement proves that `current` still has the MID's word.
const OTHER_INCARNATIONS: &str = "lease_mid = $1 AND lease_incarnation <> $2 AND $3 = $3 \
                                  AND EXISTS (SELECT 1 FROM mids WHERE id = $1 AND incarnation = $2)";

/// Ends leases: of all incarnations of a MID but one, of MIDs that are dead, or of everybody whose time is over. What
/// may be repeated is queued again, the rest becomes `unknown` with `outcome`. Returns the requests that became unknown.
pub(crate) async fn end_leases(
    tx: &mut Tx,
    which: Ended<'_>,
    now: i64,
    outcome: &str,
) -> Result<Vec<String>, StoreError> {
    let (filter, mid_id, incarnation) = match which {
        Ended::OtherIncarnations { mid_id, current } => (OTHER_INCARNATIONS, mid_id, current),
        Ended::Dead => (DEAD.as_str(), "", ""),
        Ended::Overdue => ("$1 = $2 AND lease_expires_at <= $3", "", ""),
    };
    let again = format!("UPDATE requests SET state = 0, unsure = 1 WHERE state = 1 AND repeatable = 1 AND {filter}");
    sqlx::query(AssertSqlSafe(again)).bind(mid_id).bind(incarnation).bind(now).execute(&mut **tx).await?;
    let unknown = format!(
        "UPDATE requests SET state = 4, outcome = $4, trace = '[]', finished_at = $3, {REMOVE_CALL} WHERE state = 1 \
         AND {filter} RETURNING id"
    );
    let rows = sqlx::query(AssertSqlSafe(unknown))
        .bind(mid_id)
        .bind(incarnation)
        .bind(now)
        .bind(outcome)
        .fetch_all(&mut **tx)
        .await?;
    let ids = ids(&rows)?;
    pieces::forget_reduced(tx, &ids).await?;
    Ok(ids)
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

/// After a restart: no live lease ends before `until`, so that MIDs can report what they did meanwhile.
pub(crate) async fn grant_grace(tx: &mut Tx, until: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE requests SET lease_expires_at = $1 WHERE state = 1 AND lease_expires_at < $1")
        .bind(until)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether something waits for a MID now.
pub(crate) async fn any_queued(tx: &mut Tx, now: i64) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM requests WHERE state = 0 AND not_before <= $1 LIMIT 1";
    Ok(sqlx::query(sql).bind(now).fetch_optional(&mut **tx).await?.is_some())
}

pub(super) fn ids(rows: &[AnyRow]) -> Result<Vec<String>, StoreError> {
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

fn leased(row: &AnyRow) -> Result<Leased, StoreError> {
    Ok(Leased {
        id: row.try_get(0)?,
        epoch: row.try_get(1)?,
        lease_expires_at: row.try_get(2)?,
        expires_at: row.try_get(3)?,
        config_digest: row.try_get(4)?,
        call: Call::Stored(row.try_get(5)?),
        batch: row.try_get(6)?,
        size: row.try_get(7)?,
    })
}
