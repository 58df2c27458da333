//! The messages between instance and MID Server. JSON over HTTPS, versioned; golden files are in `tests/golden`.
//!
//! Instance and MID may be a release apart. Within a version fields are only added, with a default, and left out while
//! they have it; no enumeration gets a new value. What the two say to each other about themselves and about outcomes may
//! hold more than the reader knows. What a call is, and what it runs under ([`LeaseGrant`], [`ConfigDocument`],
//! [`JarDocument`], [`EnrollToken`]), may not: a restriction that is overlooked would be a call on other terms. A MID that
//! does not understand a request refuses that request and lives on, so requests are parsed one by one
//! ([`LeaseReply::leases`] holds raw JSON).

mod audit;
mod bytes64;
mod config;
mod enroll;
mod headers;
mod jar;
mod lease;
mod outcome;

pub use audit::{AuditCheckpoint, CheckpointsReply, block_hash, checkpoint_signing_input};
pub use bytes64::Bytes64;
pub use config::{
    AssertionAlgorithm, ClientAuth, ConfigDigest, ConfigDocument, ConnectionConfig, CredentialConfig, GrantType,
    JwtBearerConfig, ProfileConfig, TokenExchangeConfig,
};
pub use enroll::{
    EnrollReply, EnrollRequest, EnrollToken, InvalidEnrollToken, MidState, SignedState, TokenError, TokenReply,
    state_signing_input,
};
pub use headers::{HeaderKind, header_bytes, header_kind, header_text};
pub use jar::{JarDocument, MAX_JAR_LEN, jar_digest};
pub use lease::{
    ApiCall, Heartbeat, HeartbeatReply, LeaseGrant, LeaseReply, LeaseRequest, MAX_KIND_LEN, MAX_REASON_LEN,
    MAX_RESOLVERS, ReplayRule, ResolverHealth, ResolverStatus,
};
pub use outcome::{ApiReply, MAX_OUTCOMES, Outcome, OutcomeReport, OutcomeVerdict, OutcomesReply, OutcomesRequest};

/// The version of this protocol. A peer that names another one is told so.
pub const VERSION: u32 = 1;

/// Paths on the instance.
pub mod paths {
    /// `POST` [`super::EnrollRequest`] -> [`super::EnrollReply`]; authenticated by the one-time token inside.
    pub const ENROLL: &str = "/mid/v1/enroll";
    /// `POST` form (RFC 6749 4.4 with RFC 7523 client assertion) -> [`super::TokenReply`] or [`super::TokenError`].
    pub const TOKEN: &str = "/mid/v1/token";
    /// `POST` [`super::Heartbeat`] -> [`super::HeartbeatReply`].
    pub const HEARTBEAT: &str = "/mid/v1/heartbeat";
    /// `POST` [`super::LeaseRequest`] -> [`super::LeaseReply`]; held open for at most `wait_ms`.
    pub const LEASE: &str = "/mid/v1/lease";
    /// `GET` + `/{digest}` -> the bytes of a [`super::ConfigDocument`].
    pub const CONFIG: &str = "/mid/v1/config";
    /// `GET` + `/{sha256}` -> a [`super::JarDocument`] whose content has that [`super::jar_digest`].
    pub const JARS: &str = "/mid/v1/jars";
    /// `GET` -> [`super::CheckpointsReply`]; an instance that has none answers 404.
    pub const CHECKPOINTS: &str = "/mid/v1/audit/checkpoints";
    /// `POST` [`super::OutcomesRequest`] -> [`super::OutcomesReply`].
    pub const OUTCOMES: &str = "/mid/v1/outcomes";
    /// `POST` `{"version":1,"incarnation":"..","request_ids":[[id, epoch],..]}` -> 204: leases handed back on drain.
    pub const RELEASE: &str = "/mid/v1/release";
}

/// Leases that a draining MID hands back: it has not sent a byte of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReleaseRequest {
    pub version: u32,
    pub incarnation: String,
    /// Request identifier and epoch.
    pub leases: Vec<(String, i64)>,
}
