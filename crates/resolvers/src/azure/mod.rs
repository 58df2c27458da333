//! Azure Key Vault, with Microsoft's own SDK (cargo feature `azure`) over the MID's own way out.

use std::sync::Arc;

use crate::unusable::Unusable;
use crate::{Resolver, ResolverContext};

mod config;
#[cfg(feature = "azure")]
mod credentials;
#[cfg(feature = "azure")]
mod failures;
#[cfg(feature = "azure")]
mod resolver;
#[cfg(feature = "azure")]
mod transport;

pub use config::{AzureConfig, AzureCredentials};

const KIND: &str = "azure_key_vault";

#[cfg(feature = "azure")]
pub(crate) fn build(name: &str, config: &AzureConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match resolver::AzureResolver::new(name, config, context) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}

#[cfg(not(feature = "azure"))]
pub(crate) fn build(_: &str, _: &AzureConfig, _: &ResolverContext) -> Arc<dyn Resolver> {
    Arc::new(Unusable::new(KIND, crate::cloud::not_built(KIND, "azure")))
}
