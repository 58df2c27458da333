//! How long a server asks to wait.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use midward_core::WallTime;

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_mins(5);

/// `Retry-After` (RFC 9110 10.2.3) in seconds or as a date, and Auth0's quota header; clamped to 1 s .. 5 min.
/// `None` when there is neither, or neither can be read.
pub(crate) fn wait(headers: &HeaderMap, now: WallTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text("retry-after").and_then(|value| parse(value.trim(), date(headers), now));
    let quota = text("auth0-client-quota-limit").and_then(exhausted_quota);
    asked.into_iter().chain(quota).max().map(|wait| wait.clamp(LEAST, MOST))
}

/// How far the wall clock is off a server's, which its `Date` tells (RFC 9110 6.6.1): `None` below half a minute, which
/// the network and the servers' tolerance cover.
pub fn clock_off(date: &str, now: WallTime) -> Option<Duration> {
    let theirs = httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let off = theirs.abs_diff(Duration::from_millis(u64::try_from(now.unix_millis()).ok()?));
    (off >= Duration::from_secs(30)).then_some(off)
}

fn parse(value: &str, server_date: Option<SystemTime>, now: WallTime) -> Option<Duration> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = digits.parse().unwrap_or(u64::MAX);
        return Some(if digits.len() == value.len() { Duration::from_secs(seconds) } else { Duration::ZERO });
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // The server's own clock, when it tells it: ours may be years off.
    let from = server_date.or_else(|| {
        let millis = u64::try_from(now.unix_millis()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    })?;
    Some(until.duration_since(from).unwrap_or(Duration::ZERO))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    headers.get("date").and_then(|value| value.to_str().ok()).and_then(|value| httpdate::parse_http_date(value).ok())
}

/// `b=per_hour;q=10;r=0;t=3540`: bucket, quota, requests left, seconds until the reset. Several are separated by
/// commas; the longest wait of an empty one counts.
fn exhausted_quota(value: &str) -> Option<Duration> {
    value
        .split(',')
        .filter_map(|bucket| {
            let field = |name: &str| {
                bucket
                    .split(';')
                    .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
            };
            (field("r")? == 0).then(|| field("t").map(Duration::from_secs))?
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Option<u64> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        // 2026-11-24 00:00:00 UTC
        wait(&headers, WallTime::from_unix_millis(1_795_478_400_000)).map(|wait| wait.as_secs())
    }

    #[test]
    fn every_form_is_read_and_clamped() {
        assert_eq!(of(&[]), None);
        for (value, expected) in [
            ("60", Some(60)),
            ("0", Some(1)),
            ("-5", Some(1)),
            ("1000000000", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Tue, 24 Nov 2026 00:00:42 GMT", Some(42)),
            ("Tue, 24 Nov 1998 00:00:42 GMT", Some(1)),
            ("soon", None),
            ("", None),
            ("1.5", None),
        ] {
            assert_eq!(of(&[("retry-after", value)]), expected, "{value}");
        }
    }

    #[test]
    fn a_date_counts_from_the_servers_own_clock() {
        let later = ("retry-after", "Mon, 24 Nov 2036 00:01:00 GMT");
        assert_eq!(of(&[later, ("date", "Mon, 24 Nov 2036 00:00:30 GMT")]), Some(30));
    }

    #[test]
    fn an_exhausted_quota_counts_and_another_does_not() {
        assert_eq!(of(&[("auth0-client-quota-limit", "b=per_hour;q=10;r=0;t=120")]), Some(120));
        assert_eq!(of(&[("auth0-client-quota-limit", "b=per_hour;q=10;r=7;t=3540")]), None);
        assert_eq!(of(&[("auth0-client-quota-limit", "b=per_hour;q=9;r=0;t=9, b=per_day;q=9;r=0;t=3540")]), Some(300));
    }
}
