//! What one authorization server is asked for at a time, however many profiles are due together: so many requests
//! side by side, at most so many a second, in turn for each credential, and fewer still when it says that it is too
//! much.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use midward_core::{BootTime, Clock};
use tokio::sync::oneshot;

use crate::key::ClientKey;
use crate::sync::{self, Mutex, MutexGuard, Spawner};

/// Timers of the runtime do not count the time that the machine is suspended, so no sleep is longer than this.
const SLICE: Duration = Duration::from_secs(30);

/// The budget of one authorization server: the origin of a token URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRules {
    /// Most token requests that run at once; at least 1.
    pub concurrent: usize,
    /// What one token request costs: in the long run they start no closer together than this. Zero for no limit.
    pub spacing: Duration,
    /// How many requests may start at once after a time of rest, in spite of `spacing`; at least 1.
    pub burst: u32,
    /// While the server wants to be left alone: shortest time between two requests for callers who wait, of clients
    /// that it has not named.
    pub trial_every: Duration,
}

impl Default for BudgetRules {
    /// Fifty a second is what servers with a limit of their own allow a client at least; a hundred at once are the
    /// profiles of a MID Server that was just started.
    fn default() -> Self {
        Self { concurrent: 8, spacing: Duration::from_millis(20), burst: 100, trial_every: Duration::from_secs(1) }
    }
}

/// What one authorization server is asked for right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Origin of the token URL.
    pub server: String,
    /// Token requests that run.
    pub running: usize,
    /// Requests that wait for a turn, for callers who wait.
    pub waiting: usize,
    /// Refreshes that wait for a turn.
    pub refreshes_waiting: usize,
    /// Credentials that those belong to: they take turns.
    pub clients_waiting: usize,
    /// For how long the server still wants to be left alone.
    pub rests_for: Duration,
}

/// The server wants this client to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited(pub(crate) Duration);

pub(crate) struct ServerBudget {
    /// Origin of the token URL.
    pub(crate) server: String,
    rules: BudgetRules,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    running: usize,
    /// Callers wait for these.
    urgent: Ring,
    /// Refreshes of tokens that are still good.
    background: Ring,
    /// With `spacing`: when everything that was started is paid for. A start may run ahead of it by the burst.
    paid_until: BootTime,
    paused_until: BootTime,
    next_trial: BootTime,
    limited: HashMap<Arc<ClientKey>, BootTime>,
    timer_at: Option<BootTime>,
}

/// A queue for each client, and whose turn it is.
#[derive(Default)]
struct Ring {
    order: VecDeque<Arc<ClientKey>>,
    waiting: HashMap<Arc<ClientKey>, VecDeque<oneshot::Sender<()>>>,
}

impl Ring {
    fn push(&mut self, client: &Arc<ClientKey>, start: oneshot::Sender<()>) {
        let queue = self.waiting.entry(Arc::clone(client)).or_default();
        if queue.is_empty() {
            self.order.push_back(Arc::clone(client));
        }
        queue.push_back(start);
    }

