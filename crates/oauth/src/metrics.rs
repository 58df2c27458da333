//! What a monitoring system is told. No token, no secret; a bounded number of lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use midward_core::BootTime;

use crate::budget::ServerStatus;
use crate::cache::TokenCounts;
use crate::entry::{Entry, Look};
#[cfg(doc)]
use crate::key::TokenKey;

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    pub counts: TokenCounts,
    /// Failed fetches by code. At most 64 codes and `other`.
    pub failures: BTreeMap<String, u64>,
    /// Profiles by state, as [`crate::TokenStatus::state`] names it.
    pub states: BTreeMap<&'static str, usize>,
    pub servers: Vec<ServerMetrics>,
    /// Those that end first, before the others; no more than were asked for.
    pub profiles: Vec<ProfileMetrics>,
}

/// One authorization server.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    pub queue: ServerStatus,
    /// Profiles that are in use: a caller needed them within the last lifetime of their token, or the last minutes
    /// where there is none.
    pub in_use: usize,
    /// How long every call would still get a token if the server died now: until the first token in use ends, and
    /// zero when one is in use already that has none. `None` when nothing is in use.
    pub survives: Option<Duration>,
    /// Credentials whose circuit is open, because the server refused their secret.
    pub circuits_open: usize,
}

/// One profile.
#[derive(Clone, Debug)]
pub struct ProfileMetrics {
    /// [`TokenKey::short_name`].
    pub profile: String,
    pub instance: String,
    pub credential_id: String,
    /// Origin of the token URL.
    pub server: String,
    pub state: &'static str,
    /// Zero when there is no token.
    pub expires_in: Duration,
    pub in_use: bool,
}

/// For how long a profile without a token counts as in use after somebody asked for it.
const INTEREST: Duration = Duration::from_mins(5);

pub(crate) fn collect(
    entries: &[Arc<Entry>],
    counts: TokenCounts,
    failures: BTreeMap<String, u64>,
    queues: Vec<ServerStatus>,
    now: BootTime,
    most_profiles: usize,
) -> TokenMetrics {
    let mut states = BTreeMap::new();
    let mut servers: BTreeMap<String, ServerMetrics> = queues
        .into_iter()
        .map(|queue| (queue.server.clone(), ServerMetrics { queue, in_use: 0, survives: None, circuits_open: 0 }))
        .collect();
    let mut open = BTreeMap::new();
    let mut ends: Vec<(Duration, bool, &Arc<Entry>)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Look { life, last_used, .. } = entry.look();
        *states.entry(life.name()).or_insert(0) += 1;
        let held = life.held(now);
        let left = held.map_or(Duration::ZERO, |(_, times)| times.expires.saturating_since(now));
        let interest = held.map_or(INTEREST, |(_, times)| times.lifetime());
        let in_use = now.saturating_since(last_used) <= interest;
        ends.push((left, in_use, entry));
        let client = entry.client();
        if client.circuit.is_open() {
            open.insert(Arc::as_ptr(client), client.server());
        }
        if let Some(server) = servers.get_mut(client.server())
            && in_use
        {
            server.in_use += 1;
            server.survives = Some(server.survives.map_or(left, |shortest| shortest.min(left)));
        }
    }
    for server in open.values() {
        if let Some(server) = servers.get_mut(*server) {
            server.circuits_open += 1;
        }
    }
    // What is in use and ends first is what somebody has to look at first.
    ends.sort_by_key(|(left, in_use, _)| (!in_use, *left));
    ends.truncate(most_profiles);
    let profiles = ends
        .into_iter()
        .map(|(expires_in, in_use, entry)| ProfileMetrics {
            profile: entry.key().short_name(),
            instance: entry.key().client.instance.to_string(),
            credential_id: entry.key().client.credential_id.to_string(),
            server: entry.client().server().to_owned(),
            state: entry.look().life.name(),
            expires_in,
            in_use,
        })
        .collect();
    TokenMetrics { counts, failures, states, servers: servers.into_values().collect(), profiles }
}
