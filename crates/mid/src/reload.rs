//! The policy and the resolvers read anew while calls run: both, or nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use midward_core::Failure;
use midward_resolvers::{Resolver, ResolverContext, ResolverSet, SetChanges};

use crate::config::MidConfig;
use crate::engine::Engine;
use crate::heartbeat::Resolvers;
use crate::jar_fetch::{Wanted, wanted};
use crate::policy::PolicyStore;
use crate::service::load_policy;

/// Reads the configuration as the start did, flags included.
pub(crate) type Load = Box<dyn Fn() -> Result<MidConfig, Failure> + Send + Sync>;

/// Reads the policy and `[resolvers]` anew. The other sections of `mid.toml` count from the next start on.
pub struct Reload {
    pub(crate) load: Load,
    pub(crate) policy_file: PathBuf,
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) engine: Arc<Engine>,
    /// What the resolvers in use were made from.
    pub(crate) set: Mutex<ResolverSet>,
    pub(crate) context: ResolverContext,
    pub(crate) resolvers: Resolvers,
    pub(crate) wanted: Arc<ArcSwap<Vec<Wanted>>>,
}

impl Reload {
    /// Takes over what the files say now, and tells which resolvers that changed. What cannot be read changes nothing.
    /// Inside a runtime.
    pub fn reload(&self) -> Result<SetChanges, Failure> {
        let outcome = self.take_over();
        match &outcome {
            Ok(changes) => tracing::info!(
                policy = %self.policy_file.display(),
                added = ?changes.added,
                changed = ?changes.changed,
                removed = ?changes.removed,
                unchanged = changes.unchanged.len(),
                "policy and resolvers read again"
            ),
            Err(failure) => tracing::error!(%failure, "policy and resolvers stay as they were"),
        }
        outcome
    }

    fn take_over(&self) -> Result<SetChanges, Failure> {
        // Held to the end: two that come together are one after the other.
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let config = (self.load)()?;
        let policy = load_policy(&self.policy_file)?;
        let (new, changes) = set.renewed(&config.resolvers, &self.context)?;
        let resolvers = new.resolvers();
        // All is legal: from here on nothing fails.
        *set = new;
        self.wanted.store(Arc::new(wanted(&config)));
        let is_new = |name: &&String| changes.added.contains(name) || changes.changed.contains(name);
        warm_up(resolvers.iter().filter(|(name, _)| is_new(name)));
        // Whoever looks one up has the old one or the new one. An old one ends with the last call that runs on it.
        self.resolvers.store(Arc::new(resolvers));
        self.policy.replace(policy);
        self.engine.policy_changed();
        Ok(changes)
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// In the background: the first lease does not wait for a JVM.
pub(crate) fn warm_up<'a>(resolvers: impl Iterator<Item = (&'a String, &'a Arc<dyn Resolver>)>) {
    for (name, resolver) in resolvers {
        let (name, resolver) = (name.clone(), Arc::clone(resolver));
        tokio::spawn(async move {
            resolver.warm_up().await;
            tracing::info!(resolver = name, report = ?resolver.report(), "warmed up");
        });
    }
}

/// The set in use, by name.
pub(crate) fn shared(set: &ResolverSet) -> Resolvers {
    let resolvers: BTreeMap<String, Arc<dyn Resolver>> = set.resolvers();
    Arc::new(ArcSwap::from_pointee(resolvers))
}
