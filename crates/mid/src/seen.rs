//! The leases of this incarnation: no request runs twice under one epoch, and none under an epoch older than its last.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;

/// Requests remembered.
const REMEMBERED: usize = 65_536;

/// Why a lease is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It runs or ran already.
    Repeated,
    /// A later epoch of the request came before it.
    Outdated { latest: i64 },
}

/// Each request with its latest epoch, by a keyed hash: what matters is the bound, and a collision in 2^64 is none.
pub(crate) struct Seen {
    hasher: RandomState,
    latest: HashMap<u64, i64>,
    /// In the order of arrival; one whose epoch is not the latest stands for nothing any more.
    order: VecDeque<(u64, i64)>,
    most: usize,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self::of(REMEMBERED)
    }

    fn of(most: usize) -> Self {
        Self { hasher: RandomState::new(), latest: HashMap::new(), order: VecDeque::new(), most }
    }

    /// Remembers a lease, unless it is to be refused.
    pub(crate) fn insert(&mut self, request_id: &str, epoch: i64) -> Result<(), Known> {
        let hash = self.hasher.hash_one(request_id);
        match self.latest.get(&hash) {
            Some(&latest) if latest == epoch => return Err(Known::Repeated),
            Some(&latest) if latest > epoch => return Err(Known::Outdated { latest }),
            _ => {}
        }
        self.latest.insert(hash, epoch);
        self.order.push_back((hash, epoch));
        if self.order.len() > self.most
            && let Some((oldest, epoch)) = self.order.pop_front()
            && self.latest.get(&oldest) == Some(&epoch)
        {
            self.latest.remove(&oldest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_new_once_and_its_next_epoch_again_and_no_older_one() {
        let mut seen = Seen::of(10);
        assert_eq!(seen.insert("a", 1), Ok(()));
        assert_eq!(seen.insert("a", 1), Err(Known::Repeated));
        assert_eq!(seen.insert("a", 3), Ok(()));
        assert_eq!(seen.insert("a", 3), Err(Known::Repeated));
        for older in [2, 1, 0, -1, i64::MIN] {
            assert_eq!(seen.insert("a", older), Err(Known::Outdated { latest: 3 }), "{older}");
        }
        assert_eq!(seen.insert("b", 1), Ok(()), "each request has epochs of its own");
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_what_came_last() {
        let mut seen = Seen::of(3);
        for (request_id, epoch) in [("a", 1), ("b", 1), ("a", 2), ("c", 1)] {
            assert_eq!(seen.insert(request_id, epoch), Ok(()));
        }
        assert_eq!((seen.order.len(), seen.latest.len()), (3, 3));
        assert_eq!(seen.insert("a", 1), Err(Known::Outdated { latest: 2 }), "its first epoch is gone, its last is not");
        for number in 0..100 {
            assert_eq!(seen.insert("d", number), Ok(()));
            assert!(seen.order.len() <= 3 && seen.latest.len() <= 3);
        }
        assert_eq!(seen.insert("b", 1), Ok(()), "forgotten");
    }
}
