//! Google Secret Manager, by its REST API over the MID's own way out. Google's own SDK for Rust makes its HTTP clients itself:
//! they take a proxy from the environment and no private CA.

mod answer;
mod config;
mod credentials;
mod resolver;

use std::sync::Arc;

use crate::unusable::Unusable;
use crate::{Resolver, ResolverContext};

pub use config::{GoogleConfig, GoogleCredentials};

const KIND: &str = "google_secret_manager";

pub(crate) fn build(name: &str, config: &GoogleConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match resolver::GoogleResolver::new(name, config, context) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}
