//! Whether a request is tried again after its outcome, and when.

use std::time::Duration;

use midward_core::Persistence;
use midward_wire::Outcome;
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
    /// After an outcome: `retried` attempts were made before, `left` is the time until the request expires, `unit` in
    /// 0..1 spreads the waits.
    pub(crate) fn next(&self, outcome: &Outcome, retried: i64, left: Duration, unit: f64) -> Next {
        let asked = match outcome {
            Outcome::Replied { reply } if self.statuses.contains(&reply.status) => {
                let header = reply.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
                header.and_then(|(_, value)| value.trim().parse().ok()).map_or(Duration::ZERO, Duration::from_secs)
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

#[cfg(test)]
mod tests {
    use midward_core::{Failure, Hop};
    use midward_wire::{ApiReply, Bytes64};

    use super::*;

    fn replied(status: u16, headers: &[(&str, &str)]) -> Outcome {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Outcome::Replied { reply: ApiReply { status, headers, body: Bytes64::default() } }
    }

    #[test]
    fn what_is_tried_again_and_when() {
        let policy: RetryPolicy = serde_json::from_str(r#"{"attempts": 4}"#).expect("a policy");
        let hour = Duration::from_hours(1);
        let again = |millis| Next::Again(Duration::from_millis(millis));
        assert_eq!(policy.next(&replied(503, &[]), 0, hour, 1.0), again(1000));
        assert_eq!(policy.next(&replied(503, &[]), 0, hour, 0.0), again(500));
        assert_eq!(policy.next(&replied(429, &[]), 2, hour, 1.0), again(4000));
        assert_eq!(policy.next(&replied(429, &[("Retry-After", "7")]), 0, hour, 1.0), again(7000));
        assert_eq!(policy.next(&replied(429, &[("Retry-After", "99999")]), 0, hour, 1.0), again(300_000));
        assert_eq!(policy.next(&replied(503, &[]), 3, hour, 1.0), Next::Dead);
        assert_eq!(policy.next(&replied(503, &[]), 0, Duration::from_millis(900), 1.0), Next::Dead);
        assert_eq!(policy.next(&replied(500, &[]), 0, hour, 1.0), Next::Final);
        let transient = Failure::transient(Hop::Api, "api_unreachable", "", "");
        let permanent = Failure::permanent(Hop::Policy, "policy_refused", "", "");
        assert_eq!(policy.next(&Outcome::Failed { failure: transient.clone() }, 0, hour, 1.0), again(1000));
        assert_eq!(policy.next(&Outcome::Failed { failure: permanent }, 0, hour, 1.0), Next::Dead);
        assert_eq!(policy.next(&Outcome::Unknown { failure: transient }, 0, hour, 1.0), Next::Final);
    }
}
