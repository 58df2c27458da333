//! x

pub mod api;
pub mod policy;
pub mod transport;
