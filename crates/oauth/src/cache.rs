//! All cached tokens of a MID Server. In memory only.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use midward_core::{AccessToken, Clock, Failure, Random, TokenRules};
use url::Url;

use crate::budget::{BudgetRules, ServerBudget};
use crate::entry::{self, Counters, Entry, Granted, Shared};
use crate::explain::{self, TokenStatus};
use crate::fetch::TokenFetcher;
use crate::hot::{FreeLines, HotRef};
use crate::key::{ClientKey, TokenKey};
use crate::revoke::Revocation;
use crate::schedule::{self, Schedule};
use crate::turn::Client;

#[derive(Clone, Debug)]
pub struct TokenCacheConfig {
    pub rules: TokenRules,
    /// Longest time for a whole fetch, vault included, and without the time in the queue of its server.
    pub fetch_limit: Duration,
    /// What each authorization server is asked for.
    pub budget: BudgetRules,
}

impl Default for TokenCacheConfig {
    fn default() -> Self {
        Self { rules: TokenRules::default(), fetch_limit: Duration::from_mins(1), budget: BudgetRules::default() }
    }
}

/// Counts since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Tokens given out without waiting.
    pub hits: u64,
    /// Calls that waited for a fetch.
    pub waits: u64,
    /// Calls that got the failure of an earlier fetch at once.
    pub refusals: u64,
    pub fetches: u64,
    pub mints: u64,
    pub failures: u64,
    /// Tokens dropped because an API refused them.
    pub rejections: u64,
}

/// The cache. Clones are one cache.
#[derive(Clone)]
pub struct TokenCache {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    index: RwLock<Index>,
    budget: BudgetRules,
    /// The scheduler's task ends when this is dropped.
    alive: Arc<()>,
}

struct Index {
    entries: HashMap<Arc<TokenKey>, Arc<Entry>>,
    clients: HashMap<Arc<ClientKey>, Weak<Client>>,
    /// By origin of the token URL.
    budgets: HashMap<String, Weak<ServerBudget>>,
    /// Hits of entries that were forgotten.
    forgotten_hits: u64,
    /// How many entries there may be before the unused ones are looked for.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

impl TokenCache {
    /// Makes an empty cache.
    ///
    /// # Panics
    /// Outside a tokio runtime: the fetches and the scheduler run as tasks of the one it is made in.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>, config: TokenCacheConfig) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let schedule = Arc::new(Schedule::default());
        let alive = Arc::new(());
        supervise(&runtime, Arc::clone(&schedule), Arc::clone(&clock), Arc::downgrade(&alive));
        let shared = Shared {
            clock,
            random,
            rules: config.rules,
            fetch_limit: config.fetch_limit,
            schedule,
            runtime,
            free_lines: FreeLines::default(),
            counters: Counters::default(),
        };
        let index = Index {
            entries: HashMap::new(),
            clients: HashMap::new(),
            budgets: HashMap::new(),
            forgotten_hits: 0,
            sweep_at: FIRST_SWEEP,
        };
        Self {
            inner: Arc::new(Inner {
                shared: Arc::new(shared),
                index: RwLock::new(index),
                budget: config.budget,
                alive,
            }),
        }
    }

    /// The handle for `key`. Resolve it once per connection, not per call. `fetcher` is used from the next fetch on,
    /// also when the key is already known.
    pub fn handle(&self, key: TokenKey, fetcher: Arc<dyn TokenFetcher>) -> TokenHandle {
        if let Some(handle) = self.find(&key) {
            handle.entry.replace_fetcher(fetcher);
            return handle;
        }
        let mut index = self.inner.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = index.entries.get(&key) {
            return TokenHandle::new(Arc::clone(entry));
        }
        self.sweep(&mut index);
        let client = self.client(&mut index, &key);
        let key = Arc::new(key);
        let entry = Arc::new(Entry::new(Arc::clone(&key), Arc::clone(&self.inner.shared), client, fetcher));
        index.entries.insert(key, Arc::clone(&entry));
        TokenHandle::new(entry)
    }

    /// What all profiles of this credential share, and what all of this server share.
    fn client(&self, index: &mut Index, key: &TokenKey) -> Arc<Client> {
        if let Some(client) = index.clients.get(&key.client).and_then(Weak::upgrade) {
            return client;
        }
        let shared = &self.inner.shared;
        let origin = origin(&key.client.token_url);
        let budget = index.budgets.get(&origin).and_then(Weak::upgrade).unwrap_or_else(|| {
            let budget =
                ServerBudget::new(self.inner.budget.clone(), Arc::clone(&shared.clock), shared.runtime.clone());
            index.budgets.insert(origin, Arc::downgrade(&budget));
            budget
        });
        let client = Arc::new(Client::new(key.client.clone(), budget, Arc::clone(&shared.clock)));
        index.clients.insert(Arc::clone(&client.key), Arc::downgrade(&client));
        client
    }

    /// The handle for `key` if there is one, without a fetcher at hand.
    pub fn find(&self, key: &TokenKey) -> Option<TokenHandle> {
        let index = self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
        index.entries.get(key).map(|entry| TokenHandle::new(Arc::clone(entry)))
    }

    /// Drops tokens and failures, and closes the circuits, of all keys that `filter` picks. A fetch that runs goes on
    /// for those who wait for it, and is not kept. Returns how many keys that were.
    pub fn flush(&self, filter: impl Fn(&TokenKey) -> bool) -> usize {
        let picked: Vec<_> = self.entries().into_iter().filter(|entry| filter(&entry.key)).collect();
        for entry in &picked {
            entry.flush();
        }
        picked.len()
    }

