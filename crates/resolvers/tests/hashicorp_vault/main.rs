//! `hashicorp_vault` against the real OpenBao, and against answers that no vault gives.

#[path = "../support/conformance.rs"]
mod conformance;
#[path = "../support/door.rs"]
mod door;

mod auth;
mod bench;
mod conforms;
mod life;
mod secrets;
