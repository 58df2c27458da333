//! Which MIDs there are, which are live, and what each can serve.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use midward_core::{BootTime, Failure, Hop};
use midward_wire::{Heartbeat, MidState, ResolverHealth};

use crate::routes::Route;
use crate::store::mids::MidRow;

/// A MID that was not heard of for longer than this gets no work, and what it has moves: three heartbeats are missing.
pub(crate) const LIVE_FOR: Duration = Duration::from_secs(9);

/// From how many messages of superseded incarnations on a MID counts as cloned.
pub(crate) const FENCED_OFTEN: i64 = 2;
/// For how long, in milliseconds: a fenced MID asks once a minute at least.
const CLONED_FOR_MS: i64 = 180_000;

/// What is known of one MID.
#[derive(Clone, Debug)]
pub(crate) struct MidView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: MidState,
    pub(crate) public_key: String,
    pub(crate) created_at: i64,
    pub(crate) last_seen_at: Option<i64>,
    pub(crate) heartbeat: Option<Heartbeat>,
    last_seen: Option<BootTime>,
    /// As far as this follows the database.
    version: i64,
    /// The one that has the word.
    pub(crate) incarnation: String,
    /// How often a superseded one spoke since, and when last, in unix milliseconds.
    fenced: i64,
    fenced_at: Option<i64>,
    /// Set by an administrator, or by the MID when it shuts down; ends with the next incarnation.
    pub(crate) draining: bool,
}

impl MidView {
    pub(crate) fn is_live(&self, now: BootTime) -> bool {
        self.last_seen.is_some_and(|seen| now.saturating_since(seen) <= LIVE_FOR)
    }

    /// Whether two programs run with this MID's key, at the database's time `wall`. One message alone may have been under
    /// way for long.
    pub(crate) fn is_cloned(&self, wall: i64) -> bool {
        self.fenced >= FENCED_OFTEN && self.fenced_at.is_some_and(|at| at > wall.saturating_sub(CLONED_FOR_MS))
    }

    fn takes_work(&self, now: BootTime) -> bool {
        self.state == MidState::Validated && !self.draining && self.is_live(now)
    }

    fn health(&self, resolver: &str) -> Option<ResolverHealth> {
        let heartbeat = self.heartbeat.as_ref()?;
        heartbeat.resolvers.iter().find(|status| status.name == resolver).map(|status| status.health)
    }
}

/// A resolver for which a MID may claim requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimable {
    pub(crate) resolver: String,
    /// Of a degraded one: the other MIDs that have it ready. What they may take is theirs.
    pub(crate) ready_at: Vec<String>,
}

/// All MIDs, in memory. The database is the truth; this follows it.
#[derive(Debug, Default)]
pub(crate) struct Fleet(Mutex<HashMap<String, MidView>>);

impl Fleet {
    /// Takes over what the database says of a MID, at the database's time `wall`.
    pub(crate) fn add(&self, row: MidRow, now: BootTime, wall: i64) {
        self.lock().insert(row.id.clone(), view(row, now, wall));
    }

    /// Follows what other replicas heard: `pulses` are identifier, last seen, version. Returns the MIDs of which more
    /// changed; those that are gone are forgotten.
    pub(crate) fn follow(&self, pulses: &[(String, Option<i64>, i64)], now: BootTime, wall: i64) -> Vec<String> {
        let mut mids = self.lock();
        let mut changed = Vec::new();
        for (id, seen, version) in pulses {
            match mids.get_mut(id) {
                Some(mid) if mid.version == *version => {
                    mid.last_seen = mid.last_seen.max(seen.map(|seen| earlier(now, wall, seen)));
                    mid.last_seen_at = mid.last_seen_at.max(*seen);
                }
                _ => changed.push(id.clone()),
            }
        }
        if mids.len() > pulses.len() {
            let there: HashSet<&String> = pulses.iter().map(|(id, ..)| id).collect();
            mids.retain(|id, _| there.contains(id));
        }
        changed
    }

