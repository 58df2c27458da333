//! The MID's own way into a vault: one token for all look-ups, asked for once for all who wait, renewed before it ends.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use midward_core::{
    Backoff, BootTime, ClientMaterial, Clock, Failure, Fingerprint, FingerprintKey, Hop, Persistence, Random, Secret,
};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::{BoxFuture, ResolverContext, ResolverReport};

/// Timers do not count the time that a machine was suspended, so none is longer.
const SLICE: Duration = Duration::from_secs(30);
/// However short a token lives, it is not renewed more often.
const MIN_WAIT: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How one kind of vault lets the MID in.
pub(crate) trait Door: Send + Sync + 'static {
    /// What the MID proves itself with, read anew.
    fn proof(&self) -> Result<ClientMaterial, Failure>;

    fn sign_in(&self, proof: ClientMaterial) -> BoxFuture<'_, Result<Grant, Failure>>;

    /// Makes a token live longer. `None`: it cannot, sign in anew.
    fn renew<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<Option<Grant>, Failure>>;
}

/// A token, as the vault gave it.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) token: Secret,
    /// From when it was asked for; `None`: it does not end.
    pub(crate) life: Option<Duration>,
    pub(crate) upkeep: Upkeep,
}

/// What is done about a token's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upkeep {
    /// It is renewed in the background, so that also an idle MID stays signed in.
    Renew,
    /// The first look-up after 85 % of its life, at the latest, signs in anew.
    AsNeeded,
}

/// A token in use.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) token: Secret,
    stale_at: Option<BootTime>,
}

/// Cheap to share; its background task ends with it.
pub(crate) struct Session<D> {
    pub(crate) door: D,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    key: FingerprintKey,
    state: Mutex<State>,
    /// The keeper's next time has changed.
    changed: Arc<Notify>,
}

type Outcome = Result<Arc<Pass>, Failure>;
type SignIn = Shared<BoxFuture<'static, Outcome>>;

struct State {
    pass: Option<Arc<Pass>>,
    /// The sign-in that runs; it ends when nobody waits for it any more.
    running: Option<WeakShared<BoxFuture<'static, Outcome>>>,
    /// Why the last attempt failed, and what was shown then.
    failure: Option<(Failure, Option<Fingerprint>)>,
    backoff: Backoff,
    /// When the keeper has something to do.
    due: Option<BootTime>,
    keeper: Option<AbortHandle>,
}

impl<D: Door> Session<D> {
    pub(crate) fn new(door: D, context: &ResolverContext) -> Arc<Self> {
        let state = State {
            pass: None,
            running: None,
            failure: None,
            backoff: Backoff::new(FIRST_WAIT, MAX_WAIT),
            due: None,
            keeper: None,
        };
        Arc::new(Self {
            door,
            clock: Arc::clone(&context.clock),
            random: Arc::clone(&context.random),
            key: FingerprintKey::generate(&*context.random),
            state: Mutex::new(state),
            changed: Arc::default(),
        })
    }

    /// The pass in force, or a new one.
    pub(crate) async fn pass(self: &Arc<Self>) -> Outcome {
        self.join(None).await
    }

    /// Another one than `refused`: one sign-in for all that were refused the same.
    pub(crate) async fn instead_of(self: &Arc<Self>, refused: &Arc<Pass>) -> Outcome {
        self.join(Some(refused)).await
    }

    /// Whether look-ups can be served, as far as the token goes.
    pub(crate) fn report(&self) -> ResolverReport {
        let state = self.state();
        match &state.failure {
            Some((failure, _)) if !state.is_usable(self.clock.boot()) => ResolverReport::Degraded(failure.to_string()),
            _ => ResolverReport::Ready,
        }
    }

    /// Ends the background task and forgets the token, which is handed back.
    pub(crate) fn close(&self) -> Option<Arc<Pass>> {
        let mut state = self.state();
        if let Some(keeper) = state.keeper.take() {
            keeper.abort();
        }
        state.pass.take()
    }

    /// The pass in force, or a sign-in to wait for.
    fn join(self: &Arc<Self>, refused: Option<&Arc<Pass>>) -> SignIn {
        let mut state = self.state();
        let now = self.clock.boot();
        if let Some(pass) = &state.pass
            && state.is_usable(now)
            && !refused.is_some_and(|refused| Arc::ptr_eq(refused, pass))
        {
            return std::future::ready(Ok(Arc::clone(pass))).boxed().shared();
        }
        if state.keeper.is_none() {
            let keeper = keep(Arc::downgrade(self), Arc::clone(&self.changed));
            state.keeper = Some(tokio::spawn(keeper).abort_handle());
        }
        if let Some(running) = state.running.as_ref().and_then(WeakShared::upgrade) {
            return running;
        }
        let attempt = Arc::clone(self).sign_in().boxed().shared();
        state.running = attempt.downgrade();
        attempt
    }

