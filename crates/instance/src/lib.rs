//! The instance: Midward's control plane. It keeps connections, credential identifiers and requests, and hands
//! requests to MID Servers that connect to it. It never sees a third party's client secret or access token.

mod api;
mod app;
mod auth;
mod check;
mod config;
mod fleet;
mod keys;
mod mid;
mod model;
mod network;
mod problem;
mod queue;
mod replica;
mod retention;
mod retry;
mod routes;
mod server;
mod store;
mod tls;

pub use config::{
    ConfigError, InstanceConfig, LimitsConfig, PostgresConfig, RetentionConfig, ServerConfig, StoreConfig, TlsConfig,
    TlsFiles, TlsMode,
};
pub use keys::KeyError;
pub use server::{InstanceError, Started, run};
pub use tls::TlsError;
