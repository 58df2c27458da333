//! The policy in force, replaceable while calls run.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use midward_core::Random;

use super::{Ask, Explanations, Permit, Policy, Refusal};

/// How many refusals `policy explain` remembers.
const REMEMBERED: usize = 1000;

/// Holds the policy in force and the explanations of the latest refusals.
pub struct PolicyStore {
    policy: ArcSwap<Policy>,
    explanations: Explanations,
    random: Arc<dyn Random>,
}

impl PolicyStore {
    pub fn new(policy: Policy, random: Arc<dyn Random>) -> Self {
        Self { policy: ArcSwap::from_pointee(policy), explanations: Explanations::new(REMEMBERED), random }
    }

    /// Puts another policy in force, for all decisions from now on.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    pub fn current(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Decides, and remembers and logs a refusal's explanation.
    pub fn decide(&self, ask: &Ask<'_>) -> Result<Permit, Refusal> {
        let decision = self.policy.load().decide(ask, &*self.random);
        if let Err(refusal) = &decision {
            self.record(refusal);
        }
        decision
    }

    /// A refusal that showed only after the decision, remembered and logged like one of it.
    pub(crate) fn refuse(&self, code: &'static str, explanation: String) -> Refusal {
        let refusal = Refusal::new(code, explanation, &*self.random);
        self.record(&refusal);
        refusal
    }

    fn record(&self, refusal: &Refusal) {
        self.explanations.record(refusal.clone());
        tracing::warn!(
            reference = %refusal.reference,
            code = refusal.code,
            explanation = ?refusal.explanation,
            "the policy refused a call"
        );
    }

    /// The refusal that a reference names, while it is remembered.
    pub fn explain(&self, reference: &str) -> Option<Refusal> {
        self.explanations.find(reference)
    }
}

impl fmt::Debug for PolicyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyStore").finish_non_exhaustive()
    }
}
