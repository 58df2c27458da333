//! What the resolvers for the clouds' own vaults share: settings, the meaning of a secret's value, failures.

#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod failures;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod network;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod payload;
mod settings;
#[cfg(not(feature = "aws"))]
mod unbuilt;

#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) use failures::{Meaning, misconfigured, send_failure, timeout_failure};
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) use network::{Network, check_endpoint, read_private};
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) use payload::{material, version};
pub use settings::SecretFields;
pub(crate) use settings::default_timeout_ms;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(crate) use settings::limit;
#[cfg(not(feature = "aws"))]
pub(crate) use unbuilt::not_built;
