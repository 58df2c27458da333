//! What the resolvers for the clouds' own vaults share: settings, the meaning of a secret's value, failures.

#[cfg(any(feature = "aws", feature = "azure"))]
mod failures;
#[cfg(any(feature = "aws", feature = "azure"))]
mod network;
#[cfg(any(feature = "aws", feature = "azure"))]
mod payload;
mod settings;
#[cfg(not(all(feature = "aws", feature = "azure")))]
mod unbuilt;

#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use failures::{Meaning, Why, misconfigured, send_failure, timeout_failure};
#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use network::{Network, check_endpoint, read_private};
#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use payload::{material, version};
pub use settings::SecretFields;
pub(crate) use settings::default_timeout_ms;
#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use settings::limit;
#[cfg(not(all(feature = "aws", feature = "azure")))]
pub(crate) use unbuilt::not_built;