    async fn sign_in(self: Arc<Self>) -> Outcome {
        let began = self.clock.boot();
        let proof = self.door.proof();
        let shown = proof.as_ref().ok().map(|proof| proof.fingerprint(&self.key));
        if let Some(failure) = self.still_refused(shown) {
            self.state().running = None;
            return Err(failure);
        }
        let mut attempt = Attempt { session: &self, shown, is_over: false };
        let outcome = match proof {
            Ok(proof) => self.door.sign_in(proof).await,
            Err(failure) => Err(failure),
        };
        attempt.is_over = true;
        drop(attempt);
        let mut state = self.state();
        state.running = None;
        match outcome {
            Ok(grant) => Ok(self.accept(&mut state, began, grant)),
            Err(failure) => {
                state.failure = Some((failure.clone(), shown));
                self.postpone(&mut state);
                Err(failure)
            }
        }
    }

    /// What was refused is not shown again at once: a vault may lock out who insists.
    fn still_refused(&self, shown: Option<Fingerprint>) -> Option<Failure> {
        let state = self.state();
        let (failure, before) = state.failure.as_ref()?;
        let again = shown.is_some() && *before == shown && failure.persistence == Persistence::Permanent;
        (again && state.due.is_some_and(|due| self.clock.boot() < due)).then(|| failure.clone())
    }

    fn accept(&self, state: &mut State, began: BootTime, grant: Grant) -> Arc<Pass> {
        let part = |of: f64, spread: f64| grant.life.map(|life| life.mul_f64(of + spread * self.random.next_unit()));
        let (stale_at, due) = match grant.upkeep {
            Upkeep::Renew => (grant.life, part(0.6, 0.15).map(|wait| wait.max(MIN_WAIT))),
            Upkeep::AsNeeded => (part(0.75, 0.1), None),
        };
        let pass = Arc::new(Pass { token: grant.token, stale_at: stale_at.map(|life| began + life) });
        state.pass = Some(Arc::clone(&pass));
        state.failure = None;
        state.backoff.reset();
        state.due = due.map(|wait| began + wait);
        self.changed.notify_one();
        pass
    }

    fn postpone(&self, state: &mut State) {
        state.due = Some(self.clock.boot() + state.backoff.next_wait(&*self.random));
        self.changed.notify_one();
    }

    /// Renews the token, or signs in anew.
    async fn refresh(self: &Arc<Self>) {
        let began = self.clock.boot();
        let pass = self.state().pass.clone();
        let Some(pass) = pass else {
            // How it went is in the state.
            drop(self.join(None).await);
            return;
        };
        if pass.stale_at.is_none_or(|stale| began < stale) {
            let renewed = self.door.renew(&pass.token).await;
            let mut state = self.state();
            // A look-up may have been faster, because the token was refused.
            if !state.pass.as_ref().is_some_and(|now| Arc::ptr_eq(now, &pass)) {
                return;
            }
            match renewed {
                Ok(Some(grant)) => {
                    self.accept(&mut state, began, grant);
                    return;
                }
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!("the MID's token for the vault was not renewed: {failure}");
                    state.failure = Some((failure, None));
                    self.postpone(&mut state);
                    return;
                }
            }
        }
        drop(self.join(Some(&pass)).await);
    }

    fn wait(&self) -> Duration {
        let due = self.state().due;
        due.map_or(SLICE, |due| due.saturating_since(self.clock.boot()).min(SLICE))
    }
}

impl<D> Session<D> {
    /// Never held across IO.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sign-in under way. Dropped without an end, because all who waited gave up, it tells that too.
struct Attempt<'a, D> {
    session: &'a Session<D>,
    shown: Option<Fingerprint>,
    is_over: bool,
}

impl<D> Drop for Attempt<'_, D> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let failure = Failure::transient(
            Hop::Vault,
            "vault_timeout",
            "the vault did not let the MID in before those who waited gave up",
            "Check that the vault answers on this host; raise timeout_ms if it is only slow.",
        );
        let mut state = self.session.state();
        state.failure = Some((failure, self.shown));
        state.due = Some(self.session.clock.boot() + state.backoff.next_wait(&*self.session.random));
        drop(state);
        self.session.changed.notify_one();
    }
}

impl State {
    fn is_usable(&self, now: BootTime) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.stale_at.is_none_or(|stale| now < stale))
    }
}

impl<D> Drop for Session<D> {
    fn drop(&mut self) {
        if let Some(keeper) = self.state().keeper.take() {
            keeper.abort();
        }
    }
}

impl<D> fmt::Debug for Session<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Does what is due, for as long as anybody uses the session.
async fn keep<D: Door>(session: Weak<Session<D>>, changed: Arc<Notify>) {
    while let Some(wait) = session.upgrade().map(|session| session.wait()) {
        if wait.is_zero() {
            let Some(session) = session.upgrade() else { return };
            session.refresh().await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed.notified() => {}
            }
        }
    }
}
