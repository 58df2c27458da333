//! For the tests of what is wrapped around adapters: tokio's paused time as a clock, and a vault in memory behind the
//! smallest adapter there is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{
    BootTime, ClientMaterial, Clock, Failure, Hop, MaterialField, Persistence, Secret, Trace, WallTime,
};

use crate::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

pub(crate) struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    pub(crate) fn start() -> Arc<Self> {
        #[expect(clippy::disallowed_methods, reason = "the runtime's paused time, made the clock of the test")]
        let start = tokio::time::Instant::now();
        Arc::new(Self(start))
    }
}

impl Clock for VirtualClock {
    fn boot(&self) -> BootTime {
        BootTime::from_duration(Duration::from_hours(1) + self.0.elapsed())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix_millis(1_800_000_000_000) + self.0.elapsed()
    }
}

/// Holds secrets, takes its time, and has troubles to order.
#[derive(Debug, Default)]
pub(crate) struct MemoryVault {
    secrets: Mutex<HashMap<String, Secret>>,
    state: Mutex<Conduct>,
    asked: Mutex<Vec<Lookup>>,
    running: AtomicUsize,
    most: AtomicUsize,
    pub(crate) forgot: AtomicUsize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Conduct {
    pub(crate) takes: Duration,
    pub(crate) fails: Option<Failure>,
    pub(crate) changing: bool,
    /// Takes longer than its deadline allows.
    pub(crate) ignores_deadline: bool,
    pub(crate) reports: Option<ResolverReport>,
}

impl MemoryVault {
    pub(crate) fn new(conduct: Conduct) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(conduct), ..Self::default() })
    }

    pub(crate) fn put(&self, id: &str, secret: &str) {
        self.secrets.lock().expect("unpoisoned").insert(id.to_owned(), Secret::from(secret));
    }

    pub(crate) fn now(&self, change: impl FnOnce(&mut Conduct)) {
        change(&mut self.state.lock().expect("unpoisoned"));
    }

    pub(crate) fn asked(&self) -> Vec<Lookup> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    /// Most look-ups that ran at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    async fn look_up(&self, lookup: &Lookup, deadline: Duration) -> Result<Resolution, Failure> {
        self.asked.lock().expect("unpoisoned").push(lookup.clone());
        let conduct = self.state.lock().expect("unpoisoned").clone();
        let running = Running(&self.running);
        self.most.fetch_max(running.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let takes = if conduct.ignores_deadline { conduct.takes } else { conduct.takes.min(deadline) };
        tokio::time::sleep(takes).await;
        if takes < conduct.takes {
            return Err(Failure::transient(Hop::Vault, "vault_timeout", "too slow", "Wait."));
        }
        if let Some(failure) = conduct.fails {
            return Err(failure);
        }
        let secret = self.secrets.lock().expect("unpoisoned").get(&lookup.credential_id).cloned();
        let secret = secret.ok_or_else(|| Failure::permanent(Hop::Vault, "vault_not_found", "none", "Look."))?;
        let material = ClientMaterial::new()
            .with(MaterialField::ClientId, Secret::from(lookup.credential_id.as_str()))
            .with(MaterialField::ClientSecret, secret);
        let mut trace = Trace::default();
        trace.push(Hop::Vault, "answered", takes);
        Ok(Resolution { material, changing: conduct.changing, trace })
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Resolver for MemoryVault {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(async move { self.look_up(lookup, deadline).await.map_err(|failure| ResolveError(Box::new(failure))) })
    }

    fn report(&self) -> ResolverReport {
        self.state.lock().expect("unpoisoned").reports.clone().unwrap_or(ResolverReport::Ready)
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn forget(&self) {
        self.forgot.fetch_add(1, Ordering::SeqCst);
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

pub(crate) fn lookup(id: &str) -> Lookup {
    Lookup { credential_id: id.to_owned(), address: None, fresh: false }
}

pub(crate) fn fresh(id: &str) -> Lookup {
    Lookup { fresh: true, ..lookup(id) }
}

/// The client secret, or the failure.
pub(crate) async fn ask(resolver: &dyn Resolver, lookup: &Lookup) -> Result<String, Failure> {
    ask_within(resolver, lookup, Duration::from_secs(30)).await
}

pub(crate) async fn ask_within(
    resolver: &dyn Resolver,
    lookup: &Lookup,
    deadline: Duration,
) -> Result<String, Failure> {
    let resolution = resolver.resolve(lookup, deadline).await.map_err(|error| *error.0)?;
    let secret = resolution.material.field(MaterialField::ClientSecret).and_then(Secret::expose_str);
    Ok(secret.unwrap_or_default().to_owned())
}

pub(crate) fn failure(persistence: Persistence, code: &str) -> Failure {
    match persistence {
        Persistence::Transient => Failure::transient(Hop::Vault, code, "it failed", "Wait."),
        Persistence::Permanent => Failure::permanent(Hop::Vault, code, "it failed", "Look."),
    }
}
