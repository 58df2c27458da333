//! Keeps what a resolver returned for a short while, in locked memory. A fresh look-up passes it by and replaces what it
//! holds; a failure, and a secret that is being changed, are never kept.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use midward_core::{BootTime, ClientMaterial, Clock, Hop, MaterialField, Secret, Trace};

use super::locked::Locked;
use crate::{BoxFuture, CacheConfig, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

/// A suspended machine's timers stand still: they are looked at again at least this often.
const SLICE: Duration = Duration::from_secs(30);

const FIELDS: [MaterialField; 7] = [
    MaterialField::ClientId,
    MaterialField::ClientSecret,
    MaterialField::PrivateKey,
    MaterialField::Certificate,
    MaterialField::KeyId,
    MaterialField::SubjectToken,
    MaterialField::ActorToken,
];

pub(crate) struct Cached {
    source: Arc<dyn Resolver>,
    shelf: Arc<Shelf>,
}

/// What is kept.
struct Shelf {
    name: String,
    ttl: Duration,
    most: usize,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Kept>,
    /// Changes with each fresh look-up: what was asked for before it is not kept after it.
    generation: u64,
    sweeper_runs: bool,
    /// It was said that memory cannot be locked.
    said: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    credential_id: String,
    address: Option<String>,
}

struct Kept {
    memory: Locked,
    fields: Vec<(MaterialField, Range<usize>)>,
    until: BootTime,
}

impl Cached {
    pub(crate) fn new(name: &str, source: Arc<dyn Resolver>, config: &CacheConfig, clock: Arc<dyn Clock>) -> Self {
        let (ttl, most) = (config.ttl(), config.max_entries);
        let shelf = Shelf { name: name.to_owned(), ttl, most, clock, state: Mutex::default() };
        Self { source, shelf: Arc::new(shelf) }
    }

    async fn look_up(&self, lookup: &Lookup, deadline: Duration) -> Result<Resolution, ResolveError> {
        let key = Key { credential_id: lookup.credential_id.clone(), address: lookup.address.clone() };
        let generation = if lookup.fresh {
            self.shelf.forget(&key)
        } else {
            if let Some(material) = self.shelf.take_copy(&key) {
                let mut trace = Trace::default();
                trace.push(Hop::Resolver, "from this resolver's cache", Duration::ZERO);
                return Ok(Resolution { material, changing: false, trace });
            }
            self.shelf.state().generation
        };
        let resolution = self.source.resolve(lookup, deadline).await?;
        if !resolution.changing {
            self.shelf.keep(key, &resolution.material, generation);
        }
        Ok(resolution)
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.shelf.state().kept.len();
        f.debug_struct("Cached").field("source", &self.source).field("kept", &kept).finish_non_exhaustive()
    }
}

impl Resolver for Cached {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(self.look_up(lookup, deadline))
    }

    fn report(&self) -> ResolverReport {
        self.source.report()
    }

    fn note(&self) -> Option<String> {
        self.source.note()
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        self.source.warm_up()
    }

    fn forget(&self) {
        let mut state = self.shelf.state();
        state.generation += 1;
        state.kept.clear();
        drop(state);
        self.source.forget();
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        self.forget();
        self.source.shut_down()
    }
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_copy(&self, key: &Key) -> Option<ClientMaterial> {
        let now = self.clock.boot();
        let state = self.state();
        state.kept.get(key).filter(|kept| now < kept.until).map(Kept::material)
    }

    /// Drops what is kept for `key`, and tells the generation that begins.
    fn forget(&self, key: &Key) -> u64 {
        let mut state = self.state();
        state.kept.remove(key);
        state.generation += 1;
        state.generation
    }

    /// Keeps a copy unless a fresh look-up has begun since `generation`, which may know better.
    fn keep(self: &Arc<Self>, key: Key, material: &ClientMaterial, generation: u64) {
        let until = self.clock.boot() + self.ttl;
        let kept = Kept::copy(material, until);
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                if !std::mem::replace(&mut state.said, true) {
                    tracing::warn!(resolver = %self.name, %error, "secrets are not kept: no more memory can be locked; raise RLIMIT_MEMLOCK");
                }
                return;
            }
        };
        if state.kept.len() >= self.most && !state.kept.contains_key(&key) {
            let first = state.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone());
            first.and_then(|key| state.kept.remove(&key));
        }
        state.kept.insert(key, kept);
        if !std::mem::replace(&mut state.sweeper_runs, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Drops what has ended; tells how long the rest lasts.
    fn swept(&self) -> Option<Duration> {
        let now = self.clock.boot();
        let mut state = self.state();
        state.kept.retain(|_, kept| now < kept.until);
        let next = state.kept.values().map(|kept| kept.until.saturating_since(now)).min();
        state.sweeper_runs = next.is_some();
        next
    }
}

/// Wipes each secret at its end, whether anybody asks or not. Ends when nothing is kept.
async fn sweep(shelf: Weak<Shelf>) {
    loop {
        let Some(next) = shelf.upgrade().and_then(|shelf| shelf.swept()) else { return };
        tokio::time::sleep(next.min(SLICE)).await;
    }
}

impl Kept {
    fn copy(material: &ClientMaterial, until: BootTime) -> std::io::Result<Self> {
        let present = FIELDS.into_iter().filter_map(|field| Some((field, material.field(field)?)));
        let present: Vec<(MaterialField, &Secret)> = present.collect();
        let mut memory = Locked::zeroed(present.iter().map(|(_, value)| value.len()).sum())?;
        let (mut fields, mut at) = (Vec::with_capacity(present.len()), 0);
        for (field, value) in present {
            let range = at..at + value.len();
            memory.bytes_mut()[range.clone()].copy_from_slice(value.expose());
            at = range.end;
            fields.push((field, range));
        }
        Ok(Self { memory, fields, until })
    }

    fn material(&self) -> ClientMaterial {
        self.fields.iter().fold(ClientMaterial::new(), |material, (field, range)| {
            material.with(*field, Secret::new(self.memory.bytes()[range.clone()].to_vec()))
        })
    }
}

#[cfg(test)]
mod tests;
