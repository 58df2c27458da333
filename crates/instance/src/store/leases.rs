//! Leases: requests held by one MID until a time. Every change of state is one statement that proves what it relies on.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use midward_core::BootTime;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};

use super::dialect::Dialect;
use super::lanes::{DUE, LANE, Lane};
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
    pub(crate) waits_since: WaitsSince,
}

/// Since when a request waited for its first lease, for the figures.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitsSince {
    /// It came to this process, which gives the lease.
    Arrived(BootTime),
    /// Unix milliseconds of the database: it was accepted, or became due.
    Accepted(i64),
    /// This is not its first lease.
    Before,
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
    /// Calls are claimed until they are as large as this together, in bytes.
    pub(crate) bytes: i64,
    pub(crate) now: i64,
}

/// What one connection gives at most.
#[derive(Clone, Debug)]
pub(crate) struct Portion {
    pub(crate) lane: Arc<Lane>,
    pub(crate) connection: String,
    pub(crate) most: u32,
}

/// Most portions that are claimed at once.
pub(crate) const MOST_PORTIONS: usize = 16;

/// Leases the oldest requests of each portion, of which no two are of one connection. With how many it were of each.
pub(crate) async fn claim(
    tx: &mut Tx,
    claim: &Claim<'_>,
    portions: &[Portion],
) -> Result<(Vec<Leased>, HashMap<String, u32>), StoreError> {
    let mut counts = HashMap::new();
    if portions.is_empty() {
        return Ok((Vec::new(), counts));
    }
    let sql = claim_sql(Dialect::of(tx), portions);
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.mid_id)
        .bind(claim.incarnation)
        .bind(claim.batch)
        .bind(claim.now)
        .bind(claim.bytes);
    for portion in portions {
        query = query.bind(&portion.lane.text).bind(&portion.connection).bind(i64::from(portion.most));
        if portion.lane.is_long {
            query = query.bind(format!("%,{},%", claim.mid_id));
        }
    }
    let rows = query.fetch_all(&mut **tx).await?;
    let mut leased = Vec::with_capacity(rows.len());
    for row in &rows {
        leased.push(claimed(row)?);
        *counts.entry(row.try_get(10)?).or_insert(0) += 1;
    }
    // RETURNING promises no order.
    leased.sort_by(|a, b| a.id.cmp(&b.id));
    Ok((leased, counts))
}

/// The statement for so many portions: each is a step in an index to where its first request is, and as many on.
pub(super) fn claim_sql(dialect: Dialect, portions: &[Portion]) -> String {
    use std::fmt::Write as _;
    let skip_locked = dialect.skip_locked();
    let mut oldest = String::new();
    let mut number = 5;
    for (index, portion) in portions.iter().enumerate() {
        let (lane, connection, most) = (number + 1, number + 2, number + 3);
        number = most;
        let mut listed = String::new();
        if portion.lane.is_long {
            number += 1;
            let _ = write!(listed, " AND mids LIKE ${number}");
        }
        let _ = write!(
            oldest,
            "{}SELECT * FROM (SELECT id, size, created_at FROM requests WHERE {DUE} AND {LANE} = ${lane} \
             AND connection = ${connection} AND expires_at > $4 AND not_before <= $4{listed} ORDER BY created_at, id \
             LIMIT ${most}{skip_locked}) AS portion{index}",
            if index == 0 { "" } else { " UNION ALL " }
        );
    }
    format!(
        "UPDATE requests SET state = 1, epoch = epoch + 1, lease_mid = $1, lease_incarnation = $2, lease_batch = $3, \
         lease_expires_at = $4 + lease_ms WHERE id IN (SELECT id FROM (SELECT id, SUM(size) OVER (ORDER BY created_at, \
         id) - size AS earlier FROM ({oldest}) AS first_ones) AS added_up WHERE earlier < $5) RETURNING id, epoch, \
         lease_expires_at, expires_at, config_digest, call_json, lease_batch, size, created_at, not_before, connection"
    )
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
/// may be repeated is queued again, the rest becomes `unknown` with `outcome`. Returns the requests that became unknown, and
/// whether any is queued.
pub(crate) async fn end_leases(
    tx: &mut Tx,
    which: Ended<'_>,
    now: i64,
    outcome: &str,
) -> Result<(Vec<String>, bool), StoreError> {
    let (filter, mid_id, incarnation) = match which {
        Ended::OtherIncarnations { mid_id, current } => (OTHER_INCARNATIONS, mid_id, current),
        Ended::Dead => (DEAD.as_str(), "", ""),
        Ended::Overdue => ("$1 = $2 AND lease_expires_at <= $3", "", ""),
    };
    let again = format!("UPDATE requests SET state = 0, unsure = 1 WHERE state = 1 AND repeatable = 1 AND {filter}");
    let queued = sqlx::query(AssertSqlSafe(again)).bind(mid_id).bind(incarnation).bind(now).execute(&mut **tx).await?;
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
    Ok((ids, queued.rows_affected() > 0))
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
        waits_since: WaitsSince::Before,
    })
}

fn claimed(row: &AnyRow) -> Result<Leased, StoreError> {
    let mut leased = leased(row)?;
    if leased.epoch == 1 {
        leased.waits_since = WaitsSince::Accepted(row.try_get::<i64, _>(8)?.max(row.try_get(9)?));
    }
    Ok(leased)
}