    /// Lets the next one start whose client `may`: one of each client in turn. False when there is none.
    fn start_next(&mut self, may: impl Fn(&Arc<ClientKey>) -> bool) -> bool {
        for _ in 0..self.order.len() {
            let Some(client) = self.order.pop_front() else { return false };
            if !may(&client) {
                self.order.push_back(client);
                continue;
            }
            let Some(queue) = self.waiting.get_mut(&client) else { continue };
            let mut started = false;
            // Whoever has left does not take a turn.
            while let Some(start) = queue.pop_front() {
                if start.send(()).is_ok() {
                    started = true;
                    break;
                }
            }
            if queue.is_empty() {
                self.waiting.remove(&client);
            } else {
                self.order.push_back(client);
            }
            if started {
                return true;
            }
        }
        false
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Those who have left are still among them until their turn comes.
    fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// How many other credentials have a turn before this one; `None` when it does not wait.
    fn before(&self, client: &Arc<ClientKey>) -> Option<usize> {
        self.order.iter().position(|waiting| waiting == client)
    }
}

impl ServerBudget {
    pub(crate) fn new(server: String, rules: BudgetRules, clock: Arc<dyn Clock>, spawner: Spawner) -> Arc<Self> {
        Arc::new(Self { server, rules, clock, spawner, queue: Mutex::default() })
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn status(&self) -> ServerStatus {
        let queue = self.lock();
        let clients: HashSet<_> = queue.urgent.order.iter().chain(&queue.background.order).collect();
        ServerStatus {
            server: self.server.clone(),
            running: queue.running,
            waiting: queue.urgent.len(),
            refreshes_waiting: queue.background.len(),
            clients_waiting: clients.len(),
            rests_for: queue.paused_until.saturating_since(self.clock.boot()),
        }
    }

    /// How many other credentials have a turn before this one; `None` when it does not wait.
    pub(crate) fn before(&self, client: &Arc<ClientKey>) -> Option<usize> {
        let queue = self.lock();
        let clients = queue.urgent.order.len();
        queue.urgent.before(client).or_else(|| queue.background.before(client).map(|before| clients + before))
    }

    /// Waits for a turn. `urgent`: a caller waits.
    pub(crate) async fn admit(self: &Arc<Self>, client: &Arc<ClientKey>, urgent: bool) -> Result<Permit, Limited> {
        let started = {
            let mut queue = self.lock();
            let now = self.clock.boot();
            if let Some(&until) = queue.limited.get(client)
                && until > now
            {
                return Err(Limited(until.saturating_since(now)));
            }
            let (start, started) = oneshot::channel();
            let ring = if urgent { &mut queue.urgent } else { &mut queue.background };
            ring.push(client, start);
            Place { budget: Arc::clone(self), started: Some(started) }
        };
        self.dispatch();
        started.turn().await
    }

    /// The server told this client to wait.
    fn pause(&self, client: &Arc<ClientKey>, wait: Duration) {
        let mut queue = self.lock();
        let now = self.clock.boot();
        let until = now + wait;
        queue.limited.retain(|_, until| *until > now);
        queue.limited.insert(Arc::clone(client), until);
        queue.paused_until = queue.paused_until.max(until);
        queue.next_trial = queue.next_trial.max(now + self.rules.trial_every);
    }

    fn dispatch(self: &Arc<Self>) {
        let mut queue = self.lock();
        let now = self.clock.boot();
        let Queue { running, urgent, background, paid_until, paused_until, next_trial, limited, timer_at } =
            &mut *queue;
        let mut again = None;
        let ahead = self.rules.spacing * (self.rules.burst.max(1) - 1);
        while *running < self.rules.concurrent.max(1) && !(urgent.is_empty() && background.is_empty()) {
            if now + ahead < *paid_until {
                again = Some(paid_until.saturating_sub(ahead));
                break;
            }
            let started = if now < *paused_until {
                let may = |client: &Arc<ClientKey>| limited.get(client).is_none_or(|until| *until <= now);
                if now < *next_trial || !urgent.start_next(may) {
                    again = Some(if urgent.is_empty() { *paused_until } else { (*next_trial).max(now + SLICE / 30) });
                    again = again.map(|at| at.min(*paused_until));
                    break;
                }
                *next_trial = now + self.rules.trial_every;
                true
            } else {
                urgent.start_next(|_| true) || background.start_next(|_| true)
            };
            if !started {
                break;
            }
            *running += 1;
            *paid_until = now.max(*paid_until) + self.rules.spacing;
        }
        let Some(at) = again.filter(|&at| timer_at.is_none_or(|timer| at < timer)) else { return };
        *timer_at = Some(at);
        drop(queue);
        let budget = Arc::downgrade(self);
        let wait = at.saturating_since(now).min(SLICE);
        self.spawner.spawn(async move {
            sync::sleep(wait).await;
            let Some(budget) = budget.upgrade() else { return };
            {
                let mut queue = budget.lock();
                if queue.timer_at == Some(at) {
                    queue.timer_at = None;
                }
            }
            budget.dispatch();
        });
    }

    fn finished(self: &Arc<Self>) {
        {
            let mut queue = self.lock();
            queue.running = queue.running.saturating_sub(1);
        }
        self.dispatch();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. Given up when dropped, together with a turn that came meanwhile.
struct Place {
    budget: Arc<ServerBudget>,
    started: Option<oneshot::Receiver<()>>,
}

impl Place {
    async fn turn(mut self) -> Result<Permit, Limited> {
        if let Some(started) = &mut self.started
            && started.await.is_err()
        {
            // The sender is dropped with the queue only, which this place keeps alive.
            self.started = None;
            return Err(Limited(Duration::from_secs(1)));
        }
        self.started = None;
        Ok(Permit { budget: Arc::clone(&self.budget) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut started) = self.started.take() else { return };
        started.close();
        if started.try_recv().is_ok() {
            self.budget.finished();
        }
    }
}

/// The right to one token request, until it is dropped.
pub(crate) struct Permit {
    budget: Arc<ServerBudget>,
}

impl Permit {
    pub(crate) fn limited(&self, client: &Arc<ClientKey>, wait: Duration) {
        self.budget.pause(client, wait);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.finished();
    }
}
