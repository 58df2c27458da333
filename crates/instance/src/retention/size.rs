//! What finished requests take in the database, added up without reading it all each time.

use std::collections::BTreeMap;

use crate::app::App;
use crate::store::{StoreError, kept};

/// Requests that ended within so many milliseconds are added up together.
const SLOT: i64 = 60_000;
/// A slot is closed this long after its end: what was about to be committed then is in it.
const SETTLED: i64 = 60_000;
/// Added up in one statement: slots, so that none of them takes long however much there is.
const AT_ONCE: i64 = 60 * SLOT;

/// Bytes by slot, of slots that no longer change but by removal.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    closed: BTreeMap<i64, i64>,
}

impl Sizes {
    /// The time before which finished requests have to go, so that the rest takes no more than `most` bytes.
    pub(super) async fn excess(&mut self, app: &App, most: u64, now: i64) -> Result<Option<i64>, StoreError> {
        let db = app.store.readers();
        let Some(oldest) = kept::oldest(db).await? else {
            self.closed.clear();
            return Ok(None);
        };
        // Others, or an age, may have removed what was before.
        self.closed = self.closed.split_off(&oldest.div_euclid(SLOT));
        let closed_until = self.closed.last_key_value().map_or(0, |(slot, _)| (slot + 1) * SLOT);
        let mut from = closed_until.max(oldest.div_euclid(SLOT) * SLOT);
        let mut all = self.closed.clone();
        while from <= now {
            let until = from + AT_ONCE;
            for (slot, bytes) in kept::by_slot(db, from, until, SLOT).await? {
                all.insert(slot, bytes);
                if (slot + 1) * SLOT + SETTLED < now {
                    self.closed.insert(slot, bytes);
                }
            }
            from = until;
        }
        Ok(first_kept(&all, i64::try_from(most).unwrap_or(i64::MAX)).map(|slot| slot * SLOT))
    }
}

/// The oldest slot that stays; None: all do. The newest one always does.
fn first_kept(slots: &BTreeMap<i64, i64>, most: i64) -> Option<i64> {
    let mut sum = 0_i64;
    let mut newer = None;
    for (slot, bytes) in slots.iter().rev() {
        sum = sum.saturating_add(*bytes);
        if sum > most && newer.is_some() {
            return newer;
        }
        newer = Some(*slot);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let slots = BTreeMap::from([(1, 50), (2, 30), (5, 20)]);
        for (most, first) in [(100, None), (99, Some(2)), (50, Some(2)), (49, Some(5)), (1, Some(5))] {
            assert_eq!(first_kept(&slots, most), first, "{most}");
        }
        assert_eq!(first_kept(&BTreeMap::new(), 0), None);
        assert_eq!(first_kept(&BTreeMap::from([(1, 50)]), 0), None, "what has just ended can be read for a while");
    }
}
