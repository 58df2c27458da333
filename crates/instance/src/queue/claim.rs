//! Who gets what of the queued requests: interactive ones before all others, then the connections in turn, and of each
//! its oldest first. What limits hold back takes no turn from others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sqlx::{Any, Transaction};

use super::Poll;
use super::batch::Writer;
use super::due::Seeker;
use crate::store::StoreError;
use crate::store::lanes::{self, Lane};
use crate::store::leases::{self, Claim, Leased, MOST_BYTES, MOST_PORTIONS, Portion};
use crate::store::limits::{self, Allowance};

type Tx = Transaction<'static, Any>;

/// Lanes with limits that are looked at for one MID; the others have their turn with the next one.
const MOST_LOOKED_AT: usize = 256;
/// What another replica is just giving out is not looked at for so long, in milliseconds.
const OTHERS_TURN: i64 = 20;

/// What is claimed at once.
#[derive(Debug, Default)]
struct Turn {
    portions: Vec<Portion>,
    /// By connection.
    allowances: HashMap<String, Allowance>,
    /// Lanes of which all connections that wait are in it.
    whole: HashSet<String>,
}

impl Turn {
    fn has(&self, connection: &str) -> bool {
        self.portions.iter().any(|portion| portion.connection == connection)
    }

    fn add(&mut self, lane: &Arc<Lane>, connection: String, most: u32) {
        self.portions.push(Portion { lane: Arc::clone(lane), connection, most });
    }
}

impl Writer {
    /// Reads which lanes there are.
    pub(super) async fn look(&mut self, tx: &mut Tx, most: usize) -> Result<(), StoreError> {
        let found = lanes::after(tx, self.due.read_to(), most).await?;
        self.due.read(found, most);
        Ok(())
    }

    /// Whether something may wait for a MID that polls.
    pub(super) fn has_for(&self, mid_id: &str, now: i64) -> bool {
        !self.due.is_empty() && self.due.is_for(&self.seeker(mid_id, now))
    }

    fn seeker<'a>(&'a self, mid_id: &'a str, now: i64) -> Seeker<'a> {
        Seeker::new(mid_id, &self.parts.fleet, self.parts.clock.boot(), now)
    }

    /// Leases to a MID what it can serve: at most `most` requests.
    pub(super) async fn claim(
        &mut self,
        tx: &mut Tx,
        poll: &Poll,
        most: u32,
        now: i64,
    ) -> Result<Vec<Leased>, StoreError> {
        let Some(session) = self.sessions.get(&poll.mid_id) else { return Ok(Vec::new()) };
        let mut claim = Claim {
            mid_id: &poll.mid_id,
            incarnation: &poll.incarnation,
            batch: session.batch + 1,
            bytes: MOST_BYTES,
            now,
        };
        let mut room = most;
        let mut leased = Vec::new();
        for interactive in [true, false] {
            let mut waiting: VecDeque<_> = self.due.lanes(&self.seeker(&poll.mid_id, now), interactive).into();
            let mut looked_at = 0;
            while room > 0 && claim.bytes > 0 {
                let turn = self.turn(tx, &mut waiting, room, &mut looked_at, now).await?;
                if turn.portions.is_empty() {
                    break;
                }
                let (more, counts) = leases::claim(tx, &claim, &turn.portions).await?;
                for (alias, allowance) in &turn.allowances {
                    limits::used(tx, alias, allowance, counts.get(alias).copied().unwrap_or(0)).await?;
                }
                claim.bytes = more.iter().map(|lease| lease.size).fold(claim.bytes, i64::saturating_sub);
                room = room.saturating_sub(u32::try_from(more.len()).unwrap_or(u32::MAX));
                leased.extend(more);
                if claim.bytes > 0 {
                    self.after_turn(&turn, &counts, &mut waiting);
                }
            }
        }
        Ok(leased)
    }

    /// Whose turn it is: portions that are `room` together.
    async fn turn(
        &mut self,
        tx: &mut Tx,
        waiting: &mut VecDeque<Arc<Lane>>,
        room: u32,
        looked_at: &mut usize,
        now: i64,
    ) -> Result<Turn, StoreError> {
        let places = MOST_PORTIONS.min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut turn = Turn::default();
        while turn.portions.len() < places {
            let Some(lane) = waiting.pop_front() else { break };
            if lane.limited.is_none() {
                self.connections(tx, &lane, places, &mut turn).await?;
                continue;
            }
            let mut limited = vec![lane];
            // One statement tells of as many.
            while limited.len() < limits::AT_ONCE && waiting.front().is_some_and(|lane| lane.limited.is_some()) {
                limited.extend(waiting.pop_front());
            }
            if *looked_at < MOST_LOOKED_AT {
                *looked_at += limited.len();
                let left = self.limited(tx, limited, places, &mut turn, now).await?;
                left.into_iter().rev().for_each(|lane| waiting.push_front(lane));
            }
        }
        // Shares that differ by one at most.
        let count = u32::try_from(turn.portions.len()).unwrap_or(u32::MAX);
        for (place, portion) in (0_u32..).zip(&mut turn.portions) {
            portion.most = portion.most.min(room / count + u32::from(place < room % count));
        }
        Ok(turn)
    }

