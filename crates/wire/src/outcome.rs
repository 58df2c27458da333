//! How a request ended.

use midward_core::{Failure, Trace};
use serde::{Deserialize, Serialize};

use crate::Bytes64;

/// Most outcomes in one message, and most leases that are handed back in one.
pub const MAX_OUTCOMES: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomesRequest {
    pub version: u32,
    pub incarnation: String,
    pub outcomes: Vec<OutcomeReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeReport {
    pub request_id: String,
    pub epoch: i64,
    pub outcome: Outcome,
    pub trace: Trace,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The API answered, whatever it answered.
    Replied { reply: ApiReply },
    /// Nothing reached the API, or it surely did not act.
    Failed { failure: Failure },
    /// The call may have reached the API; nobody knows whether it acted.
    Unknown { failure: Failure },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiReply {
    pub status: u16,
    /// Values as [`crate::header_text`] writes them.
    pub headers: Vec<(String, String)>,
    pub body: Bytes64,
}

/// One verdict per outcome, in the order they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomesReply {
    pub version: u32,
    pub verdicts: Vec<OutcomeVerdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeVerdict {
    /// Recorded now, or the same outcome was recorded before.
    Accepted,
    /// Somebody else has the request, an older epoch, or another outcome stands. Do not send it again.
    Refused,
}
