//! x

pub mod api;
pub mod policy;