    pub(crate) fn all(&self) -> Vec<MidView> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<MidView> {
        self.lock().get(id).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<MidView> {
        self.lock().values().find(|mid| mid.name == name).cloned()
    }

    pub(crate) fn state(&self, id: &str) -> Option<MidState> {
        self.lock().get(id).map(|mid| mid.state)
    }

    pub(crate) fn name(&self, id: &str) -> Option<String> {
        self.lock().get(id).map(|mid| mid.name.clone())
    }

    pub(crate) fn set_state(&self, id: &str, state: MidState) {
        if let Some(mid) = self.lock().get_mut(id) {
            mid.state = state;
            mid.draining = false;
        }
    }

    pub(crate) fn drain(&self, id: &str) {
        if let Some(mid) = self.lock().get_mut(id) {
            mid.draining = true;
        }
    }

    /// A heartbeat that is stored. `version`: what the database counts after it, when nobody else changes it; where
    /// others do, what they changed is followed with it.
    pub(crate) fn heartbeat(&self, id: &str, now: BootTime, wall: i64, heartbeat: Heartbeat, version: Option<i64>) {
        if let Some(mid) = self.lock().get_mut(id) {
            let renewed = mid.heartbeat.as_ref().is_some_and(|old| old.incarnation != heartbeat.incarnation);
            mid.draining = heartbeat.draining || (mid.draining && !renewed);
            mid.last_seen = Some(now);
            mid.last_seen_at = Some(wall);
            mid.heartbeat = Some(heartbeat);
            mid.version = version.unwrap_or(mid.version);
        }
    }

    /// Whether a heartbeat of the incarnation that has the word says what the last one said; then only the time is noted.
    pub(crate) fn repeats(&self, id: &str, now: BootTime, wall: i64, heartbeat: &Heartbeat) -> bool {
        let mut mids = self.lock();
        let is_known =
            |mid: &&mut MidView| mid.incarnation == heartbeat.incarnation && mid.heartbeat.as_ref() == Some(heartbeat);
        let Some(mid) = mids.get_mut(id).filter(is_known) else { return false };
        mid.last_seen = Some(now);
        mid.last_seen_at = mid.last_seen_at.max(Some(wall));
        true
    }

    /// How far this follows each of these MIDs.
    pub(crate) fn versions(&self, ids: &HashSet<String>) -> Vec<(String, i64)> {
        let mids = self.lock();
        ids.iter().filter_map(|id| Some((id.clone(), mids.get(id)?.version))).collect()
    }

    /// Whether an incarnation is known to have a MID's word.
    pub(crate) fn has_the_word(&self, id: &str, incarnation: &str) -> bool {
        self.lock().get(id).is_some_and(|mid| mid.incarnation == incarnation)
    }

    pub(crate) fn give_the_word(&self, id: &str, incarnation: &str) {
        if let Some(mid) = self.lock().get_mut(id).filter(|mid| mid.incarnation != incarnation) {
            incarnation.clone_into(&mut mid.incarnation);
            mid.fenced = 0;
        }
    }

    /// A superseded incarnation spoke, for the `times`th time.
    pub(crate) fn fence(&self, id: &str, times: i64, wall: i64) {
        if let Some(mid) = self.lock().get_mut(id) {
            (mid.fenced, mid.fenced_at) = (times, Some(wall));
        }
    }

    /// The resolvers for which a MID may claim requests now.
    pub(crate) fn claimable(&self, id: &str, now: BootTime) -> Vec<Claimable> {
        let mids = self.lock();
        let Some(mid) = mids.get(id).filter(|mid| mid.takes_work(now)) else { return Vec::new() };
        let Some(heartbeat) = &mid.heartbeat else { return Vec::new() };
        let ready_at = |name: &str| {
            let others = mids.values().filter(|other| other.id != id && other.takes_work(now));
            let ready = others.filter(|other| other.health(name) == Some(ResolverHealth::Ready));
            ready.map(|other| other.id.clone()).collect()
        };
        let claimable = heartbeat.resolvers.iter().filter_map(|status| {
            let ready_at = match status.health {
                ResolverHealth::Ready => Vec::new(),
                ResolverHealth::Degraded => ready_at(&status.name),
                ResolverHealth::Unusable => return None,
            };
            Some(Claimable { resolver: status.name.clone(), ready_at })
        });
        claimable.collect()
    }

    /// Whether a MID can take work of a resolver that would be another one's if it could not.
    pub(crate) fn goes_before(&self, id: &str, other: &str, resolver: &str, now: BootTime) -> bool {
        let mids = self.lock();
        let Some(mid) = mids.get(id).filter(|mid| mid.takes_work(now)) else { return false };
        let is_ready = |mid: &MidView| mid.health(resolver) == Some(ResolverHealth::Ready);
        let is_degraded = mid.health(resolver) == Some(ResolverHealth::Degraded);
        is_ready(mid) || (is_degraded && !mids.get(other).is_some_and(is_ready))
    }

    /// The MIDs that can serve a route now, best first: ready before degraded, then as `free` says (most free first).
    /// Where their order counts, only the first.
    pub(crate) fn eligible(&self, route: &Route, now: BootTime, free: impl Fn(&str) -> u32) -> Vec<String> {
        let mids = self.lock();
        let mut found: Vec<(bool, usize, &str)> = mids
            .values()
            .filter(|mid| route.allows(&mid.id) && mid.takes_work(now))
            .filter_map(|mid| {
                let place = match route.place(&mid.id) {
                    Some(place) if route.ordered => place,
                    _ => usize::MAX - free(&mid.id) as usize,
                };
                match mid.health(&route.resolver)? {
                    ResolverHealth::Unusable => None,
                    health => Some((health == ResolverHealth::Degraded, place, mid.id.as_str())),
                }
            })
            .collect();
        found.sort_unstable();
        if route.ordered {
            found.truncate(1);
        }
        let best = found.first().is_some_and(|first| !first.0);
        found.into_iter().filter(|(degraded, ..)| !(best && *degraded)).map(|(_, _, id)| id.to_owned()).collect()
    }

    /// Whether anybody can serve a route now.
    pub(crate) fn serves(&self, route: &Route, now: BootTime) -> bool {
        self.lock().values().any(|mid| {
            route.allows(&mid.id)
                && mid.takes_work(now)
                && mid.health(&route.resolver).is_some_and(|health| health != ResolverHealth::Unusable)
        })
    }

    /// Why nobody can serve a route, and what to do.
    pub(crate) fn explain(&self, route: &Route, now: BootTime) -> Failure {
        let mut mids: Vec<MidView> = self.all();
        mids.retain(|mid| route.allows(&mid.id));
        let resolver = &route.resolver;
        if mids.is_empty() {
            let detail = if route.mid_names.is_empty() {
                format!("connection {} has no MID: none is enrolled", route.alias)
            } else if let Some(cluster) = &route.cluster {
                format!(
                    "connection {} is served by cluster {cluster}, of which no MID is enrolled ({})",
                    route.alias,
                    route.mid_names.join(", ")
                )
            } else {
                format!(
                    "connection {} may only use MID {}, which is not enrolled",
                    route.alias,
                    route.mid_names.join(", ")
                )
            };
            let action = "Enroll a MID Server: `midward mid enroll-token NAME`, then `midward-mid enroll` on its host.";
            return Failure::transient(Hop::Instance, "no_mid", detail, action);
        }
        let mut reasons = Vec::new();
        let mut action = None;
        for mid in &mids {
            let name = &mid.name;
            let (reason, advice) = match mid.state {
                MidState::Enrolled => {
                    (format!("{name} waits to be validated"), format!("Validate it: `midward mid validate {name}`."))
                }
                MidState::Invalidated => (
                    format!("{name} is invalidated"),
                    format!("Validate it again when it may work: `midward mid validate {name}`."),
                ),
                MidState::Paused => {
                    (format!("{name} is paused"), format!("Let it go on: `midward mid resume {name}`."))
                }
                MidState::Validated if !mid.is_live(now) => (
                    format!("{name} is down (not heard of for more than {} s)", LIVE_FOR.as_secs()),
                    format!("Start midward-mid on the host of {name}, or look into its log."),
                ),
                MidState::Validated if mid.draining => {
                    (format!("{name} is draining"), format!("Restart it, or `midward mid resume {name}`."))
                }
                MidState::Validated => resolver_reason(mid, resolver),
            };
            if action.is_none() || mid.state == MidState::Validated {
                action = Some(advice);
            }
            if reasons.len() < 5 {
                reasons.push(reason);
            }
        }
        if mids.len() > reasons.len() {
            reasons.push(format!("and {} more", mids.len() - reasons.len()));
        }
        let detail =
            format!("no MID can serve connection {} (resolver {resolver}): {}", route.alias, reasons.join("; "));
        Failure::transient(Hop::Instance, "no_mid", detail, action.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, MidView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolver_reason(mid: &MidView, resolver: &str) -> (String, String) {
    let name = &mid.name;
    let statuses = mid.heartbeat.as_ref().map(|heartbeat| heartbeat.resolvers.as_slice()).unwrap_or_default();
    if let Some(status) = statuses.iter().find(|status| status.name == resolver) {
        let why = status.reason.as_deref().unwrap_or("it gives no reason");
        return (
            format!("resolver {resolver} on {name} is unusable: {why}"),
            format!("Repair resolver {resolver} on {name}: `midward-mid doctor` there says how."),
        );
    }
    let has: Vec<&str> = statuses.iter().map(|status| status.name.as_str()).collect();
    let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
    (
        format!("resolver {resolver} is missing on {name} (it has: {has})"),
        format!("Configure resolver {resolver} in mid.toml of {name}, or correct the credential's resolver."),
    )
}

/// When it was that the wall clock showed `seen`, if it shows `wall` now.
fn earlier(now: BootTime, wall: i64, seen: i64) -> BootTime {
    let ago = Duration::from_millis(u64::try_from(wall.saturating_sub(seen)).unwrap_or(0));
    now.saturating_sub(ago)
}

fn view(row: MidRow, now: BootTime, wall: i64) -> MidView {
    MidView {
        last_seen: row.last_seen_at.map(|seen| earlier(now, wall, seen)),
        id: row.id,
        name: row.name,
        state: row.state,
        public_key: row.public_key,
        created_at: row.created_at,
        last_seen_at: row.last_seen_at,
        heartbeat: row.heartbeat,
        draining: row.draining,
        version: row.version,
        incarnation: row.incarnation,
        fenced: row.fenced,
        fenced_at: row.fenced_at,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use midward_wire::ResolverStatus;

    use super::*;

    fn route(ordered: bool) -> Route {
        Route { mids: ",b,a,c,".into(), ordered, ..Route::plain("crm", "vault") }
    }

    /// MIDs with a resolver `vault`, heard of a minute after the host has started.
    pub(crate) fn fleet(health: &[(&str, ResolverHealth)]) -> Fleet {
        let fleet = Fleet::default();
        for (name, health) in health {
            let status = ResolverStatus { name: "vault".into(), kind: "jar".into(), health: *health, reason: None };
            let heartbeat = Heartbeat {
                version: 1,
                incarnation: "i".into(),
                program_version: "0".into(),
                capacity: 8,
                running: 0,
                draining: false,
                resolvers: vec![status],
            };
            let row = MidRow {
                id: (*name).into(),
                name: (*name).into(),
                state: MidState::Validated,
                public_key: String::new(),
                created_at: 0,
                last_seen_at: Some(1000),
                heartbeat: Some(heartbeat),
                draining: false,
                version: 0,
                incarnation: "i".into(),
                fenced: 0,
                fenced_at: None,
            };
            fleet.add(row, BootTime::from_duration(Duration::from_secs(60)), 1000);
        }
        fleet
    }

    #[test]
    fn who_has_most_room_is_first_and_in_order_the_first_that_can() {
        let now = BootTime::from_duration(Duration::from_secs(60));
        let free = |id: &str| if id == "c" { 5 } else { 2 };
        let all_ready = [("a", ResolverHealth::Ready), ("b", ResolverHealth::Ready), ("c", ResolverHealth::Ready)];
        let all = fleet(&all_ready);
        assert_eq!(all.eligible(&route(false), now, free), ["c", "a", "b"]);
        assert_eq!(all.eligible(&route(true), now, free), ["b"]);
        assert!(all.goes_before("b", "a", "vault", now));
        let some =
            fleet(&[("a", ResolverHealth::Ready), ("b", ResolverHealth::Degraded), ("c", ResolverHealth::Ready)]);
        assert_eq!(some.eligible(&route(true), now, free), ["a"], "ready before degraded");
        assert!(!some.goes_before("b", "a", "vault", now));
        let late = now + LIVE_FOR + Duration::from_millis(1);
        assert!(all.eligible(&route(true), late, free).is_empty());
        assert!(!all.goes_before("b", "a", "vault", late));
    }
}
