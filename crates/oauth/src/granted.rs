//! A token that is held, and as a caller gets it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{AccessToken, BootTime, Fingerprint, Hop, Trace, WallLead};

use crate::dpop::DpopKey;
use crate::key::TokenKey;
use crate::request::ClientCertificate;
use crate::steps::Steps;
use crate::sync::{Loaded, Slot};

/// Later than any token's end.
pub(crate) const NEVER: BootTime = BootTime::from_nanos(u64::MAX);

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Cached,
    /// This call's demand started the fetch.
    Fetched,
    /// Another call's demand had started it.
    Waited,
}

/// What became of a token that an API refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It was the cached one; the next call gets another.
    Dropped,
    /// It was not the cached one any more.
    Replaced,
    /// It stays the cached one for a while: those before it were refused too, one after the other.
    Kept,
}

/// A token that may be used now. Made to be cheap: for a call that lasts, keep a clone of its token rather than this.
#[derive(Debug)]
pub struct Granted {
    pub origin: Origin,
    /// Always there; as it lies in the cache, so that a lookup need not touch the token itself.
    held: Loaded<Held>,
}

impl Granted {
    pub(crate) fn new(held: &Arc<Held>, origin: Origin) -> Self {
        Self { origin, held: Slot::loaded(Arc::clone(held)) }
    }

    #[inline]
    pub(crate) const fn from_cache(held: Loaded<Held>) -> Self {
        Self { origin: Origin::Cached, held }
    }

    pub fn token(&self) -> &AccessToken {
        &self.held().token
    }

    /// The certificate that the token is bound to: the API wants to see it.
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.held().bound.as_ref()?.certificate.as_ref()
    }

    /// The key that the token is bound to: each call of the API proves it.
    pub fn dpop(&self) -> Option<&DpopKey> {
        self.held().bound.as_ref()?.dpop.as_ref()
    }

    /// The token's end: nobody sends it from then on. Far away for one that has no lifetime, and serves this call only.
    pub fn expires(&self) -> BootTime {
        self.held().expires
    }

    /// The steps of the fetch, or that the token came from the cache.
    pub fn trace(&self) -> Trace {
        if self.origin != Origin::Cached {
            return self.held().steps.trace();
        }
        let mut trace = Trace::default();
        trace.push(Hop::Mid, "token from cache", Duration::ZERO);
        trace
    }

    fn held(&self) -> &Held {
        match &*self.held {
            Some(held) => held,
            None => unreachable!("made only of a token that is there"),
        }
    }
}

/// A token with the story of how it came.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) token: AccessToken,
    /// Absent: as they were asked for.
    pub(crate) scopes: Option<Box<[Box<str>]>>,
    /// The version of the secret that it was minted with.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Of a bound token.
    pub(crate) bound: Option<Box<Bound>>,
    pub(crate) steps: Steps,
    /// [`NEVER`] for one that is good for those who waited for it, and not kept.
    pub(crate) expires: BootTime,
    pub(crate) lead: WallLead,
}

/// What a token is bound to.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) dpop: Option<DpopKey>,
}

impl Held {
    /// What was granted to the key that it is held for.
    pub(crate) fn scopes(&self, key: &TokenKey) -> BTreeSet<String> {
        self.scopes.as_deref().unwrap_or(&key.scopes).iter().map(ToString::to_string).collect()
    }
}
