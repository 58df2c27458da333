//! One cached token: the pure life cycle behind a short lock, a snapshot of it that is read without one, and the one
//! fetch that may run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use midward_core::{
    AccessToken, Arrival, BootTime, Clock, Demand, Failure, Minted, Random, Rejections, Tick, TokenLife, TokenRules,
    Trace, WallLead,
};
use tokio::sync::watch;

use crate::counters::Counters;
use crate::failures;
use crate::fetch::{FetchContext, FetchFailure, Fetched, FetchedToken, Progress, TokenFetcher};
use crate::granted::{Bound, Granted, Held, NEVER, Origin, Rejected};
use crate::hot::Hot;
use crate::key::TokenKey;
use crate::schedule::Schedule;
use crate::steps::Steps;
use crate::sync::{self, Mutex, MutexGuard, Spawner};
use crate::turn::{Client, Turns};

/// What all entries of a cache share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) rules: TokenRules,
    /// Longest time for a whole fetch, vault included.
    pub(crate) fetch_limit: Duration,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) spawner: Spawner,
    pub(crate) counters: Counters,
}

type FlightResult = Result<Arc<Held>, Arc<Failure>>;

/// Small, so that many lie side by side: a warm lookup reads its first 32 bytes and nothing else that is its own.
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) hot: Hot,
    pub(crate) shared: Arc<Shared>,
    /// Of every entry that is not blank.
    cold: Option<Box<Cold>>,
}

struct Cold {
    key: TokenKey,
    client: Arc<Client>,
    state: Mutex<State>,
}

struct State {
    life: TokenLife<Arc<Held>>,
    flight: Option<Box<Flight>>,
    fetcher: Arc<dyn TokenFetcher>,
    /// [`NEVER`] when the scheduler has nothing to do for it.
    alarm_at: BootTime,
    /// Few have any.
    rejections: Option<Box<Rejections>>,
    /// Of the last fetch.
    last_steps: Steps,
    /// The fetch to start as soon as the lock is released.
    launch: Option<Box<Launch>>,
}

struct Launch {
    fetcher: Arc<dyn TokenFetcher>,
    context: FetchContext,
    landing: Landing,
}

#[derive(Clone)]
struct Flight {
    result: watch::Receiver<Option<FlightResult>>,
    publish: watch::Sender<Option<FlightResult>>,
    progress: Arc<Progress>,
}

/// What [`Entry::look`] reports.
pub(crate) struct Look {
    pub(crate) life: TokenLife<Arc<Held>>,
    pub(crate) last_steps: Steps,
    pub(crate) last_used: BootTime,
}

impl Entry {
    /// One without a key: see [`Entry::fill`]. Made many at a time, so that they lie side by side.
    pub(crate) fn blank(shared: Arc<Shared>) -> Self {
        Self { hot: Hot::default(), shared, cold: None }
    }

    /// Before anybody else has it.
    pub(crate) fn fill(&mut self, key: TokenKey, client: Arc<Client>, fetcher: Arc<dyn TokenFetcher>) {
        self.hot.used(self.shared.clock.boot());
        let state = State {
            life: TokenLife::new(),
            flight: None,
            fetcher,
            alarm_at: NEVER,
            rejections: None,
            last_steps: Steps::new(&Trace::default()),
            launch: None,
        };
        self.cold = Some(Box::new(Cold { key, client, state: Mutex::new(state) }));
    }

    fn cold(&self) -> &Cold {
        match &self.cold {
            Some(cold) => cold,
            None => unreachable!("blank entries are filled before anybody has them"),
        }
    }

    pub(crate) fn key(&self) -> &TokenKey {
        &self.cold().key
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.cold().client
    }

    /// The token if it is there and nothing is to be done about it.
    #[inline]
    pub(crate) fn cached(&self) -> Option<Granted> {
        self.hot.cached(&self.shared).map(Granted::from_cache)
    }

    pub(crate) fn replace_fetcher(&self, fetcher: Arc<dyn TokenFetcher>) {
        self.lock().fetcher = fetcher;
    }

