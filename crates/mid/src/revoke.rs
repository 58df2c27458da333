//! Takes many tokens back at their servers, side by side and in bounded time.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use midward_core::Clock;
use midward_oauth::{Dropped, Revocation, TokenKey};

/// How many at a time.
const SIDE_BY_SIDE: usize = 8;
/// For one token, vault included: a dead server must not use up the time of the others.
const EACH: Duration = Duration::from_secs(10);

/// What became of each, in order: `None` where there was no token. Nothing is begun once `limit` is over, and what runs
/// then is given up.
pub(crate) async fn revoke_all(
    dropped: Vec<Dropped>,
    limit: Duration,
    clock: &dyn Clock,
) -> Vec<(TokenKey, Option<Revocation>)> {
    let began = clock.boot();
    let tries = dropped.into_iter().map(move |one| async move {
        let left = limit.saturating_sub(clock.boot().saturating_since(began));
        let revocation = one.revoke(left.min(EACH)).await;
        (one.key, revocation)
    });
    stream::iter(tries).buffered(SIDE_BY_SIDE).collect().await
}

/// In a few words, for the operator.
pub(crate) fn words(revocation: Option<&Revocation>) -> String {
    match revocation {
        None => "there was no token".to_owned(),
        Some(Revocation::Revoked) => "dropped, and revoked at the authorization server".to_owned(),
        Some(Revocation::NoEndpoint) => {
            "dropped; not revoked: the entity has no revocation_url, and no metadata names one".to_owned()
        }
        Some(Revocation::NotAllowed) => {
            "dropped; not revoked: the policy rule's revocation_urls do not list the endpoint that the metadata names"
                .to_owned()
        }
        Some(Revocation::Failed(failure)) => {
            format!("dropped; not revoked: {} ({}). {}", failure.detail, failure.code, failure.action)
        }
    }
}

/// The same as one word, for programs.
pub(crate) const fn state(revocation: Option<&Revocation>) -> &'static str {
    match revocation {
        None => "no_token",
        Some(Revocation::Revoked) => "revoked",
        Some(Revocation::NoEndpoint) => "no_endpoint",
        Some(Revocation::NotAllowed) => "not_allowed",
        Some(Revocation::Failed(_)) => "failed",
    }
}
