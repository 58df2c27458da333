//! The adapter of one resolver with the limits of its section around it. What waits here waits for this resolver alone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Persistence, Trace};
use tokio::sync::Semaphore;

use super::circuit::{Admission, Circuit, Ended};
use super::pace::Pace;
use crate::{BoxFuture, LimitsConfig, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

/// How much later than its deadline an adapter may be before its look-up is dropped.
const GRACE: Duration = Duration::from_millis(500);
/// A wait that is worth a line in the trace.
const WORTH_TELLING: Duration = Duration::from_millis(5);

pub(crate) struct Limited {
    name: String,
    adapter: Arc<dyn Resolver>,
    timeout: Option<Duration>,
    /// First come, first served.
    places: Option<Semaphore>,
    pace: Option<Mutex<Pace>>,
    circuit: Mutex<Circuit>,
    clock: Arc<dyn Clock>,
}

impl Limited {
    pub(crate) fn new(name: &str, adapter: Arc<dyn Resolver>, limits: &LimitsConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            name: name.to_owned(),
            adapter,
            timeout: limits.timeout_ms.map(Duration::from_millis),
            places: limits.max_concurrent.map(Semaphore::new),
            pace: limits.spacing().map(|spacing| Mutex::new(Pace::new(spacing, limits.burst))),
            circuit: Mutex::new(Circuit::new(limits.failures_to_open)),
            clock,
        }
    }

    async fn look_up(&self, lookup: &Lookup, deadline: Duration) -> Result<Resolution, Failure> {
        let begin = self.clock.boot();
        let limit = self.timeout.map_or(deadline, |timeout| deadline.min(timeout));
        let left = || limit.saturating_sub(self.clock.boot().saturating_since(begin));
        // Whoever would be refused does not queue first.
        if let Some((wait, failure)) = self.circuit().refusal(begin) {
            return Err(self.left_alone(wait, &failure));
        }
        let _place = match &self.places {
            Some(places) => {
                let place = tokio::time::timeout(limit, places.acquire()).await;
                // The semaphore is never closed.
                Some(place.ok().and_then(Result::ok).ok_or_else(|| self.busy(limit))?)
            }
            None => None,
        };
        if let Some(pace) = &self.pace {
            let turn = lock(pace).turn(self.clock.boot(), left());
            let wait = turn.ok_or_else(|| self.busy(limit))?;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        let ready = self.clock.boot();
        if left().is_zero() {
            return Err(self.busy(limit));
        }
        let mut admitted = match self.circuit().admit(ready) {
            Admission::Refuse(wait, failure) => return Err(self.left_alone(wait, &failure)),
            admission => Admitted { limited: self, is_trial: admission == Admission::Trial, is_over: false },
        };
        let answer = tokio::time::timeout(left() + GRACE, self.adapter.resolve(lookup, left())).await;
        let answer = answer.map_or_else(|_| Err(self.overdue(limit)), |answer| answer.map_err(|error| *error.0));
        admitted.ended(&lookup.credential_id, &answer);
        let mut resolution = answer?;
        let waited = ready.saturating_since(begin);
        if waited > WORTH_TELLING {
            let mut trace = Trace::default();
            trace.push(Hop::Resolver, "waited for a turn", waited);
            trace.0.append(&mut resolution.trace.0);
            resolution.trace = trace;
        }
        Ok(resolution)
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        lock(&self.circuit)
    }

    fn left_alone(&self, wait: Duration, failure: &Failure) -> Failure {
        Failure::transient(
            Hop::Resolver,
            "resolver_circuit_open",
            format!(
                "look-ups of resolver {} failed one after the other, at last with {}; it is left alone for {} s more",
                self.name,
                failure.code,
                wait.as_secs_f64().ceil()
            ),
            format!("It is tried again by itself. {}", failure.action),
        )
    }

    fn busy(&self, limit: Duration) -> Failure {
        Failure::transient(
            Hop::Resolver,
            "resolver_busy",
            format!("resolver {} had no turn for this look-up within {} ms", self.name, limit.as_millis()),
            "Raise the resolver's max_concurrent, per_second or timeout_ms if this lasts.",
        )
    }

    fn overdue(&self, limit: Duration) -> Failure {
        Failure::transient(
            Hop::Resolver,
            "resolver_timeout",
            format!("resolver {} did not answer within {} ms", self.name, limit.as_millis()),
            "Check that the vault answers on this host; raise timeout_ms if it is only slow.",
        )
    }
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited").field("adapter", &self.adapter).finish_non_exhaustive()
    }
}

impl Resolver for Limited {
    fn kind(&self) -> &'static str {
        self.adapter.kind()
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(async move { self.look_up(lookup, deadline).await.map_err(|failure| ResolveError(Box::new(failure))) })
    }

    fn report(&self) -> ResolverReport {
        let report = self.adapter.report();
        let left_alone = self.circuit().refusal(self.clock.boot());
        match (report, left_alone) {
            // Without the time that is left: a report is told when it changes.
            (ResolverReport::Ready, Some((_, failure))) => {
                ResolverReport::Degraded(format!("look-ups failed one after the other, at last with {}", failure.code))
            }
            (report, _) => report,
        }
    }

    fn note(&self) -> Option<String> {
        self.adapter.note()
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        self.adapter.warm_up()
    }

    fn forget(&self) {
        self.adapter.forget();
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        self.adapter.shut_down()
    }
}

/// A look-up that the circuit let through. Dropped without an end, it gives a trial back.
struct Admitted<'a> {
    limited: &'a Limited,
    is_trial: bool,
    is_over: bool,
}

impl Admitted<'_> {
    fn ended(&mut self, credential_id: &str, answer: &Result<Resolution, Failure>) {
        self.is_over = true;
        let ended = ended(answer);
        let code = if let Ended::Failed(failure) = &ended { failure.code.clone() } else { String::new() };
        let limited = self.limited;
        let opened = limited.circuit().ended(limited.clock.boot(), credential_id, self.is_trial, ended);
        if opened {
            tracing::warn!(resolver = %limited.name, code, "look-ups failed one after the other: the vault is left alone for a while");
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.limited.circuit().given_up(self.is_trial);
        }
    }
}

/// What a look-up says of the vault's health.
fn ended(answer: &Result<Resolution, Failure>) -> Ended {
    match answer {
        Ok(_) => Ended::Answered,
        // Too many callers, or none wanted: that is not the vault's fault.
        Err(failure) if matches!(failure.code.as_str(), "resolver_busy" | "resolver_stopped") => Ended::Nothing,
        // One account's state, told by a vault that works.
        Err(failure) if failure.code == "vault_changing" => Ended::Answered,
        Err(failure) if failure.persistence == Persistence::Transient => Ended::Failed(failure.clone()),
        Err(failure) if failure.hop == Hop::Vault => Ended::Answered,
        Err(_) => Ended::Nothing,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
