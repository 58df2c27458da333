//! End-to-end tests: the real programs, the real authorization server, JARs compiled from source.

mod client_auth;
mod failures;
mod kill;
mod leak;
mod support;
mod whole_chain;
