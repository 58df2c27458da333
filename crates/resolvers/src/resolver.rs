//! The plug point: one small trait, one file per adapter.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use midward_core::{ClientMaterial, Failure, Trace};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is asked of a resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// Already checked by [`crate::CredentialId`].
    pub credential_id: String,
    /// Host of the connection, for look-ups by address.
    pub address: Option<String>,
    /// Read past every cache that the resolver or its vault client keeps, as far as it can.
    pub fresh: bool,
}

/// What a resolver returned.
#[derive(Debug)]
pub struct Resolution {
    pub material: ClientMaterial,
    /// Read it again before the next token request (CyberArk's `PasswordChangeInProcess`).
    pub changing: bool,
    /// The steps inside: JAR, vault.
    pub trace: Trace,
}

/// A resolver's answer when it has no material. The [`Failure`] names the hop (resolver or vault), the vault's code
/// and what to check; it never holds text that the JAR or vault chose freely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ResolveError(pub Box<Failure>);

/// Whether a resolver can serve, for the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolverReport {
    Ready,
    /// Fails for now.
    Degraded(String),
    /// Cannot serve until something is changed: JAR missing, wrong class, AIM client absent.
    Unusable(String),
}

/// One way to turn identifiers into material. Adapters hold no cache of secrets.
pub trait Resolver: Debug + Send + Sync + 'static {
    /// `jar`, `cyberark_sdk`, ...
    fn kind(&self) -> &'static str;

    /// Resolves one identifier within `deadline`. Cancel-safe: a dropped future leaves nothing running for longer
    /// than the deadline. Calls run side by side.
    fn resolve<'a>(&'a self, lookup: &'a Lookup, deadline: Duration)
    -> BoxFuture<'a, Result<Resolution, ResolveError>>;

    /// The present state, without asking the vault.
    fn report(&self) -> ResolverReport;

    /// What the operator of a resolver that serves should know besides.
    fn note(&self) -> Option<String> {
        None
    }

    /// Starts what can be started ahead (a JVM) and checks what can be checked; the result shows in [`Self::report`].
    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Drops secrets that are kept, if any are.
    fn forget(&self) {}

    /// Ends what goes on between look-ups: child processes, sessions with a vault.
    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
