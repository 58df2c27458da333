//! Resolvers: how a credential identifier becomes a client's secret fields.

mod resolver;

pub use resolver::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverReport};
