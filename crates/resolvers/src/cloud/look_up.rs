//! What every look-up of an adapter has around it.

use std::time::Duration;

use midward_core::Failure;

use super::timeout_failure;
use crate::{BoxFuture, Resolution, ResolveError};

/// A look-up whose failure goes to the log, under the resolver's name.
pub(crate) fn told<'a>(
    name: &'a str,
    look_up: impl Future<Output = Result<Resolution, Failure>> + Send + 'a,
) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
    Box::pin(async move {
        look_up.await.map_err(|failure| {
            tracing::warn!(resolver = %name, "{failure}");
            ResolveError(Box::new(failure))
        })
    })
}

/// What `who` must have answered within `limit`.
pub(crate) async fn within<T>(
    who: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(timeout_failure(who, Some(limit))))
}
