//! A refusal: a code and a reference for the instance, the explanation for the MID's owner only.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use midward_core::{Failure, Hop, Random};

/// A call that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Names this refusal on the MID's host.
    pub reference: String,
    /// `policy_no_rule`, `policy_token_url`, `policy_api_origin`, ...
    pub code: &'static str,
    /// Which rule came nearest, what it lacks, and the line to add. Never leaves the MID's host.
    pub explanation: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, explanation: String, random: &dyn Random) -> Self {
        let mut bytes = [0; 5];
        random.fill(&mut bytes);
        let mut reference = String::with_capacity(10);
        for byte in bytes {
            let _ = write!(reference, "{byte:02x}");
        }
        Self { reference, code, explanation }
    }

    /// What the instance and the caller see: nothing of the policy's content.
    pub fn failure(&self) -> Failure {
        Failure::permanent(
            Hop::Policy,
            self.code,
            "the MID Server's policy does not allow this call",
            format!("On the MID's host run: midward-mid policy explain {}", self.reference),
        )
        .with_reference(self.reference.clone())
    }
}

/// The latest refusals, for `policy explain`. Bounded: the oldest goes first.
#[derive(Debug)]
pub struct Explanations {
    capacity: usize,
    latest: Mutex<VecDeque<Refusal>>,
}

impl Explanations {
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, latest: Mutex::new(VecDeque::new()) }
    }

    pub fn record(&self, refusal: Refusal) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() >= self.capacity {
            latest.pop_front();
        }
        latest.push_back(refusal);
    }

    pub fn find(&self, reference: &str) -> Option<Refusal> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.iter().rev().find(|refusal| refusal.reference == reference).cloned()
    }
}
