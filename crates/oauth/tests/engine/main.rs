//! The token engine against a server and a vault with faults to order, in virtual time.

mod lifetimes;
mod rotation;
mod single_flight;
mod support;
