//! When a vault that fails is left alone, and for how long. Pure.

use std::time::Duration;

use midward_core::{BootTime, Failure};

/// First time that a vault is left alone; doubles with each trial that fails.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(2);

/// The state between one resolver and its vault.
#[derive(Debug)]
pub(super) struct Circuit {
    /// Failures in a row that open it; 0: none does.
    limit: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed { streak: Option<Streak> },
    Open { failure: Failure, step: Duration, until: BootTime, trial_runs: bool },
}

/// Failures in a row.
#[derive(Debug)]
struct Streak {
    count: u32,
    /// Whose the first of them was. One identifier alone opens nothing: its callers back off by themselves, and it may
    /// be the only one that is slow.
    first: String,
    several: bool,
}

/// What a look-up may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// Go, as the only one; [`Circuit::ended`] says how it ended, or [`Circuit::given_up`].
    Trial,
    /// Not before this much time has passed; the last failure.
    Refuse(Duration, Failure),
}

/// How a look-up ended, as far as the vault's health goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The vault answered, be it with a refusal.
    Answered,
    /// It may work later.
    Failed(Failure),
    /// The vault was not asked.
    Nothing,
}

impl Circuit {
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, state: State::Closed { streak: None } }
    }

    /// Asks whether to go on; only the look-up that goes on at once.
    pub(super) fn admit(&mut self, now: BootTime) -> Admission {
        match self.refusal(now) {
            Some((wait, failure)) => Admission::Refuse(wait, failure),
            None => match &mut self.state {
                State::Closed { .. } => Admission::Go,
                State::Open { trial_runs, .. } => {
                    *trial_runs = true;
                    Admission::Trial
                }
            },
        }
    }

    /// What [`Self::admit`] would refuse with, for those who would have to wait for their turn.
    pub(super) fn refusal(&self, now: BootTime) -> Option<(Duration, Failure)> {
        match &self.state {
            State::Open { failure, until, trial_runs, .. } if *trial_runs || now < *until => {
                Some((until.saturating_since(now), failure.clone()))
            }
            _ => None,
        }
    }

    /// Records how a look-up ended; tells whether that opened the circuit.
    pub(super) fn ended(&mut self, now: BootTime, credential_id: &str, was_trial: bool, ended: Ended) -> bool {
        match (ended, &mut self.state) {
            (Ended::Nothing, _) => {
                self.given_up(was_trial);
                false
            }
            (Ended::Answered, _) => {
                self.state = State::Closed { streak: None };
                false
            }
            (Ended::Failed(failure), State::Open { step, .. }) if was_trial => {
                let step = step.saturating_mul(2).min(LONGEST);
                self.state = State::Open { failure, step, until: now + step, trial_runs: false };
                true
            }
            // It began before the circuit opened, and says nothing new.
            (Ended::Failed(_), State::Open { .. }) => false,
            (Ended::Failed(failure), State::Closed { streak }) => {
                let streak =
                    streak.get_or_insert_with(|| Streak { count: 0, first: credential_id.to_owned(), several: false });
                streak.count = streak.count.saturating_add(1);
                streak.several |= streak.first != credential_id;
                if self.limit == 0 || streak.count < self.limit || !streak.several {
                    return false;
                }
                self.state = State::Open { failure, step: FIRST, until: now + FIRST, trial_runs: false };
                true
            }
        }
    }

    /// A look-up that was admitted came to no end.
    pub(super) fn given_up(&mut self, was_trial: bool) {
        if let (true, State::Open { trial_runs, .. }) = (was_trial, &mut self.state) {
            *trial_runs = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_core::Hop;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_duration(Duration::from_secs(seconds))
    }

    fn failed() -> Ended {
        Ended::Failed(Failure::transient(Hop::Vault, "vault_unreachable", "gone", "Wait."))
    }

    fn opened(limit: u32) -> Circuit {
        let mut circuit = Circuit::new(limit);
        for number in 0..limit {
            assert_eq!(circuit.admit(at(0)), Admission::Go);
            assert_eq!(circuit.ended(at(0), &format!("id-{number}"), false, failed()), number + 1 == limit);
        }
        circuit
    }

    #[test]
    fn it_opens_for_a_doubling_time_and_lets_one_trial_through() {
        let mut circuit = opened(3);
        let (mut now, mut opens) = (0, Vec::new());
        while opens.len() < 10 {
            match circuit.admit(at(now)) {
                Admission::Go => panic!("closed"),
                Admission::Trial => {
                    opens.push(now);
                    assert!(matches!(circuit.admit(at(now)), Admission::Refuse(..)), "one trial at a time");
                    assert!(circuit.ended(at(now), "id", true, failed()));
                }
                Admission::Refuse(wait, failure) => {
                    assert!(wait <= LONGEST && !wait.is_zero());
                    assert_eq!(failure.code, "vault_unreachable");
                    now += 1;
                }
            }
        }
        assert_eq!(opens, [1, 3, 7, 15, 31, 63, 127, 247, 367, 487]);
        circuit.admit(at(1000));
        circuit.ended(at(1000), "id", true, Ended::Answered);
        assert_eq!(circuit.admit(at(1000)), Admission::Go, "healed");
    }

    #[test]
    fn an_answer_in_between_or_one_identifier_alone_opens_nothing() {
        let mut circuit = Circuit::new(3);
        for number in 0..100 {
            let ended = if number % 3 == 2 { Ended::Answered } else { failed() };
            assert!(!circuit.ended(at(0), &format!("id-{number}"), false, ended));
        }
        let mut circuit = Circuit::new(3);
        for _ in 0..100 {
            assert!(!circuit.ended(at(0), "one", false, failed()));
        }
        assert!(circuit.ended(at(0), "another", false, failed()));
    }

    #[test]
    fn a_trial_that_asked_nothing_or_got_lost_leaves_the_turn_to_the_next() {
        let mut circuit = opened(2);
        assert_eq!(circuit.admit(at(5)), Admission::Trial);
        circuit.ended(at(5), "id", true, Ended::Nothing);
        assert_eq!(circuit.admit(at(5)), Admission::Trial);
        circuit.given_up(true);
        assert_eq!(circuit.admit(at(5)), Admission::Trial);
    }

    #[test]
    fn what_began_before_it_opened_neither_lengthens_it_nor_takes_the_trial() {
        let mut circuit = opened(2);
        assert_eq!(circuit.admit(at(1)), Admission::Trial);
        assert!(!circuit.ended(at(1), "late", false, failed()));
        assert!(matches!(circuit.admit(at(1)), Admission::Refuse(..)), "the trial still runs");
        circuit.ended(at(1), "late", false, Ended::Answered);
        assert_eq!(circuit.admit(at(1)), Admission::Go, "an answer is an answer");
    }

    #[test]
    fn none_opens_it_where_it_is_switched_off() {
        let mut circuit = Circuit::new(0);
        assert!((0..1000).all(|number| !circuit.ended(at(0), &number.to_string(), false, failed())));
    }
}