    pub(crate) async fn token(self: &Arc<Self>, deadline: Duration) -> Result<Granted, Failure> {
        let (mut flight, origin) = {
            let mut state = self.lock();
            let now = self.shared.clock.boot();
            self.hot.used(now);
            let lead = WallLead::of(now, self.shared.clock.wall());
            let mut life = std::mem::take(&mut state.life);
            if !self.client().circuit.is_open() {
                life = life.unblocked(&self.shared.rules);
            }
            let (life, demand) = life.demand(now, lead, &self.shared.rules);
            state.life = life;
            let decided = match demand {
                Demand::Use(held) => Err(Ok(Granted::new(&held, Origin::Cached))),
                Demand::UseAndFetch(held) => {
                    self.start(&mut state);
                    Err(Ok(Granted::new(&held, Origin::Cached)))
                }
                Demand::Refuse(failure) => {
                    self.shared.counters.refusals.fetch_add(1, Ordering::Relaxed);
                    Err(Err(Failure::clone(&failure)))
                }
                Demand::Fetch => {
                    self.start(&mut state);
                    Ok(Origin::Fetched)
                }
                Demand::Join => Ok(Origin::Waited),
                Demand::JoinAt(at) => {
                    self.schedule_at(&mut state, at);
                    Ok(Origin::Waited)
                }
            };
            self.settle(&mut state);
            let decided = decided.map(|origin| (state.flight(), origin));
            self.release(state);
            match decided {
                Err(Ok(granted)) => {
                    self.shared.counters.hits.add();
                    return Ok(granted);
                }
                Err(Err(failure)) => return Err(failure),
                Ok(joined) => joined,
            }
        };
        self.shared.counters.waits.fetch_add(1, Ordering::Relaxed);
        let progress = Arc::clone(&flight.progress);
        progress.set_urgent();
        let arrived = sync::timeout(deadline, flight.result.wait_for(Option::is_some)).await;
        match arrived {
            Ok(Ok(result)) => match &*result {
                // The machine may have been suspended since it came.
                Some(Ok(held)) if self.shared.clock.boot() >= held.expires => Err(failures::too_late()),
                Some(Ok(held)) => Ok(Granted::new(held, origin)),
                Some(Err(failure)) => Err(Failure::clone(failure)),
                None => Err(failures::fetch_died()),
            },
            Ok(Err(_closed)) => Err(failures::fetch_died()),
            Err(_elapsed) => Err(failures::waited_too_long(progress.hop(), deadline)),
        }
    }

    /// An API refused this token.
    pub(crate) fn reject(&self, token: &AccessToken) -> Rejected {
        let mut state = self.lock();
        let now = self.shared.clock.boot();
        if state.life.held(now).is_none_or(|(held, _)| held.token != *token) {
            return Rejected::Replaced;
        }
        if !state.rejections.get_or_insert_default().gives_up(now, &self.shared.rules) {
            return Rejected::Kept;
        }
        state.life = std::mem::take(&mut state.life).rejected(&self.shared.rules);
        self.settle(&mut state);
        self.shared.counters.rejections.fetch_add(1, Ordering::Relaxed);
        Rejected::Dropped
    }

    /// Drops token and failure, and tells what was held and who fetched it.
    pub(crate) fn flush(&self) -> (Option<AccessToken>, Arc<dyn TokenFetcher>) {
        let mut state = self.lock();
        let held = state.life.held(self.shared.clock.boot()).map(|(held, _)| held.token.clone());
        state.life = std::mem::take(&mut state.life).flushed(self.shared.clock.boot());
        state.rejections = None;
        self.settle(&mut state);
        self.client().circuit.close();
        (held, Arc::clone(&state.fetcher))
    }

    /// The scheduler reached a time that this entry asked for.
    pub(crate) fn alarm(self: &Arc<Self>, at: BootTime, now: BootTime) {
        let mut state = self.lock();
        if state.alarm_at != at {
            return;
        }
        state.alarm_at = NEVER;
        self.tick(&mut state, now);
        self.release(state);
    }

    pub(crate) fn look(&self) -> Look {
        let state = self.lock();
        Look { life: state.life.clone(), last_steps: state.last_steps.clone(), last_used: self.hot.last_used() }
    }

    fn tick(self: &Arc<Self>, state: &mut State, now: BootTime) {
        let last_used = self.hot.last_used();
        let lead = WallLead::of(now, self.shared.clock.wall());
        let (life, tick) = std::mem::take(&mut state.life).tick(now, lead, last_used, &self.shared.rules);
        state.life = life;
        match tick {
            Tick::Fetch => self.start(state),
            Tick::WakeAt(at) => self.schedule_at(state, at),
            Tick::Idle => {}
        }
        self.settle(state);
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        let progress = state.flight().progress;
        self.shared.counters.fetches.fetch_add(1, Ordering::Relaxed);
        state.launch = Some(Box::new(Launch {
            fetcher: Arc::clone(&state.fetcher),
            context: FetchContext {
                circuit: Arc::clone(&self.client().circuit),
                turns: Turns::new(Arc::clone(self.client()), Arc::clone(&progress)),
                progress,
            },
            landing: Landing { entry: Arc::clone(self), landed: false },
        }));
    }

