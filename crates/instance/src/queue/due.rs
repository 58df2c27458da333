//! What waits in the database, as far as it is known here: lanes, and not requests. Whether there is anything for a MID is
//! told from this without asking the database, so what nobody can take costs nobody anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use midward_core::BootTime;

use crate::fleet::{Claimable, Fleet};
use crate::store::lanes::Lane;

/// Lanes that are read at once; with more of them, their reading goes round.
pub(super) const MOST_LANES: usize = 1000;
/// The same after a hint of another replica, which may give hundreds of them in a second.
pub(super) const MOST_HINTED: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Due {
    lanes: HashMap<String, Known>,
    /// Something waits of which the lane is not known, or what is known may be wrong.
    is_stale: bool,
    /// After which lane is read next.
    read_to: String,
    /// Counts how often all lanes were read.
    round: u64,
    /// Counts turns of lanes.
    turn: u64,
}

#[derive(Debug)]
struct Known {
    lane: Arc<Lane>,
    /// The connection that had its turn last.
    cursor: String,
    /// Its connection's limits let nothing be given out before this time, in unix milliseconds; `i64::MAX`: before
    /// something ends.
    held_until: i64,
    /// The turn it had last.
    turn: u64,
    /// The round in which it was seen last.
    round: u64,
}

/// A MID that asks for work.
#[derive(Debug)]
pub(super) struct Seeker<'a> {
    mid_id: &'a str,
    resolvers: Vec<Claimable>,
    fleet: &'a Fleet,
    boot: BootTime,
    now: i64,
}

impl<'a> Seeker<'a> {
    pub(super) fn new(mid_id: &'a str, fleet: &'a Fleet, boot: BootTime, now: i64) -> Self {
        Self { mid_id, resolvers: fleet.claimable(mid_id, boot), fleet, boot, now }
    }

    /// Whether it may take what waits in a lane. What it has degraded is another one's that may take it and has it ready;
    /// where the order of MIDs counts, one before it may be able to.
    fn may_take(&self, lane: &Lane) -> bool {
        let mids = || lane.mids.split(',').filter(|id| !id.is_empty());
        let allows = |id: &str| lane.mids.is_empty() || mids().any(|allowed| allowed == id);
        let goes_before = |id: &str| self.fleet.goes_before(id, self.mid_id, &lane.resolver, self.boot);
        let Some(own) = self.resolvers.iter().find(|own| own.resolver == lane.resolver) else { return false };
        allows(self.mid_id)
            && !own.ready_at.iter().any(|other| allows(other))
            && (!lane.ordered || mids().find(|id| *id == self.mid_id || goes_before(id)) == Some(self.mid_id))
    }
}

impl Due {
    /// Nothing is known yet.
    pub(super) fn unknown() -> Self {
        Self { is_stale: true, ..Self::default() }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Something was queued, or a transaction did not become true: it is to be read.
    pub(super) fn spoil(&mut self) {
        self.is_stale = true;
        self.release_all();
    }

    /// Of these connections something ended: their limits may let more be given out.
    pub(super) fn release<'a>(&mut self, connections: impl Iterator<Item = &'a String>) {
        let connections: HashSet<&str> = connections.map(String::as_str).collect();
        let is_one = |lane: &Lane| lane.limited.as_deref().is_some_and(|limited| connections.contains(limited));
        for known in self.lanes.values_mut().filter(|known| is_one(&known.lane)) {
            known.held_until = 0;
        }
    }

    /// Something may have ended anywhere, or limits were changed.
    pub(super) fn release_all(&mut self) {
        for known in self.lanes.values_mut() {
            known.held_until = 0;
        }
    }

    /// Something waits in a lane.
    pub(super) fn add(&mut self, lane: Lane) {
        let round = self.round;
        let new = || Known { lane: Arc::new(lane.clone()), cursor: String::new(), held_until: 0, turn: 0, round };
        self.lanes.entry(lane.text.clone()).or_insert_with(new).round = round;
    }

    /// Where to read on.
    pub(super) fn read_to(&self) -> &str {
        &self.read_to
    }

