//! Callers that wait for outcomes in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use midward_wire::Outcome;
use tokio::sync::oneshot;

const SHARDS: usize = 16;

/// How a request ended, delivered in memory after it was committed.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Arc<Outcome>,
    /// JSON of the trace.
    pub(crate) trace: Arc<str>,
}

type Shard = HashMap<String, Vec<oneshot::Sender<Ended>>>;

/// Waiting callers by request. A hint: who gets no word asks the database.
#[derive(Debug, Default)]
pub(crate) struct Waiters([Mutex<Shard>; SHARDS]);

/// One who waits. Forgotten when dropped, so that callers who hang up leave nothing behind.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) word: oneshot::Receiver<Ended>,
    waiters: &'a Waiters,
    id: String,
}

impl Waiters {
    pub(crate) fn wait(&self, id: &str) -> Waiting<'_> {
        let (sender, word) = oneshot::channel();
        self.shard(id).entry(id.to_owned()).or_default().push(sender);
        Waiting { word, waiters: self, id: id.to_owned() }
    }

    pub(crate) fn deliver(&self, id: &str, ended: &Ended) {
        let waiting = self.shard(id).remove(id);
        for waiter in waiting.into_iter().flatten() {
            // One who left needs no word.
            let _ = waiter.send(ended.clone());
        }
    }

    fn shard(&self, id: &str) -> MutexGuard<'_, Shard> {
        // Identifiers end in random digits.
        let shard = &self.0[usize::from(id.as_bytes().last().copied().unwrap_or(0)) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.word.close();
        let mut shard = self.waiters.shard(&self.id);
        if let Some(waiting) = shard.get_mut(&self.id) {
            waiting.retain(|other| !other.is_closed());
            if waiting.is_empty() {
                shard.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_forgotten_and_disturbs_nobody() {
        let waiters = Waiters::default();
        let (left, stays) = (waiters.wait("a"), waiters.wait("a"));
        drop(left);
        assert_eq!(waiters.shard("a")["a"].len(), 1);
        drop(stays);
        assert!(waiters.shard("a").is_empty());
    }
}
