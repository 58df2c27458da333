//! What may go where: decided here, from a file on the MID's host, and nowhere else.
//!
//! The default is no. One rule binds everything that a call needs: credential identifier, resolver, token URL, scopes,
//! API origin, methods. A call passes when a single rule allows all of it, so that a hostile instance cannot pair one
//! connection with another one's credential.

mod call;
mod decide;
mod file;
mod refusal;
mod store;
mod suggest;
mod url;

pub use call::{CallFault, CheckedCall, check_call};
pub(crate) use decide::UNLISTED_ENDPOINT;
pub use decide::{Ask, Permit, PermittedCall, Ways};
pub use file::{Policy, PolicyError};
pub use refusal::{Explanations, Refusal};
pub use store::PolicyStore;
pub use suggest::suggest;
pub use url::{UrlFault, join, strict_url};

#[cfg(test)]
mod tests;