    /// Takes in the lanes that were read from there, `most` unless there are no more. What was not seen in a whole round
    /// is gone.
    pub(super) fn read(&mut self, found: Vec<Lane>, most: usize) {
        self.is_stale = false;
        let is_last = found.len() < most;
        self.read_to = found.last().filter(|_| !is_last).map(|lane| lane.text.clone()).unwrap_or_default();
        for lane in found {
            self.add(lane);
        }
        if is_last {
            let round = self.round;
            self.lanes.retain(|_, known| known.round == round);
            self.round += 1;
        }
    }

    /// Whether there may be something for a MID.
    pub(super) fn is_for(&self, seeker: &Seeker<'_>) -> bool {
        self.free(seeker.now).any(|lane| seeker.may_take(lane))
    }

    /// The MIDs that lanes name; `None`: a lane is for any of them.
    pub(super) fn named(&self, now: i64) -> Option<HashSet<String>> {
        let mut named = HashSet::new();
        for lane in self.free(now) {
            if lane.mids.is_empty() {
                return None;
            }
            named.extend(lane.mids.split(',').map(str::to_owned));
        }
        Some(named)
    }

    /// The lanes of which a MID may take something, who waited longest for a turn first.
    pub(super) fn lanes(&self, seeker: &Seeker<'_>, interactive: bool) -> Vec<Arc<Lane>> {
        let mut lanes: Vec<&Known> = self
            .lanes
            .values()
            .filter(|known| known.held_until <= seeker.now && known.lane.interactive == interactive)
            .filter(|known| seeker.may_take(&known.lane))
            .collect();
        lanes.sort_by(|a, b| (a.turn, &a.lane.text).cmp(&(b.turn, &b.lane.text)));
        lanes.into_iter().map(|known| Arc::clone(&known.lane)).collect()
    }

    /// It is a lane's turn; with the connection in it that had its own last.
    pub(super) fn take_turn(&mut self, lane: &Lane) -> String {
        self.turn += 1;
        let turn = self.turn;
        let known = self.lanes.get_mut(&lane.text);
        known.map_or_else(String::new, |known| {
            known.turn = turn;
            known.cursor.clone()
        })
    }

    pub(super) fn set_cursor(&mut self, lane: &Lane, connection: &str) {
        if let Some(known) = self.lanes.get_mut(&lane.text) {
            connection.clone_into(&mut known.cursor);
        }
    }

    /// Its connection's limits let nothing be given out for now.
    pub(super) fn hold(&mut self, lane: &Lane, until: i64) {
        if let Some(known) = self.lanes.get_mut(&lane.text) {
            known.held_until = until;
        }
    }

    /// Nothing waits in a lane any more.
    pub(super) fn exhaust(&mut self, lane: &Lane) {
        self.lanes.remove(&lane.text);
    }

