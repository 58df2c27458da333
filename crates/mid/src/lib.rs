//! The MID Server: takes leases from its instance, decides by its own policy, gets tokens with secrets that only the
//! vault knows, makes the calls and brings the outcomes back. It connects outward only.

pub mod admin;
pub mod api;
mod audit;
mod capacity;
mod config;
mod config_cache;
mod discovery;
mod engine;
mod enroll;
mod execute;
mod grant;
mod heartbeat;
mod http;
mod jar_fetch;
mod lease_loop;
mod lifecycle;
mod link;
mod metrics;
mod metrics_listener;
mod mirror;
mod operate;
mod outcomes;
pub mod policy;
mod reload;
mod revoke;
mod runtime;
mod seen;
mod service;
mod source;
mod spans;
mod state;
mod syslog;
#[cfg(test)]
mod tests;
mod token_requests;
pub mod transport;

pub use audit::{Audit, AuditEntry};
pub use config::MidConfig;
pub use enroll::{decode_token, enroll};
pub use http::{InstanceHttp, InstanceWay, Unreachable};
pub use lifecycle::{harden, run};
pub use midward_telemetry::LogFormat;
pub use midward_wire::MidState;
pub use reload::Reload;
pub use runtime::Mid;
pub use service::{TRAMPOLINE_COMMAND, build_mid, check_policy, instance_way, not_enrolled};
pub use state::{Enrollment, StateDir};
