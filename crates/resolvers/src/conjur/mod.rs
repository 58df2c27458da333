//! CyberArk Conjur (Secrets Manager), over the MID's own way out.

use std::sync::Arc;

use crate::unusable::Unusable;
use crate::{Resolver, ResolverContext};

mod answer;
mod client;
mod config;
mod resolver;

pub use config::{ConjurAuth, ConjurConfig, ConjurVariables};

const KIND: &str = "conjur";
const WHO: &str = "Conjur";

pub(crate) fn build(name: &str, config: &ConjurConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match resolver::ConjurResolver::new(name, config, context) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}
