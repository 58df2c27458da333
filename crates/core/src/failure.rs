//! A failed call, as its user sees it: which hop, why, what to do. Never a secret.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The parts that a call passes through, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    Caller,
    Instance,
    Mid,
    Policy,
    Resolver,
    Vault,
    AuthorizationServer,
    Api,
}

impl Hop {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Instance => "instance",
            Self::Mid => "MID Server",
            Self::Policy => "policy",
            Self::Resolver => "resolver",
            Self::Vault => "vault",
            Self::AuthorizationServer => "authorization server",
            Self::Api => "API",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether trying again can help without somebody changing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    /// May go away by itself: back off and try again.
    Transient,
    /// Stays until a configuration or a secret changes.
    Permanent,
}

/// What went wrong, for a person: the hop, a stable code for programs, the reason, and what to do next.
/// No field may hold a secret or text that a remote party chose freely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{hop}: {detail} ({code}). {action}")]
pub struct Failure {
    pub hop: Hop,
    /// Stable, `snake_case`, listed in the manual.
    pub code: String,
    /// Why, in one sentence without a full stop.
    pub detail: String,
    /// What the reader does next, in one sentence with a full stop.
    pub action: String,
    pub persistence: Persistence,
    /// Names an entry in the MID's own log; the explanation stays there (see design: policy refusals).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Failure {
    pub fn transient(hop: Hop, code: &str, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Self::new(hop, code, detail, action, Persistence::Transient)
    }

    pub fn permanent(hop: Hop, code: &str, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Self::new(hop, code, detail, action, Persistence::Permanent)
    }

    #[must_use]
    pub fn with_reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    fn new(
        hop: Hop,
        code: &str,
        detail: impl Into<String>,
        action: impl Into<String>,
        persistence: Persistence,
    ) -> Self {
        Self { hop, code: code.to_owned(), detail: detail.into(), action: action.into(), persistence, reference: None }
    }
}

/// One step of a call and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTiming {
    pub hop: Hop,
    /// What happened, in a few words: `token from cache`, `GET answered 200`.
    pub what: String,
    /// Microseconds.
    pub micros: u64,
}

/// The steps of one call, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trace(pub Vec<HopTiming>);

impl Trace {
    pub fn push(&mut self, hop: Hop, what: impl Into<String>, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.push(HopTiming { hop, what: what.into(), micros });
    }
}
