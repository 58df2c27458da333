//! AWS Secrets Manager, with Amazon's own SDK (cargo feature `aws`) over the MID's own way out.

use std::sync::Arc;

use crate::unusable::Unusable;
use crate::{Resolver, ResolverContext};

mod config;
#[cfg(feature = "aws")]
mod connector;
#[cfg(feature = "aws")]
mod credentials;
#[cfg(feature = "aws")]
mod failures;
#[cfg(feature = "aws")]
mod resolver;

pub use config::{AwsConfig, AwsCredentials};

const KIND: &str = "aws_secrets_manager";

#[cfg(feature = "aws")]
pub(crate) fn build(name: &str, config: &AwsConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match resolver::AwsResolver::new(name, config, &context.vaults, &context.clock) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}

#[cfg(not(feature = "aws"))]
pub(crate) fn build(_: &str, _: &AwsConfig, _: &ResolverContext) -> Arc<dyn Resolver> {
    Arc::new(Unusable::new(KIND, crate::cloud::not_built(KIND, "aws")))
}
