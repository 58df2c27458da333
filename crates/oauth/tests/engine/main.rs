//! The token engine against a server and a vault with faults to order, in virtual time.

mod single_flight;
mod support;