    /// The same, and hands over what was dropped, to be revoked.
    pub fn flush_all(&self, filter: impl Fn(&TokenKey) -> bool) -> Vec<Dropped> {
        let picked: Vec<_> = self.entries().into_iter().filter(|entry| filter(&entry.key)).collect();
        // Before the circuits are closed.
        let refused: Vec<bool> = picked.iter().map(|entry| entry.client.circuit.is_open()).collect();
        let dropped = picked.iter().zip(refused).map(|(entry, is_refused)| {
            let (token, fetcher) = entry.flush();
            Dropped { key: Arc::clone(&entry.key), token, fetcher, is_refused }
        });
        dropped.collect()
    }

    /// The state of every key.
    pub fn statuses(&self) -> Vec<TokenStatus> {
        let now = self.inner.shared.clock.boot();
        self.entries().iter().map(|entry| explain::status(entry, now)).collect()
    }

    /// Why there is a token for `key` or why not, with ages and times. `None` when the key was never asked for.
    pub fn explain(&self, key: &TokenKey) -> Option<TokenStatus> {
        let handle = self.find(key)?;
        Some(explain::status(&handle.entry, self.inner.shared.clock.boot()))
    }

    pub fn counts(&self) -> TokenCounts {
        let counters = &self.inner.shared.counters;
        let index = self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
        let hits = index.entries.values().map(|entry| entry.hot.hits()).sum::<u64>();
        TokenCounts {
            hits: hits + index.forgotten_hits,
            waits: counters.waits.load(Ordering::Relaxed),
            refusals: counters.refusals.load(Ordering::Relaxed),
            fetches: counters.fetches.load(Ordering::Relaxed),
            mints: counters.mints.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            rejections: counters.rejections.load(Ordering::Relaxed),
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner).entries.values().cloned().collect()
    }

    /// Forgets what has no handle, no token and no fetch. Looks at all entries, so only each time their number has
    /// doubled.
    fn sweep(&self, index: &mut Index) {
        if index.entries.len() < index.sweep_at {
            return;
        }
        let now = self.inner.shared.clock.boot();
        let mut forgotten = 0;
        index.entries.retain(|_, entry| {
            let life = entry.look().life;
            let keep = Arc::strong_count(entry) > 1 || life.held(now).is_some() || life.fetch_runs();
            if !keep {
                forgotten += entry.hot.hits();
            }
            keep
        });
        index.forgotten_hits += forgotten;
        index.clients.retain(|_, client| client.strong_count() > 0);
        index.budgets.retain(|_, budget| budget.strong_count() > 0);
        index.sweep_at = FIRST_SWEEP.max(index.entries.len() * 2);
    }
}

/// What [`TokenCache::flush_all`] dropped of one key.
pub struct Dropped {
    pub key: Arc<TokenKey>,
    /// A token that had not ended.
    pub token: Option<AccessToken>,
    fetcher: Arc<dyn TokenFetcher>,
    /// The server refuses the client's secret.
    is_refused: bool,
}

impl Dropped {
    /// Takes the token back at the server, within `limit`. `None`: there was none.
    pub async fn revoke(&self, limit: Duration) -> Option<Revocation> {
        let token = self.token.as_ref()?;
        Some(match (self.is_refused, limit.is_zero()) {
            (true, _) => Revocation::with_refused_secret(),
            (false, true) => Revocation::too_late(),
            (false, false) => self.fetcher.revoke(token, limit).await,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.alive = Arc::new(());
        self.shared.schedule.nudge();
    }
}

/// The way to one token. Cheap to clone; keep it with the connection.
#[derive(Clone)]
pub struct TokenHandle {
    /// The entry's own, here so that a lookup does not go through the entry.
    hot: HotRef,
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

impl TokenHandle {
    fn new(entry: Arc<Entry>) -> Self {
        Self { hot: entry.hot.clone(), shared: Arc::clone(&entry.shared), entry }
    }

    pub fn key(&self) -> &TokenKey {
        &self.entry.key
    }

    /// The token if it is there and nothing is to be done about it: no lock, no wait.
    pub fn cached(&self) -> Option<Granted> {
        self.hot.cached(&self.shared).map(entry::warm)
    }

    /// A token that has not expired. Waits for at most `deadline`; the fetch goes on after that.
    pub async fn token(&self, deadline: Duration) -> Result<Granted, Failure> {
        match self.cached() {
            Some(granted) => Ok(granted),
            None => self.entry.token(deadline).await,
        }
    }

    /// An API answered 401 to this token: drops it, if it is still the cached one. Tells whether it was.
    pub fn reject(&self, token: &AccessToken) -> bool {
        self.entry.reject(token)
    }
}

/// Scheme, host and port; the whole text where there is no such thing.
fn origin(token_url: &str) -> String {
    Url::parse(token_url).map_or_else(|_| token_url.to_owned(), |url| url.origin().ascii_serialization())
}

/// Runs the scheduler, and starts it again, loudly, should it ever end while the cache lives.
fn supervise(runtime: &tokio::runtime::Handle, schedule: Arc<Schedule>, clock: Arc<dyn Clock>, alive: Weak<()>) {
    let inner = runtime.clone();
    runtime.spawn(async move {
        while alive.strong_count() > 0 {
            let run = schedule::run(Arc::clone(&schedule), Arc::clone(&clock), Weak::clone(&alive));
            if let Err(error) = inner.spawn(run).await {
                if error.is_cancelled() {
                    return;
                }
                tracing::error!("the token scheduler panicked and is started again");
            }
        }
    });
}
