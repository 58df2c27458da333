//! Tokens taken back before their end (RFC 7009). The secret is read for it, and wiped as soon as the request is built.

use std::time::Duration;

use midward_core::{AccessToken, Failure};

use crate::discovery::RevocationEndpoint;
use crate::failures;
use crate::fetch::GrantFetcher;
use crate::request::{self, TokenHttpRequest};

/// What became of a token that was to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The server answered that the token is not valid any more.
    Revoked,
    /// The entity names no revocation URL, and the server's metadata none either.
    NoEndpoint,
    /// There is one, which policy does not list.
    NotAllowed,
    /// It may still be valid.
    Failed(Box<Failure>),
}

impl Revocation {
    /// The secret is one that the server refuses, so it is not sent again.
    pub fn with_refused_secret() -> Self {
        failed(failures::revocation_not_sent(
            "the authorization server refuses this client's secret, so nothing was sent",
        ))
    }

    /// There was no time left for it.
    pub fn too_late() -> Self {
        failed(failures::revocation_not_sent("there was no time left to revoke the token"))
    }
}

fn failed(failure: Failure) -> Revocation {
    Revocation::Failed(Box::new(failure))
}

/// Tries once, within `limit`.
pub(crate) async fn revoke(fetcher: &GrantFetcher, token: &AccessToken, limit: Duration) -> Revocation {
    match tokio::time::timeout(limit, exchange(fetcher, token, limit)).await {
        Ok(Ok(revocation)) => revocation,
        Ok(Err(failure)) => failed(failure),
        Err(_elapsed) => failed(failures::revocation_not_sent(&format!(
            "there was no answer to the revocation within {} ms",
            limit.as_millis()
        ))),
    }
}

async fn exchange(fetcher: &GrantFetcher, token: &AccessToken, limit: Duration) -> Result<Revocation, Failure> {
    let url = match fetcher.endpoints.endpoints().await?.revocation {
        RevocationEndpoint::None => return Ok(Revocation::NoEndpoint),
        RevocationEndpoint::NotAllowed => return Ok(Revocation::NotAllowed),
        RevocationEndpoint::At(url) => url,
    };
    let request: TokenHttpRequest = {
        let material = fetcher.source.read(false).await?.material;
        request::build_revocation(&fetcher.spec, &url, token, &material, fetcher.clock.wall(), &*fetcher.random)
            .map_err(|error| failures::of_request(&error))?
    };
    let reply = fetcher
        .transport
        .post(request, limit.min(GrantFetcher::DEADLINE))
        .await
        .map_err(|failure| failures::revocation_not_sent(&failure.detail))?;
    // RFC 7009 2.2: 200 for a token that is not valid any more, whatever the body says.
    let reason = match reply.status {
        200 => return Ok(Revocation::Revoked),
        400 => "it does not revoke tokens of this kind, or did not understand the request",
        401 => "it does not accept the client",
        404 | 405 | 410 => "there is no revocation endpoint at this URL",
        408 | 425 | 429 | 500..=599 => "it cannot do it now",
        300..=399 => "it redirects, and redirects are not followed",
        _ => "it did not do it",
    };
    Err(failures::revocation_refused(reply.status, reason))
}
