//! Why there is a token, or why not, in one sentence. Nothing secret.

use std::collections::BTreeSet;
use std::time::Duration;

use midward_core::{BootTime, Failure, Retry, TokenLife, Trace};

use crate::entry::{Entry, Look};
use crate::key::TokenKey;

/// The state of one key.
#[derive(Clone, Debug)]
pub struct TokenStatus {
    pub key: TokenKey,
    /// `missing`, `due`, `fetching`, `valid`, `refreshing`, `failed` or `circuit_open`.
    pub state: &'static str,
    /// Why there is a token or why not, with ages and times.
    pub sentence: String,
    /// How long the token still lives: also how long calls would go on if the server died now.
    pub expires_in: Option<Duration>,
    pub refresh_in: Option<Duration>,
    pub retry_in: Option<Duration>,
    pub last_used_ago: Duration,
    pub last_failure: Option<Failure>,
    pub scopes: BTreeSet<String>,
    /// Version of the secret: the first digits of a keyed hash.
    pub secret_version: Option<String>,
    /// The steps of the last fetch.
    pub trace: Trace,
}

pub(crate) fn status(entry: &Entry, now: BootTime) -> TokenStatus {
    let Look { life, last_steps, last_used } = entry.look();
    let held = life.held(now);
    let mut sentence = sentence(&life, now);
    if life.fetch_runs()
        && let Some(before) = entry.client().turns_before()
    {
        sentence = format!(
            "{sentence}; it waits for a turn at the authorization server, after {}",
            counted(before, "other credential")
        );
    }
    if held.is_some() && entry.key().dpop {
        sentence.push_str("; it is bound to a key of its own (DPoP), which ends with it");
    }
    if let Some(trouble) = life.trouble() {
        let failure = &trouble.failure;
        sentence = format!(
            "{sentence}; {} in a row, the last {} ago at the {}: {} ({})",
            counted(trouble.failures as usize, "failure"),
            span(now.saturating_since(trouble.failed_at)),
            failure.hop,
            failure.detail,
            failure.code
        );
    }
    TokenStatus {
        key: TokenKey::clone(entry.key()),
        state: life.name(),
        sentence,
        expires_in: held.map(|(_, times)| times.expires.saturating_since(now)),
        refresh_in: held.map(|(_, times)| times.refresh_at.saturating_since(now)),
        retry_in: match &life {
            TokenLife::Failed { retry_at, .. } => Some(retry_at.saturating_since(now)),
            _ => None,
        },
        last_used_ago: now.saturating_since(last_used),
        last_failure: life.trouble().map(|trouble| Failure::clone(&trouble.failure)),
        scopes: held.map(|(held, _)| held.scopes(entry.key())).unwrap_or_default(),
        secret_version: held.and_then(|(held, _)| held.fingerprint).map(|print| print.to_string()),
        trace: last_steps.trace(),
    }
}

fn sentence<T: Clone>(life: &TokenLife<T>, now: BootTime) -> String {
    match life {
        TokenLife::Missing { .. } => {
            "there is no token because nobody has asked for one since the last ended".to_owned()
        }
        TokenLife::Due { start_at } => {
            format!("a token is asked for in {}, to keep requests apart", span(start_at.saturating_since(now)))
        }
        TokenLife::Fetching { started, .. } => {
            format!("there is no token yet: one has been asked for {} ago", span(now.saturating_since(*started)))
        }
        TokenLife::Valid { times, .. } if now >= times.expires => {
            format!("the token ended {} ago and nobody has needed one since", span(now.saturating_since(times.expires)))
        }
        TokenLife::Valid { times, .. } => format!(
            "there is a token, asked for {} ago, which ends in {} and is refreshed in {} if it is used",
            span(now.saturating_since(times.requested)),
            span(times.expires.saturating_since(now)),
            span(times.refresh_at.saturating_since(now)),
        ),
        TokenLife::Refreshing { times, started, .. } => format!(
            "there is a token, which ends in {}; a new one has been asked for {} ago",
            span(times.expires.saturating_since(now)),
            span(now.saturating_since(*started)),
        ),
        TokenLife::Failed { trouble, retry_at } if matches!(trouble.retry, Retry::Probe(_)) => format!(
            "there is no token and the secret is not sent again yet; the vault is read again in {}",
            span(retry_at.saturating_since(now))
        ),
        TokenLife::Failed { retry_at, .. } => {
            format!("there is no token; the next try may begin in {}", span(retry_at.saturating_since(now)))
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A time that a person can read, fine enough to tell two that are near each other apart: `850 ms`, `12 s`,
/// `4 min 10 s`, `3 h 5 min`.
fn span(time: Duration) -> String {
    let two = |whole: u64, unit: &str, part: u64, small: &str| match part {
        0 => format!("{whole} {unit}"),
        part => format!("{whole} {unit} {part} {small}"),
    };
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => two(seconds / 60, "min", seconds % 60, "s"),
        seconds => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_keeps_the_seconds_where_they_matter() {
        for (millis, text) in [
            (850, "850 ms"),
            (1_000, "1 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (245_000, "4 min 5 s"),
            (7_199_000, "119 min 59 s"),
            (7_200_000, "2 h"),
            (11_100_000, "3 h 5 min"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
