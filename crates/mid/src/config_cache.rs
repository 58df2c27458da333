//! What leases run under, by digest: fetched once for all who wait, checked against the digest, bounded.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::Method;
use midward_core::{Failure, Hop};
use midward_wire::{ConfigDigest, ConfigDocument, VERSION, paths};

use crate::link::{Link, LinkError};

/// Most documents that are kept.
const MAX_DOCUMENTS: usize = 1024;
/// Largest document, in bytes.
const MAX_DOCUMENT: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);
/// Waits before the instance is asked again that is away for a moment: its database restarts, or another replica takes
/// over. A request whose document did not come was not executed, but it would have failed.
const AGAIN: [Duration; 8] = {
    let millis = Duration::from_millis;
    [millis(100), millis(200), millis(400), millis(800), millis(1000), millis(1500), millis(2000), millis(2000)]
};

/// A document and what was derived from it, once.
pub(crate) struct Configured<T> {
    pub document: ConfigDocument,
    /// Filled by the first who needs it.
    pub derived: OnceLock<T>,
    used: AtomicU64,
}

type Fetched<T> = Result<Arc<Configured<T>>, Box<Failure>>;

/// The cache. Reading a known document takes no lock.
pub(crate) struct ConfigCache<T> {
    link: Arc<Link>,
    known: ArcSwap<HashMap<ConfigDigest, Arc<Configured<T>>>>,
    pending: Mutex<HashMap<ConfigDigest, Shared<BoxFuture<'static, Fetched<T>>>>>,
    uses: AtomicU64,
}

impl<T: Send + Sync + 'static> ConfigCache<T> {
    pub(crate) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { link, known: ArcSwap::default(), pending: Mutex::default(), uses: AtomicU64::new(0) })
    }

    /// The document; fetched when it is not known. A caller that leaves does not cancel the fetch.
    pub(crate) async fn document(self: &Arc<Self>, digest: &ConfigDigest) -> Fetched<T> {
        if let Some(known) = self.known.load().get(digest) {
            known.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
            return Ok(Arc::clone(known));
        }
        let fetch = self.pending().entry(digest.clone()).or_insert_with(|| self.start(digest.clone())).clone();
        fetch.await
    }

    /// All that are known, for the local commands.
    pub(crate) fn documents(&self) -> Vec<Arc<Configured<T>>> {
        self.known.load().values().cloned().collect()
    }

    /// Forgets everything, so that it is derived anew.
    pub(crate) fn clear(&self) {
        self.known.store(Arc::default());
    }

    fn start(self: &Arc<Self>, digest: ConfigDigest) -> Shared<BoxFuture<'static, Fetched<T>>> {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = this.fetch(&digest).await;
            if let Ok(document) = &result {
                this.keep(&digest, document);
            }
            this.pending().remove(&digest);
            result
        });
        async move {
            task.await.unwrap_or_else(|_| Err(Box::new(failure("the fetch was cancelled", "Send the request again."))))
        }
        .boxed()
        .shared()
    }

    async fn fetch(&self, digest: &ConfigDigest) -> Fetched<T> {
        // It becomes part of a path.
        if digest.0.len() != 64 || !digest.0.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Box::new(failure("the request names no digest", "Compare the versions of both sides.")));
        }
        let path = format!("{}/{digest}", paths::CONFIG);
        let bytes = self.ask(&path).await.map_err(|error| Box::new(failure(error.to_string(), error.action())))?;
        if ConfigDigest::of(&bytes) != *digest {
            return Err(Box::new(failure(
                "the document does not have its digest",
                "Look for a proxy that changes answers on the way from the instance.",
            )));
        }
        let document: ConfigDocument = crate::link::parse(&bytes)
            .map_err(|error| Box::new(failure(error.to_string(), "Compare the versions of both sides.")))?;
        if document.version != VERSION {
            return Err(Box::new(failure("the document has another version", "Compare the versions of both sides.")));
        }
        Ok(Arc::new(Configured { document, derived: OnceLock::new(), used: AtomicU64::new(0) }))
    }

    async fn ask(&self, path: &str) -> Result<Bytes, LinkError> {
        let mut waits = AGAIN.iter();
        loop {
            let answer = self.link.call(Method::GET, path, Bytes::new(), DEADLINE, MAX_DOCUMENT).await;
            let is_away = matches!(answer, Err(LinkError::Busy { .. } | LinkError::Unreachable(_)));
            match waits.next().filter(|_| is_away) {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return answer,
            }
        }
    }

    fn keep(&self, digest: &ConfigDigest, document: &Arc<Configured<T>>) {
        document.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.known.rcu(|known| {
            let mut next = HashMap::clone(known);
            while next.len() >= MAX_DOCUMENTS {
                let oldest = next.iter().min_by_key(|(_, c)| c.used.load(Ordering::Relaxed)).map(|(d, _)| d.clone());
                let Some(oldest) = oldest else { break };
                next.remove(&oldest);
            }
            next.insert(digest.clone(), Arc::clone(document));
            next
        });
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<ConfigDigest, Shared<BoxFuture<'static, Fetched<T>>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for ConfigCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigCache").field("known", &self.known.load().len()).finish_non_exhaustive()
    }
}

fn failure(detail: impl Into<String>, action: impl Into<String>) -> Failure {
    Failure::transient(Hop::Mid, "config_not_loaded", detail, action)
}