    /// Releases the lock, and then starts the fetch that was asked for, on a task of its own: a caller who leaves does
    /// not end it. Never under the lock: a runtime that shuts down drops the task at once, and that takes the lock.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let launch = state.launch.take();
        drop(state);
        let Some(launch) = launch else { return };
        let Launch { fetcher, context, mut landing } = *launch;
        let limit = self.shared.fetch_limit;
        self.shared.spawner.spawn(async move {
            let progress = Arc::clone(&context.progress);
            let turns = context.turns.clone();
            let mut fetch = fetcher.fetch(context);
            let mut allowed = limit;
            let fetched = loop {
                match sync::timeout(allowed, &mut fetch).await {
                    Ok(fetched) => break fetched,
                    Err(_elapsed) => {}
                }
                // To stand in a queue is not to be slow.
                allowed = turns.take_queued();
                if allowed.is_zero() {
                    break failed(failures::fetch_too_long(progress.hop(), limit));
                }
            };
            landing.land(fetched);
        });
    }

    fn land(self: &Arc<Self>, fetched: Fetched) {
        let mut state = self.lock();
        let now = self.shared.clock.boot();
        let rules = &self.shared.rules;
        let random = &*self.shared.random;
        let counters = &self.shared.counters;
        let steps = Steps::new(&fetched.trace);
        state.last_steps = steps.clone();
        let mut life = std::mem::take(&mut state.life);
        let mut failure = None;
        let mut result: Option<FlightResult> = None;
        match fetched.result {
            Ok(Minted { token, requested, lifetime, lead }) => {
                let FetchedToken { token, scopes, fingerprint, certificate, dpop } = token;
                let as_asked = scopes.iter().map(String::as_str).eq(self.key().scopes.iter().map(AsRef::as_ref));
                let scopes = (!as_asked).then(|| scopes.into_iter().map(String::into_boxed_str).collect());
                let held = Arc::new(Held {
                    token,
                    scopes,
                    fingerprint,
                    bound: (certificate.is_some() || dpop.is_some()).then(|| Box::new(Bound { certificate, dpop })),
                    steps,
                    expires: if lifetime.is_zero() { NEVER } else { requested + lifetime },
                    lead,
                });
                let minted = Minted { token: Arc::clone(&held), requested, lifetime, lead };
                life = match life.succeeded(now, minted, random, rules) {
                    Ok((next, Arrival::TooLate)) => {
                        failure = Some(FetchFailure::new(failures::too_late()));
                        next
                    }
                    Ok((next, Arrival::Kept | Arrival::ServedOnce)) => {
                        counters.mints.fetch_add(1, Ordering::Relaxed);
                        result = Some(Ok(held));
                        next
                    }
                    Err(invalid) => not_fetching(invalid),
                };
            }
            Err(failed) => failure = Some(failed),
        }
        if let Some(FetchFailure { failure, retry }) = failure {
            counters.failed(&failure.code);
            tracing::warn!(
                credential_id = &*self.key().client.credential_id,
                token_url = &*self.key().client.token_url,
                code = failure.code,
                hop = failure.hop.name(),
                transient = failures::is_transient(&failure),
                "no token"
            );
            result = Some(Err(Arc::clone(&failure)));
            life = life.failed(now, failure, retry, random, rules).unwrap_or_else(not_fetching);
        }
        state.life = life;
        let flight = state.flight.take();
        self.tick(&mut state, now);
        self.release(state);
        if let (Some(flight), Some(result)) = (flight, result) {
            flight.publish.send_replace(Some(result));
        }
    }

    /// Publishes what callers may use without the lock.
    fn settle(&self, state: &mut State) {
        let now = self.shared.clock.boot();
        let quiet = state.life.quiet_until().and_then(|until| {
            let (held, _) = state.life.held(now)?;
            Some((Arc::clone(held), until))
        });
        self.hot.publish(quiet);
    }

    fn schedule_at(self: &Arc<Self>, state: &mut State, at: BootTime) {
        if state.alarm_at != at {
            state.alarm_at = at;
            self.shared.schedule.wake(self, at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.cold().state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The flight that waiters join; made by the first of them when the fetch begins later.
    fn flight(&mut self) -> Flight {
        self.flight
            .get_or_insert_with(|| {
                let (publish, result) = watch::channel(None);
                Box::new(Flight { result, publish, progress: Arc::new(Progress::default()) })
            })
            .as_ref()
            .clone()
    }
}

/// Ends the flight whatever becomes of its task: a panic or a runtime that shuts down must not leave anybody waiting.
struct Landing {
    entry: Arc<Entry>,
    landed: bool,
}

impl Landing {
    fn land(&mut self, fetched: Fetched) {
        self.landed = true;
        self.entry.land(fetched);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.entry.land(failed(failures::fetch_died()));
        }
    }
}

fn failed(failure: Failure) -> Fetched {
    Fetched { result: Err(FetchFailure::new(failure)), trace: Trace::default() }
}

fn not_fetching(invalid: midward_core::InvalidTransition<Arc<Held>>) -> TokenLife<Arc<Held>> {
    tracing::error!(state = invalid.0.name(), "a token fetch ended that was not begun");
    *invalid.0
}
