//! A resolver that cannot serve until something is changed, and says what.

use std::time::Duration;

use midward_core::{Failure, Hop};

use crate::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

/// Stands where the configured resolver would, so that the others serve and the heartbeat tells what is wrong.
#[derive(Debug)]
pub(crate) struct Unusable {
    kind: &'static str,
    failure: Failure,
}

impl Unusable {
    pub(crate) const fn new(kind: &'static str, failure: Failure) -> Self {
        Self { kind, failure }
    }

    /// A route by itself: only [`crate::ResolverSet`] knows the resolvers that it leads to.
    pub(crate) fn route() -> Self {
        let failure = Failure::permanent(
            Hop::Resolver,
            "resolver_misconfigured",
            "a route was made without the resolvers that it leads to",
            "Put it into mid.toml beside them.",
        );
        Self::new("route", failure)
    }
}

impl Resolver for Unusable {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn resolve<'a>(&'a self, _: &'a Lookup, _: Duration) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(std::future::ready(Err(ResolveError(Box::new(self.failure.clone())))))
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Unusable(self.failure.to_string())
    }
}