    /// The next connections of a lane without limits.
    async fn connections(
        &mut self,
        tx: &mut Tx,
        lane: &Arc<Lane>,
        places: usize,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let cursor = self.due.take_turn(lane);
        let most = places - turn.portions.len();
        let mut found = lanes::connections(tx, &lane.text, &cursor, most).await?;
        if found.len() < most && !cursor.is_empty() {
            let seen: HashSet<String> = found.iter().cloned().collect();
            let again = lanes::connections(tx, &lane.text, "", most - found.len()).await?;
            found.extend(again.into_iter().filter(|name| !seen.contains(name)));
        }
        match found.last() {
            Some(last) => self.due.set_cursor(lane, last),
            None => self.due.exhaust(lane),
        }
        let mut is_whole = found.len() < most;
        for connection in found {
            if turn.has(&connection) {
                is_whole = false;
            } else {
                turn.add(lane, connection, u32::MAX);
            }
        }
        if is_whole {
            turn.whole.insert(lane.text.clone());
        }
        Ok(())
    }

    /// Those of lanes with limits that may give something now. Returns those for which there is no place.
    async fn limited(
        &mut self,
        tx: &mut Tx,
        lanes: Vec<Arc<Lane>>,
        places: usize,
        turn: &mut Turn,
        now: i64,
    ) -> Result<Vec<Arc<Lane>>, StoreError> {
        let aliases: BTreeSet<&str> = lanes.iter().filter_map(|lane| lane.limited.as_deref()).collect();
        let mut allowed = limits::allowances(tx, &aliases.into_iter().collect::<Vec<_>>(), now).await?;
        let mut chosen: BTreeMap<String, Arc<Lane>> = BTreeMap::new();
        let mut left = Vec::new();
        for lane in lanes {
            let Some(alias) = lane.limited.clone() else { continue };
            if let Some(held) = allowed.get(&alias).filter(|allowance| allowance.count == 0) {
                self.due.take_turn(&lane);
                self.due.hold(&lane, held.from);
            } else if turn.portions.len() + chosen.len() >= places {
                left.push(lane);
            } else if !turn.has(&alias) && !chosen.contains_key(&alias) {
                self.due.take_turn(&lane);
                chosen.insert(alias, lane);
            }
        }
        if self.parts.store.is_shared() && !chosen.is_empty() {
            let aliases: Vec<&str> = chosen.keys().map(String::as_str).collect();
            let locked = limits::lock(tx, &aliases).await?;
            // What others gave meanwhile counts.
            allowed = limits::allowances(tx, &aliases, now).await?;
            chosen.retain(|alias, lane| {
                let held = allowed.get(alias).filter(|allowance| allowance.count == 0).map(|allowance| allowance.from);
                let held = if locked.contains(alias) { held } else { Some(now.saturating_add(OTHERS_TURN)) };
                held.map(|until| self.due.hold(lane, until)).is_none()
            });
        }
        for (alias, lane) in chosen {
            let allowance = allowed.remove(&alias).unwrap_or(Allowance::ALL);
            turn.add(&lane, alias.clone(), allowance.count);
            turn.allowances.insert(alias, allowance);
        }
        Ok(left)
    }

    /// Lanes that gave all that they were asked for may have more.
    fn after_turn(&mut self, turn: &Turn, counts: &HashMap<String, u32>, waiting: &mut VecDeque<Arc<Lane>>) {
        let mut lanes: Vec<(&Arc<Lane>, bool, bool)> = Vec::new();
        for portion in &turn.portions {
            let count = counts.get(&portion.connection).copied().unwrap_or(0);
            let (gave, is_empty) = (count > 0, count < portion.most);
            match lanes.iter_mut().find(|(lane, ..)| lane.text == portion.lane.text) {
                Some(known) => (known.1, known.2) = (known.1 || gave, known.2 && is_empty),
                None => lanes.push((&portion.lane, gave, is_empty)),
            }
        }
        for (lane, gave, is_empty) in lanes {
            if is_empty && (lane.limited.is_some() || turn.whole.contains(&lane.text)) {
                self.due.exhaust(lane);
            } else if gave {
                waiting.push_back(Arc::clone(lane));
            }
        }
    }
}
