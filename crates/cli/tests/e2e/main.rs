//! End-to-end tests: the real programs, the real authorization server, JARs compiled from source.

mod client_auth;
mod discovery;
mod dpop;
mod failures;
mod grants;
mod kill;
mod leak;
mod mutual_tls;
mod revocation;
mod support;
mod whole_chain;
