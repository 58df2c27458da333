//! When a fetch may send the secret: in turn at its authorization server, and not beside another fetch that tries the
//! same secret for the first time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use midward_core::{BootTime, Fingerprint, Retry};
use tokio::sync::OwnedMutexGuard;

use crate::budget::{Limited, Permit, ServerBudget};
use crate::failures;
use crate::fetch::{FetchFailure, Progress, SharedCircuit};
use crate::key::ClientKey;

/// When and how a try of an unproven secret failed last.
type LastTry = Option<Box<(BootTime, FetchFailure)>>;

/// What all profiles of one credential at one server share.
pub(crate) struct Client {
    pub(crate) key: Arc<ClientKey>,
    pub(crate) circuit: Arc<SharedCircuit>,
    budget: Arc<ServerBudget>,
    trust: Mutex<Trust>,
}

#[derive(Default)]
struct Trust {
    /// The secret that the server took last.
    proven: Option<Fingerprint>,
    /// There while somebody tries a secret that is not proven, or waits to.
    proving: Option<Proving>,
}

/// Whoever tries a secret that is not proven holds this; inside, how the last one failed without telling anything about
/// the secret. It is waited for by fetches of this credential alone.
type Proving = Arc<tokio::sync::Mutex<LastTry>>;

impl Client {
    pub(crate) fn new(key: Arc<ClientKey>, budget: Arc<ServerBudget>) -> Self {
        Self { key, circuit: Arc::default(), budget, trust: Mutex::default() }
    }

    fn now(&self) -> BootTime {
        self.budget.clock().boot()
    }

    /// Origin of the token URL.
    pub(crate) fn server(&self) -> &str {
        &self.budget.server
    }

    /// How many other credentials have a turn at the server before this one; `None` when it does not wait.
    pub(crate) fn turns_before(&self) -> Option<usize> {
        self.budget.before(&self.key)
    }

    fn is_proven(&self, print: Fingerprint) -> bool {
        self.trust().proven == Some(print)
    }

    fn proving(&self) -> Proving {
        Arc::clone(self.trust().proving.get_or_insert_default())
    }

    /// Most clients are proven for most of their life, and need no lock for it then. One that somebody holds or waits
    /// for stays: nobody gets it but by [`Self::proving`], which this excludes.
    fn forget_proving(&self) {
        self.trust().proving.take_if(|proving| Arc::strong_count(proving) == 1);
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds.
#[derive(Debug, Default)]
struct Queued {
    sum: AtomicU64,
    /// Since when it waits now, by the boot clock; zero when it does not.
    since: AtomicU64,
}

/// A fetch's way to its turns. The default has no limit.
#[derive(Clone, Default)]
pub struct Turns {
    client: Option<Arc<Client>>,
    progress: Arc<Progress>,
    queued: Arc<Queued>,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl Turns {
    pub(crate) fn new(client: Arc<Client>, progress: Arc<Progress>) -> Self {
        Self { client: Some(client), progress, queued: Arc::default() }
    }

    /// Time spent in queues since this was last asked; it does not count against the fetch's limit.
    pub(crate) fn take_queued(&self) -> Duration {
        self.leave_queue(true);
        Duration::from_nanos(self.queued.sum.swap(0, Ordering::Relaxed))
    }

    fn leave_queue(&self, and_enter_again: bool) {
        let Some(client) = &self.client else { return };
        let now = client.now().as_nanos();
        let since = self.queued.since.load(Ordering::Relaxed);
        if since > 0 {
            self.queued.sum.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
            self.queued.since.store(if and_enter_again { now } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Waits until the secret with this fingerprint may be sent. Look at the circuit again afterwards: it may have
    /// opened meanwhile. `after`: the refusal that this is the answer to.
    pub(crate) async fn next(&self, print: Fingerprint, after: Option<Refused>) -> Result<Turn, FetchFailure> {
        let Some(client) = &self.client else { return Ok(Turn::default()) };
        let began = client.now();
        self.queued.since.store(began.as_nanos(), Ordering::Relaxed);
        let turn = self.wait(client, print, began, after).await;
        self.leave_queue(false);
        turn
    }

    async fn wait(
        &self,
        client: &Arc<Client>,
        print: Fingerprint,
        began: BootTime,
        after: Option<Refused>,
    ) -> Result<Turn, FetchFailure> {
        let mut proving = after.and_then(|refused| refused.proving);
        loop {
            if proving.is_none() && !client.is_proven(print) {
                let guard = client.proving().lock_owned().await;
                let is_proven = client.is_proven(print);
                if let Some((at, failure)) = guard.as_deref()
                    && *at >= began
                    && !is_proven
                {
                    // It failed while this one waited: shared, not tried by each in turn.
                    return Err(failure.clone());
                }
                proving = (!is_proven).then_some(guard);
            }
            let urgent = self.progress.is_urgent();
            let admitted = tokio::select! {
                biased;
                admitted = client.budget.admit(&client.key, urgent) => admitted,
                // Somebody waits now: to the other queue.
                () = self.progress.urgent(), if !urgent => continue,
            };
            let permit = match admitted {
                Ok(permit) => permit,
                Err(Limited(wait)) => {
                    let failure = Arc::new(failures::server_is_paused());
                    return Err(FetchFailure { failure, retry: Retry::After(wait) });
                }
            };
            // It may have been refused to another profile meanwhile.
            if proving.is_some() || client.is_proven(print) {
                let client = Some(Arc::clone(client));
                return Ok(Turn { print: Some(print), client, permit: Some(permit), proving });
            }
        }
    }
}

/// A turn to send one secret. Say how it ended.
#[derive(Default)]
pub(crate) struct Turn {
    print: Option<Fingerprint>,
    client: Option<Arc<Client>>,
    permit: Option<Permit>,
    proving: Option<OwnedMutexGuard<LastTry>>,
}

impl Turn {
    /// The server took the secret.
    pub(crate) fn proved(self) {
        let Self { print, client, permit: _permit, proving } = self;
        let Some(client) = client else { return };
        client.trust().proven = print;
        // Only now: whoever waited for it finds the secret proven.
        drop(proving);
        client.forget_proving();
    }

    /// The server refused the secret. Until what is returned is dropped, nobody else tries a secret that is not
    /// proven: time to open the circuit.
    pub(crate) fn refused(self) -> Refused {
        let Self { print, client, permit: _, proving } = self;
        let proving = proving.or_else(|| {
            let client = client?;
            if client.is_proven(print?) {
                client.trust().proven = None;
            }
            client.proving().try_lock_owned().ok()
        });
        Refused { proving }
    }

    /// It ended without telling whether the secret is right.
    pub(crate) fn failed(mut self, failure: &FetchFailure) {
        let Some(client) = &self.client else { return };
        if let (Retry::After(wait), Some(permit)) = (failure.retry, &self.permit) {
            permit.limited(&client.key, wait);
        }
        if let Some(last) = &mut self.proving
            && failures::is_transient(&failure.failure)
        {
            **last = Some(Box::new((client.now(), failure.clone())));
        }
    }
}

/// Keeps others from sending the secret that was just refused until the circuit knows of it.
#[derive(Default)]
pub(crate) struct Refused {
    proving: Option<OwnedMutexGuard<LastTry>>,
}
