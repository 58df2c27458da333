//! How many requests of a connection may be given out: its concurrency and its rate, over all replicas.

use sqlx::{Any, Row as _, Transaction};

use super::StoreError;

type Tx = Transaction<'static, Any>;

const MINUTE_MICROS: i64 = 60_000_000;

/// A connection's limits, and its row that is locked until the transaction ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// How many may be given out now.
    pub(crate) count: u32,
    /// When the next one may start, in unix microseconds, and the time between two; None: no rate.
    rate: Option<(i64, i64)>,
}

/// Connections of which requests wait that are limited, in an order that all replicas share.
pub(crate) async fn waiting(tx: &mut Tx, now: i64) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT DISTINCT connection FROM requests WHERE state = 0 AND limited = 1 AND not_before <= $1 \
               ORDER BY connection LIMIT 100";
    let rows = sqlx::query(sql).bind(now).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

/// What may be given out of a connection now. A connection that is gone has no limits.
pub(crate) async fn allowance(tx: &mut Tx, alias: &str, now: i64) -> Result<Allowance, StoreError> {
    let insert = "INSERT INTO connection_use (alias, next_at) VALUES ($1, 0) ON CONFLICT (alias) DO NOTHING";
    sqlx::query(insert).bind(alias).execute(&mut **tx).await?;
    let lock = "UPDATE connection_use SET next_at = next_at WHERE alias = $1 RETURNING next_at";
    let next_at: i64 = sqlx::query(lock).bind(alias).fetch_one(&mut **tx).await?.try_get(0)?;
    let sql = "SELECT max_concurrent, max_per_minute FROM connections WHERE alias = $1";
    let row = sqlx::query(sql).bind(alias).fetch_optional(&mut **tx).await?;
    let (most, per_minute): (Option<i64>, Option<i64>) = match row {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (None, None),
    };
    let mut count = i64::from(u32::MAX);
    if let Some(most) = most {
        let sql = "SELECT COUNT(*) FROM requests WHERE state = 1 AND limited = 1 AND connection = $1";
        let held: i64 = sqlx::query(sql).bind(alias).fetch_one(&mut **tx).await?.try_get(0)?;
        count = count.min(most - held);
    }
    let rate = per_minute.map(|per_minute| {
        let (free, next_at) = of_rate(per_minute.max(1), next_at, now.saturating_mul(1000));
        count = count.min(free);
        (next_at, MINUTE_MICROS / per_minute.max(1))
    });
    Ok(Allowance { count: u32::try_from(count.max(0)).unwrap_or(u32::MAX), rate })
}

/// Notes how many were given out.
pub(crate) async fn used(tx: &mut Tx, alias: &str, allowance: &Allowance, count: usize) -> Result<(), StoreError> {
    let Some((next_at, interval)) = allowance.rate.filter(|_| count > 0) else { return Ok(()) };
    let next_at = next_at.saturating_add(interval.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX)));
    let sql = "UPDATE connection_use SET next_at = $1 WHERE alias = $2";
    sqlx::query(sql).bind(next_at).bind(alias).execute(&mut **tx).await?;
    Ok(())
}

/// GCRA: how many may start at `now`, and from when on their time counts (microseconds). What was saved up is one
/// second's worth, and one request at least.
fn of_rate(per_minute: i64, next_at: i64, now: i64) -> (i64, i64) {
    let interval = MINUTE_MICROS / per_minute;
    let burst = (per_minute / 60).max(1);
    let next_at = next_at.max(now);
    let free = (now + burst * interval - next_at).max(0) / interval;
    (free, next_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
        // 120 a minute: two at once, then one each half second.
        assert_eq!(of_rate(120, 0, 5_000_000), (2, 5_000_000));
        let next = 5_000_000 + 2 * 500_000;
        assert_eq!(of_rate(120, next, 5_000_000).0, 0);
        assert_eq!(of_rate(120, next, 5_499_999).0, 0);
        assert_eq!(of_rate(120, next, 5_500_000).0, 1);
        assert_eq!(of_rate(120, next, 60_000_000).0, 2, "no more is saved up");
        assert_eq!(of_rate(1, 0, 0).0, 1);
        assert_eq!(of_rate(1, MINUTE_MICROS, MINUTE_MICROS - 1).0, 0);
    }
}
