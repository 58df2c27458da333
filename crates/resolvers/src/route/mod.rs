//! A resolver that asks others: by rules over credential identifiers, with an order of fallbacks.

mod config;
mod resolver;

pub use config::{RouteConfig, RouteRule};
pub(crate) use resolver::Route;
