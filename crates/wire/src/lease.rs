//! Leases: requests held by one MID until a time, with an epoch.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Bytes64, ConfigDigest, MidState};

/// Most resolvers of one MID.
pub const MAX_RESOLVERS: usize = 64;
/// Longest kind of a resolver, and longest version of a program, in bytes.
pub const MAX_KIND_LEN: usize = 80;
/// Longest [`ResolverStatus::reason`], in bytes.
pub const MAX_REASON_LEN: usize = 1024;

/// A MID asks for work. It names the last batch it received, so that an answer that got lost is delivered again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    pub version: u32,
    /// Random, new at every start of the MID.
    pub incarnation: String,
    /// Most requests that it can take now.
    pub capacity: u32,
    /// How long to wait when there is nothing, in milliseconds; the instance caps it at 25 s.
    pub wait_ms: u64,
    /// Number of the last batch received by this incarnation; 0 before the first.
    pub received_batch: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LeaseReply {
    pub version: u32,
    pub state: MidState,
    /// Number of this batch; unchanged when `leases` is empty.
    pub batch: u64,
    /// [`LeaseGrant`]s, each parsed for itself.
    pub leases: Vec<Box<RawValue>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseGrant {
    pub request_id: String,
    pub epoch: i64,
    /// How long the lease lasts, counted from when the MID asked, in milliseconds.
    pub lease_ms: u64,
    /// How long the caller still waits, counted from when the MID asked, in milliseconds. Expired: never sent.
    pub expires_ms: u64,
    /// What the call must run under.
    pub config: ConfigDigest,
    pub call: ApiCall,
}

/// One API call. Policy on the MID decides whether it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiCall {
    pub method: String,
    /// Path and query below the connection's base URL: begins with `/`, holds no fragment.
    pub path: String,
    /// The call's place in a trace is among them (`traceparent`, `tracestate`): a MID that knows traces puts its own
    /// there, an older one hands it on.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: Bytes64,
    #[serde(default)]
    pub replay: ReplayRule,
}

/// Whether a call may be sent a second time after a 401 or a lost connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayRule {
    /// As the connection says; GET, HEAD and OPTIONS where it says nothing.
    #[default]
    ByMethod,
    /// The caller says that a repetition does no harm.
    Safe,
}

impl ApiCall {
    /// Whether it may be sent a second time: its caller says so, or its connection says it of the method.
    pub fn may_repeat(&self, replay_methods: Option<&[String]>) -> bool {
        self.replay == ReplayRule::Safe
            || match replay_methods {
                Some(methods) => methods.contains(&self.method),
                None => matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS"),
            }
    }
}

/// Sent at start, every few seconds, and when a resolver's health changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub version: u32,
    pub incarnation: String,
    /// Version of the MID Server's program: at most [`MAX_KIND_LEN`] bytes.
    pub program_version: String,
    pub capacity: u32,
    pub running: u32,
    pub draining: bool,
    /// At most [`MAX_RESOLVERS`].
    pub resolvers: Vec<ResolverStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverStatus {
    pub name: String,
    /// `jar`, `cyberark_sdk`, ...
    pub kind: String,
    pub health: ResolverHealth,
    /// Why it is not healthy, in one sentence without control characters; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolverHealth {
    Ready,
    /// Answers may fail for now; requests are still sent here when no healthy MID exists.
    Degraded,
    /// Cannot serve: JAR missing, wrong class, AIM client absent. No request is sent here.
    Unusable,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    pub version: u32,
    pub state: MidState,
    /// When to send the next one, in milliseconds.
    pub next_ms: u64,
    /// Another program, which started before, asks with this MID's key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cloned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_repeated_is_said_per_method_connection_and_call() {
        let put_only = ["PUT".to_owned()];
        for (method, replay, methods, repeated) in [
            ("GET", ReplayRule::ByMethod, None, true),
            ("OPTIONS", ReplayRule::ByMethod, None, true),
            ("POST", ReplayRule::ByMethod, None, false),
            ("POST", ReplayRule::Safe, None, true),
            ("PUT", ReplayRule::ByMethod, None, false),
            ("PUT", ReplayRule::ByMethod, Some(&put_only[..]), true),
            ("GET", ReplayRule::ByMethod, Some(&put_only[..]), false),
            ("GET", ReplayRule::ByMethod, Some(&[]), false),
            ("GET", ReplayRule::Safe, Some(&[]), true),
        ] {
            let call = ApiCall {
                method: method.to_owned(),
                path: "/".to_owned(),
                headers: Vec::new(),
                body: Bytes64::default(),
                replay,
            };
            assert_eq!(call.may_repeat(methods), repeated, "{method} {replay:?} {methods:?}");
        }
    }
}
