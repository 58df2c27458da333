//! The token engine against a server and a vault with faults to order, in virtual time.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod budget;
mod discovery;
mod dpop;
mod grants;
mod isolation;
mod lifetimes;
mod metrics;
mod others_got_wrong;
mod outages;
mod rotation;
mod single_flight;
mod support;
