//! Whether a request is tried again after its outcome, and when.

use std::time::{Duration, SystemTime};

use midward_core::{Persistence, WallTime};
use midward_wire::{ApiReply, Outcome};
use serde::{Deserialize, Serialize};

/// Longest that an API's `Retry-After` is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// A connection's word on its queued requests. What may have been executed without an answer is never tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryPolicy {
    /// Answers of the API after which the call is made again, whatever its method.
    #[serde(default = "busy")]
    pub(crate) statuses: Vec<u16>,
    /// Most attempts, the first included.
    #[serde(default = "five")]
    pub(crate) attempts: u32,
    /// First wait, in milliseconds; it doubles.
    #[serde(default = "one_second")]
    pub(crate) backoff_ms: u64,
    /// Longest wait, in milliseconds.
    #[serde(default = "one_minute")]
    pub(crate) backoff_max_ms: u64,
}

fn busy() -> Vec<u16> {
    vec![429, 503]
}

fn five() -> u32 {
    5
}

fn one_second() -> u64 {
    1000
}

fn one_minute() -> u64 {
    60_000
}

/// What follows an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stands.
    Final,
    /// It is tried again after this.
    Again(Duration),
    /// It stands, as a dead letter: no attempt is left, or no time for one.
    Dead,
}

impl RetryPolicy {
    /// After an outcome that came at `now`: `retried` attempts were made before, `left` is the time until the request
    /// expires, `unit` in 0..1 spreads the waits.
    pub(crate) fn next(&self, outcome: &Outcome, now: WallTime, retried: i64, left: Duration, unit: f64) -> Next {
        let asked = match outcome {
            Outcome::Replied { reply } if self.statuses.contains(&reply.status) => {
                retry_after(reply, now).unwrap_or(Duration::ZERO)
            }
            // It surely was not executed.
            Outcome::Failed { failure } if failure.persistence == Persistence::Transient => Duration::ZERO,
            Outcome::Failed { .. } => return Next::Dead,
            Outcome::Replied { .. } | Outcome::Unknown { .. } => return Next::Final,
        };
        if retried.saturating_add(1) >= i64::from(self.attempts) {
            return Next::Dead;
        }
        let doubled = 2_u64.saturating_pow(u32::try_from(retried).unwrap_or(u32::MAX));
        let step = Duration::from_millis(self.backoff_ms.saturating_mul(doubled).min(self.backoff_max_ms));
        let wait = step.mul_f64(0.5 + unit / 2.0).max(asked.min(LONGEST_RETRY_AFTER));
        if wait < left { Next::Again(wait) } else { Next::Dead }
    }
}

/// How long an API asks to wait: `Retry-After` (RFC 9110 10.2.3) in seconds or as a date. `None`: it does not say so, or
/// what it says is neither.
fn retry_after(reply: &ApiReply, now: WallTime) -> Option<Duration> {
    let header = |wanted: &str| {
        let found = reply.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let value = header("retry-after")?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // By the API's own clock when it tells it: ours may be years off.
    let from = header("date").and_then(|date| httpdate::parse_http_date(date).ok()).or_else(|| {
        let millis = u64::try_from(now.unix_millis()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    })?;
    Some(until.duration_since(from).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use midward_core::{Failure, Hop};
    use midward_wire::Bytes64;

    use super::*;

    /// 2026-11-24 00:00:00 UTC
    const NOW: WallTime = WallTime::from_unix_millis(1_795_478_400_000);

    fn replied(status: u16, headers: &[(&str, &str)]) -> Outcome {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Outcome::Replied { reply: ApiReply { status, headers, body: Bytes64::default() } }
    }

    #[test]
    fn what_is_tried_again_and_when() {
        let policy: RetryPolicy = serde_json::from_str(r#"{"attempts": 4}"#).expect("a policy");
        let hour = Duration::from_hours(1);
        let again = |millis| Next::Again(Duration::from_millis(millis));
        assert_eq!(policy.next(&replied(503, &[]), NOW, 0, hour, 1.0), again(1000));
        assert_eq!(policy.next(&replied(503, &[]), NOW, 0, hour, 0.0), again(500));
        assert_eq!(policy.next(&replied(429, &[]), NOW, 2, hour, 1.0), again(4000));
        assert_eq!(policy.next(&replied(429, &[("Retry-After", "7")]), NOW, 0, hour, 1.0), again(7000));
        assert_eq!(policy.next(&replied(429, &[("Retry-After", "99999")]), NOW, 0, hour, 1.0), again(300_000));
        for (value, millis) in [
            ("Tue, 24 Nov 2026 00:00:42 GMT", 42_000),
            ("Tuesday, 24-Nov-26 00:00:42 GMT", 42_000),
            ("Tue Nov 24 00:00:42 2026", 42_000),
            ("Wed, 25 Nov 2026 00:00:00 GMT", 300_000),
            ("Mon, 23 Nov 2026 00:00:00 GMT", 1000),
            ("99999999999999999999999", 300_000),
            ("-5", 1000),
            ("soon", 1000),
            ("", 1000),
        ] {
            let reply = replied(429, &[("Retry-After", value)]);
            assert_eq!(policy.next(&reply, NOW, 0, hour, 1.0), again(millis), "{value}");
        }
        // By its own clock, which is ten years ahead.
        let dates = [("Date", "Mon, 24 Nov 2036 00:00:30 GMT"), ("Retry-After", "Mon, 24 Nov 2036 00:01:00 GMT")];
        assert_eq!(policy.next(&replied(503, &dates), NOW, 0, hour, 1.0), again(30_000));
        assert_eq!(policy.next(&replied(503, &[]), NOW, 3, hour, 1.0), Next::Dead);
        assert_eq!(policy.next(&replied(503, &[]), NOW, 0, Duration::from_millis(900), 1.0), Next::Dead);
        assert_eq!(policy.next(&replied(500, &[]), NOW, 0, hour, 1.0), Next::Final);
        let transient = Failure::transient(Hop::Api, "api_unreachable", "", "");
        let permanent = Failure::permanent(Hop::Policy, "policy_refused", "", "");
        assert_eq!(policy.next(&Outcome::Failed { failure: transient.clone() }, NOW, 0, hour, 1.0), again(1000));
        assert_eq!(policy.next(&Outcome::Failed { failure: permanent }, NOW, 0, hour, 1.0), Next::Dead);
        assert_eq!(policy.next(&Outcome::Unknown { failure: transient }, NOW, 0, hour, 1.0), Next::Final);
    }
}
