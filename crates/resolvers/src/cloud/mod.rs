//! What the resolvers that ask a vault over HTTPS share: settings, the way, failures; and, for the clouds' own vaults, the
//! meaning of a secret's value.

mod failures;
mod network;
#[cfg(any(feature = "aws", feature = "azure"))]
mod payload;
mod settings;
#[cfg(not(all(feature = "aws", feature = "azure")))]
mod unbuilt;

#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use failures::{Meaning, Why};
pub(crate) use failures::{misconfigured, send_failure, timeout_failure};
pub(crate) use network::{Network, check_endpoint, read_private, read_private_bytes};
#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use payload::{material, version};
pub use settings::SecretFields;
pub(crate) use settings::default_timeout_ms;
#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use settings::limit;
#[cfg(not(all(feature = "aws", feature = "azure")))]
pub(crate) use unbuilt::not_built;
