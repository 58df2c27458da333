//! How many requests of a connection may be given out: its concurrency and its rate, over all replicas.

use std::collections::{HashMap, HashSet};

use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};

use super::StoreError;
use super::dialect::Dialect;
use super::leases::{MOST_PORTIONS, ids};

type Tx = Transaction<'static, Any>;

const MINUTE_MICROS: i64 = 60_000_000;

/// What a connection's limits let be given out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// How many may be given out now.
    pub(crate) count: u32,
    /// When it may be more than none, in unix milliseconds; `i64::MAX`: when one of them ends.
    pub(crate) from: i64,
    /// When the next one may start, in unix microseconds, and the time between two; None: no rate.
    rate: Option<(i64, i64)>,
}

impl Allowance {
    /// Of a connection that has no limits any more.
    pub(crate) const ALL: Self = Self { count: u32::MAX, from: 0, rate: None };
}

/// So many connections are looked at in one statement.
pub(crate) const AT_ONCE: usize = MOST_PORTIONS;

/// What may be given out now of connections that exist and have limits: at most [`AT_ONCE`] of them.
pub(crate) async fn allowances(
    tx: &mut Tx,
    aliases: &[&str],
    now: i64,
) -> Result<HashMap<String, Allowance>, StoreError> {
    let sql = format!(
        "SELECT c.alias, c.max_concurrent, c.max_per_minute, COALESCE(u.next_at, 0), \
         CASE WHEN c.max_concurrent IS NULL THEN 0 ELSE (SELECT COUNT(*) FROM requests WHERE state = 1 AND limited = 1 \
         AND connection = c.alias) END FROM connections c LEFT JOIN connection_use u ON u.alias = c.alias \
         WHERE c.alias IN ({})",
        numbered(1)
    );
    let rows = bound(&sql, aliases).fetch_all(&mut **tx).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let (most, per_minute, held): (Option<i64>, Option<i64>, i64) =
            (row.try_get(1)?, row.try_get(2)?, row.try_get(4)?);
        let mut allowance = Allowance::ALL;
        let mut count = i64::from(u32::MAX);
        if let Some(most) = most {
            count = (most - held).max(0);
        }
        if count == 0 {
            allowance.from = i64::MAX;
        }
        if let Some(per_minute) = per_minute {
            let free = of_rate(per_minute.max(1), row.try_get(3)?, now.saturating_mul(1000));
            count = count.min(free.count);
            allowance.from = allowance.from.max(free.from / 1000 + 1);
            allowance.rate = Some((free.next_at, MINUTE_MICROS / per_minute.max(1)));
        }
        allowance.count = u32::try_from(count).unwrap_or(u32::MAX);
        found.insert(row.try_get(0)?, allowance);
    }
    Ok(found)
}

/// Keeps other replicas from giving out what these connections let be given out, until the transaction ends: at most
/// [`AT_ONCE`] of them. Returns those that no other one gives out now; it waits for nobody.
pub(crate) async fn lock(tx: &mut Tx, aliases: &[&str]) -> Result<HashSet<String>, StoreError> {
    if Dialect::of(tx) == Dialect::Sqlite {
        return Ok(aliases.iter().map(|alias| (*alias).to_owned()).collect());
    }
    let rows = (1..=AT_ONCE).map(|number| format!("(${number}, 0)")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO connection_use (alias, next_at) VALUES {rows} ON CONFLICT (alias) DO NOTHING");
    bound(&insert, aliases).execute(&mut **tx).await?;
    let lock = format!(
        "SELECT alias FROM connection_use WHERE alias IN ({}) ORDER BY alias{}",
        numbered(1),
        Dialect::Postgres.skip_locked()
    );
    Ok(ids(&bound(&lock, aliases).fetch_all(&mut **tx).await?)?.into_iter().collect())
}

/// Notes how many were given out.
pub(crate) async fn used(tx: &mut Tx, alias: &str, allowance: &Allowance, count: u32) -> Result<(), StoreError> {
    let Some((next_at, interval)) = allowance.rate.filter(|_| count > 0) else { return Ok(()) };
    let next_at = next_at.saturating_add(interval.saturating_mul(i64::from(count)));
    let sql = "INSERT INTO connection_use (alias, next_at) VALUES ($1, $2) ON CONFLICT (alias) DO UPDATE \
               SET next_at = excluded.next_at";
    sqlx::query(sql).bind(alias).bind(next_at).execute(&mut **tx).await?;
    Ok(())
}

fn numbered(first: usize) -> String {
    (first..first + AT_ONCE).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// One text for any number of them: the last one stands for those that there are not.
fn bound<'q>(sql: &str, aliases: &[&'q str]) -> sqlx::query::Query<'q, Any, sqlx::any::AnyArguments> {
    let last = aliases.last().copied().unwrap_or_default();
    let padded = aliases.iter().copied().chain(std::iter::repeat(last)).take(AT_ONCE);
    padded.fold(sqlx::query(AssertSqlSafe(sql.to_owned())), sqlx::query::Query::bind)
}

/// What a rate lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Free {
    /// How many may start now.
    count: i64,
    /// From when on their time counts, in microseconds.
    next_at: i64,
    /// When one at least may start, in microseconds.
    from: i64,
}

/// GCRA. What was saved up is one second's worth, and one request at least.
fn of_rate(per_minute: i64, next_at: i64, now: i64) -> Free {
    let interval = MINUTE_MICROS / per_minute;
    let burst = (per_minute / 60).max(1);
    let next_at = next_at.max(now);
    let count = (now + burst * interval - next_at).max(0) / interval;
    Free { count, next_at, from: next_at - (burst - 1) * interval }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
        // 120 a minute: two at once, then one each half second.
        assert_eq!(of_rate(120, 0, 5_000_000), Free { count: 2, next_at: 5_000_000, from: 4_500_000 });
        let next = 5_000_000 + 2 * 500_000;
        assert_eq!(of_rate(120, next, 5_000_000).count, 0);
        assert_eq!(of_rate(120, next, 5_499_999).count, 0);
        assert_eq!(of_rate(120, next, 5_499_999).from, 5_500_000);
        assert_eq!(of_rate(120, next, 5_500_000).count, 1);
        assert_eq!(of_rate(120, next, 60_000_000).count, 2, "no more is saved up");
        assert_eq!(of_rate(1, 0, 0).count, 1);
        assert_eq!(of_rate(1, MINUTE_MICROS, MINUTE_MICROS - 1).count, 0);
    }
}
