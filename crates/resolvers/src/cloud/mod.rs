//! What the resolvers share that ask a vault themselves, over the MID's own way out: settings, the meaning of a secret's
//! value, failures.

mod failures;
mod look_up;
mod network;
mod payload;
mod settings;
#[cfg(not(all(feature = "aws", feature = "azure")))]
mod unbuilt;

#[cfg(any(feature = "aws", feature = "azure"))]
pub(crate) use failures::Why;
pub(crate) use failures::{Meaning, misconfigured, send_failure, timeout_failure};
pub(crate) use look_up::{told, within};
pub(crate) use network::{Network, check_endpoint, read_line, read_private, read_private_bytes, read_shared_line};
pub(crate) use payload::{Members, SecretText, from_members, material, version};
pub use settings::SecretFields;
pub(crate) use settings::{default_timeout_ms, limit};
#[cfg(not(all(feature = "aws", feature = "azure")))]
pub(crate) use unbuilt::not_built;