    fn free(&self, now: i64) -> impl Iterator<Item = &Lane> {
        self.lanes.values().filter(move |known| known.held_until <= now).map(|known| &*known.lane)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use midward_wire::ResolverHealth;

    use super::*;
    use crate::fleet::tests::fleet;

    const BOOT: BootTime = BootTime::from_duration(Duration::from_secs(60));

    fn lane(text: &str, mids: &str) -> Lane {
        Lane {
            text: text.into(),
            interactive: false,
            ordered: false,
            resolver: "vault".into(),
            limited: None,
            mids: mids.into(),
            is_long: false,
        }
    }

    fn texts(due: &Due, seeker: &Seeker<'_>) -> Vec<String> {
        due.lanes(seeker, false).iter().map(|lane| lane.text.clone()).collect()
    }

    #[test]
    fn what_a_mid_cannot_take_is_nothing_for_it() {
        let fleet = fleet(&[("a", ResolverHealth::Ready), ("b", ResolverHealth::Unusable)]);
        let (a, b) = (Seeker::new("a", &fleet, BOOT, 0), Seeker::new("b", &fleet, BOOT, 0));
        let mut due = Due::default();
        due.add(lane("down", ",down,"));
        due.add(Lane { resolver: "other".into(), ..lane("other", "") });
        due.add(Lane { ordered: true, ..lane("b first", ",b,a,") });
        due.add(Lane { ordered: true, ..lane("a first", ",a,b,") });
        assert_eq!(due.named(0), None, "one lane is for any");
        assert_eq!(texts(&due, &a), ["a first", "b first"], "the first of the other cannot");
        assert!(!due.is_for(&b), "its resolver is unusable");
        due.exhaust(&lane("a first", ""));
        due.exhaust(&lane("b first", ""));
        assert!(!due.is_for(&a));
        due.exhaust(&lane("other", ""));
        assert!(due.named(0).is_some_and(|named| named.contains("down") && !named.contains("a")));
    }

    #[test]
    fn what_is_degraded_serves_what_nobody_else_may_that_has_it_ready() {
        let fleet = fleet(&[("a", ResolverHealth::Ready), ("b", ResolverHealth::Degraded)]);
        let (a, b) = (Seeker::new("a", &fleet, BOOT, 0), Seeker::new("b", &fleet, BOOT, 0));
        let mut due = Due::default();
        due.add(lane("any", ""));
        due.add(lane("both", ",a,b,"));
        due.add(Lane { ordered: true, ..lane("b first", ",b,a,") });
        due.add(lane("b", ",b,"));
        due.add(Lane { ordered: true, ..lane("b in order", ",down,b,") });
        assert_eq!(texts(&due, &a), ["any", "b first", "both"]);
        assert_eq!(texts(&due, &b), ["b", "b in order"]);
    }

    #[test]
    fn in_order_the_first_that_can_goes_before() {
        let fleet = fleet(&[("a", ResolverHealth::Ready), ("b", ResolverHealth::Ready)]);
        let mut due = Due::default();
        due.add(Lane { ordered: true, ..lane("b first", ",b,a,") });
        assert!(!due.is_for(&Seeker::new("a", &fleet, BOOT, 0)));
        assert!(due.is_for(&Seeker::new("b", &fleet, BOOT, 0)));
    }

    #[test]
    fn who_waited_longest_is_first_and_what_is_held_back_is_left_out() {
        let fleet = fleet(&[("a", ResolverHealth::Ready)]);
        let at = |now| Seeker::new("a", &fleet, BOOT, now);
        let mut due = Due::default();
        let limited = Lane { limited: Some("crm".into()), ..lane("2", "") };
        for lane in [lane("1", ""), limited.clone(), lane("3", "")] {
            due.add(lane);
        }
        due.take_turn(&lane("1", ""));
        assert_eq!(texts(&due, &at(0)), ["2", "3", "1"]);
        due.hold(&limited, 500);
        assert_eq!((texts(&due, &at(499)), texts(&due, &at(500)).len()), (vec!["3".into(), "1".into()], 3));
        due.hold(&limited, i64::MAX);
        due.release(["other".to_owned()].iter());
        assert_eq!(texts(&due, &at(1000)).len(), 2);
        due.release(["crm".to_owned()].iter());
        assert_eq!(texts(&due, &at(1000)).len(), 3);
    }

    #[test]
    fn lanes_are_read_in_rounds_and_what_is_gone_is_forgotten_after_one() {
        let mut due = Due::unknown();
        let some = |numbers: &[u32]| numbers.iter().map(|number| lane(&number.to_string(), "")).collect::<Vec<_>>();
        due.read(some(&[1, 2]), 2);
        assert_eq!((due.read_to(), due.is_stale()), ("2", false), "there may be more");
        due.read(some(&[3]), 2);
        assert_eq!((due.read_to(), due.lanes.len()), ("", 3));
        due.read(some(&[2, 3]), 2);
        due.add(lane("1", ""));
        assert_eq!(due.lanes.len(), 3);
        due.read(Vec::new(), 2);
        assert_eq!(due.lanes.len(), 3, "it was queued meanwhile");
        due.read(some(&[2]), 2);
        assert!(due.lanes.contains_key("2") && due.lanes.len() == 1);
        due.spoil();
        assert!(due.is_stale());
    }
}
