//! HashiCorp Vault and OpenBao: the key/value engine, versions 1 and 2, over the MID's own way out.

use std::sync::Arc;

use crate::unusable::Unusable;
use crate::{Resolver, ResolverContext};

mod auth;
mod client;
mod config;
mod path;
mod resolver;

pub use config::{HashiCorpAuth, HashiCorpVaultConfig};
pub(crate) use path::segment;

const KIND: &str = "hashicorp_vault";
/// In texts for people. OpenBao calls its own interface so, too.
const WHO: &str = "Vault";

pub(crate) fn build(name: &str, config: &HashiCorpVaultConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match resolver::VaultResolver::new(name, config, context) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}
