//! A resolver as the token cache sees it: where the secret of one credential comes from.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Trace};
use midward_oauth::{Material, MaterialSource};
use midward_resolvers::{BoxFuture, Lookup, Resolver};

use crate::heartbeat::Resolvers;

/// Longest look-up. Resolvers have shorter limits of their own.
pub(crate) const LOOKUP_DEADLINE: Duration = Duration::from_secs(30);

/// Looks one credential up. The resolver is found by name at each look-up, so a reload reaches every token.
pub(crate) struct ResolverSource {
    resolvers: Resolvers,
    name: String,
    lookup: Lookup,
    clock: Arc<dyn Clock>,
}

impl ResolverSource {
    pub(crate) fn new(resolvers: Resolvers, name: String, lookup: Lookup, clock: Arc<dyn Clock>) -> Self {
        Self { resolvers, name, lookup, clock }
    }
}

impl MaterialSource for ResolverSource {
    fn read(&self, fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async move {
            let resolver = find(&self.resolvers, &self.name)?;
            let lookup = Lookup { fresh, ..self.lookup.clone() };
            let began = self.clock.boot();
            let resolution = resolver.resolve(&lookup, LOOKUP_DEADLINE).await.map_err(|error| *error.0)?;
            let took = self.clock.boot().saturating_since(began);
            let mut trace = Trace::default();
            trace.push(Hop::Resolver, format!("{} returned the client's material", self.name), took);
            trace.0.extend(resolution.trace.0);
            Ok(Material { material: resolution.material, changing: resolution.changing, trace })
        })
    }
}

/// The resolver of that name.
pub(crate) fn find(resolvers: &Resolvers, name: &str) -> Result<Arc<dyn Resolver>, Failure> {
    resolvers.load().get(name).cloned().ok_or_else(|| {
        Failure::permanent(
            Hop::Resolver,
            "resolver_missing",
            format!("this MID Server has no resolver named {name:?}"),
            "Add it to mid.toml as [resolvers.NAME], or correct the credential's resolver.",
        )
    })
}
