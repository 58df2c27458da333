//! The circuit of one credential at one authorization server: keeps a wrong secret from being sent again and again
//! (which would lock the client out), and closes by itself as soon as the vault returns another secret.

use std::sync::Arc;
use std::time::Duration;

use crate::{BootTime, Failure, Fingerprint};

/// How long a refused secret is kept from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitRules {
    /// First time that the circuit stays open; doubles with every further refusal.
    pub initial: Duration,
    /// Longest time that it stays open.
    pub max: Duration,
    /// How often the vault is read while it is open.
    pub reread: Duration,
}

impl Default for CircuitRules {
    fn default() -> Self {
        Self { initial: Duration::from_secs(30), max: Duration::from_mins(2), reread: Duration::from_secs(30) }
    }
}

/// Whether a secret may be read and sent now.
#[derive(Clone, Debug, Default)]
pub enum Circuit {
    /// Nothing speaks against a token request.
    #[default]
    Closed,
    /// The server refused the secret with this fingerprint.
    Open { fingerprint: Fingerprint, failure: Arc<Failure>, refusals: u32, until: BootTime, reread_at: BootTime },
}

/// What [`Circuit::admit`] allows.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Read the secret and send it.
    Go,
    /// Read the secret past every cache; send it only if its fingerprint differs from the refused one.
    Reread { refused: Fingerprint },
    /// Read the secret past every cache and send it once, whatever it is: the circuit was open for long enough.
    Trial,
    /// Do neither before `retry_at`.
    Refuse { failure: Arc<Failure>, retry_at: BootTime },
}

impl Circuit {
    /// Asks whether to go on. Whoever is told to read or to try has the turn: others are refused until the next one.
    #[must_use]
    pub fn admit(self, now: BootTime, rules: &CircuitRules) -> (Self, Admission) {
        match self {
            Self::Closed => (Self::Closed, Admission::Go),
            Self::Open { fingerprint, failure, refusals, until, .. } if now >= until => {
                // Nobody else tries while this trial runs; if it gets lost, the next one comes after one more step.
                let until = now + step(refusals, rules);
                let reread_at = now + rules.reread;
                (Self::Open { fingerprint, failure, refusals, until, reread_at }, Admission::Trial)
            }
            Self::Open { fingerprint, failure, refusals, until, reread_at } if now >= reread_at => (
                Self::Open { fingerprint, failure, refusals, until, reread_at: now + rules.reread },
                Admission::Reread { refused: fingerprint },
            ),
            Self::Open { fingerprint, failure, refusals, until, reread_at } => {
                let refuse = Admission::Refuse { failure: Arc::clone(&failure), retry_at: until.min(reread_at) };
                (Self::Open { fingerprint, failure, refusals, until, reread_at }, refuse)
            }
        }
    }

    /// Asks whether a secret that was just read may be sent: not if the server refused it in the meantime.
    pub fn refused(&self, fingerprint: Fingerprint) -> Option<Arc<Failure>> {
        match self {
            Self::Open { fingerprint: refused, failure, .. } if *refused == fingerprint => Some(Arc::clone(failure)),
            _ => None,
        }
    }

    /// The server refused the secret with this fingerprint, which the vault still returns.
    #[must_use]
    pub fn opened(self, now: BootTime, fingerprint: Fingerprint, failure: Arc<Failure>, rules: &CircuitRules) -> Self {
        let refusals = match self {
            Self::Open { fingerprint: refused, refusals, .. } if refused == fingerprint => refusals.saturating_add(1),
            _ => 1,
        };
        let until = now + step(refusals, rules);
        Self::Open { fingerprint, failure, refusals, until, reread_at: now + rules.reread }
    }

    /// When something may be tried again; `None` when closed.
    pub fn retry_at(&self) -> Option<BootTime> {
        match self {
            Self::Closed => None,
            Self::Open { until, reread_at, .. } => Some((*until).min(*reread_at)),
        }
    }

    /// Until when the refused secret is not sent again; `None` when closed.
    pub const fn open_until(&self) -> Option<BootTime> {
        match self {
            Self::Closed => None,
            Self::Open { until, .. } => Some(*until),
        }
    }

    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

fn step(refusals: u32, rules: &CircuitRules) -> Duration {
    rules.initial.saturating_mul(2_u32.saturating_pow(refusals.saturating_sub(1))).min(rules.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientMaterial, FingerprintKey, Hop, MaterialField, Secret, SeededRandom};

    fn print(secret: &str) -> Fingerprint {
        let key = FingerprintKey::generate(&SeededRandom::new(1));
        ClientMaterial::new().with(MaterialField::ClientSecret, Secret::from(secret)).fingerprint(&key)
    }

    fn at(seconds: u64) -> BootTime {
        BootTime::from_duration(Duration::from_secs(seconds))
    }

    fn failure() -> Arc<Failure> {
        Arc::new(Failure::permanent(Hop::AuthorizationServer, "invalid_client", "refused", "Check the secret."))
    }

    #[test]
    fn an_open_circuit_reads_every_thirty_seconds_and_tries_after_a_doubling_time() {
        let rules = CircuitRules::default();
        let mut circuit = Circuit::default().opened(at(0), print("old"), failure(), &rules);
        let (mut reads, mut trials) = (0, Vec::new());
        for second in 0..600 {
            let (next, admission) = circuit.admit(at(second), &rules);
            circuit = match admission {
                Admission::Go => panic!("open"),
                Admission::Refuse { retry_at, .. } => {
                    assert!(retry_at > at(second) && retry_at <= at(second) + rules.reread);
                    next
                }
                Admission::Reread { refused } => {
                    assert_eq!(refused, print("old"));
                    reads += 1;
                    next
                }
                Admission::Trial => {
                    trials.push(second);
                    next.opened(at(second), print("old"), failure(), &rules)
                }
            };
        }
        assert_eq!(trials, [30, 90, 210, 330, 450, 570]);
        assert!(reads >= 10, "{reads}");
    }

    #[test]
    fn a_turn_is_given_once() {
        let rules = CircuitRules::default();
        let circuit = Circuit::default().opened(at(0), print("old"), failure(), &rules);
        let (circuit, first) = circuit.admit(at(31), &rules);
        assert!(matches!(first, Admission::Trial));
        let (_, second) = circuit.admit(at(31), &rules);
        assert!(matches!(second, Admission::Refuse { .. }));
    }

    #[test]
    fn another_secret_is_not_refused_and_starts_anew() {
        let rules = CircuitRules::default();
        let circuit = Circuit::default().opened(at(0), print("old"), failure(), &rules).opened(
            at(30),
            print("old"),
            failure(),
            &rules,
        );
        assert!(circuit.refused(print("old")).is_some());
        assert!(circuit.refused(print("new")).is_none());
        let circuit = circuit.opened(at(40), print("new"), failure(), &rules);
        assert_eq!(circuit.retry_at(), Some(at(70)));
    }
}
