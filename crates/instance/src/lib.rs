//! The instance: Midward's control plane. It keeps connections, credential identifiers and requests, and hands
//! requests to MID Servers that connect to it. It never sees a third party's client secret or access token.

mod access_token;
mod api;
mod app;
mod at_rest;
mod audit;
mod auth;
mod backup;
#[cfg(feature = "bench")]
pub mod bench;
mod check;
mod client;
mod config;
mod extract;
mod fleet;
mod intake;
mod keys;
mod listener;
mod metrics;
mod mid;
mod model;
mod network;
mod problem;
mod queue;
mod rates;
mod replica;
mod retention;
mod retry;
mod routes;
mod server;
mod stop;
mod store;
mod tls;
mod tls_reload;
mod traces;

pub use at_rest::EncryptionError;
pub use audit::{AuditFault, AuditLine, AuditReport, verify_audit};
pub use backup::{BackupError, back_up, restore};
pub use config::{
    AuditConfig, ConfigError, EncryptionConfig, InstanceConfig, LimitsConfig, LogConfig, PostgresConfig,
    RetentionConfig, ServerConfig, StoreConfig, TlsConfig, TlsFiles, TlsMode,
};
pub use keys::KeyError;
pub use server::{InstanceError, Started, run};
pub use tls::TlsError;
