//! Callers that wait for outcomes in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Waiting callers by request. A hint: who gets no word asks the database.
#[derive(Debug, Default)]
pub(crate) struct Waiters([Mutex<HashMap<String, Vec<oneshot::Sender<Ended>>>>; SHARDS]);

impl Waiters {
    pub(crate) fn wait(&self, id: &str) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut shard = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = shard.entry(id.to_owned()).or_default();
        waiting.retain(|other| !other.is_closed());
        waiting.push(sender);
        receiver
    }

    /// Forgets those who left.
    pub(crate) fn leave(&self, id: &str) {
        let mut shard = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = shard.get_mut(id) {
            waiting.retain(|other| !other.is_closed());
            if waiting.is_empty() {
                shard.remove(id);
            }
        }
    }

    pub(crate) fn deliver(&self, id: &str, ended: &Ended) {
        let waiting = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        for waiter in waiting.into_iter().flatten() {
            // One who left needs no word.
            let _ = waiter.send(ended.clone());
        }
    }

    fn shard(&self, id: &str) -> &Mutex<HashMap<String, Vec<oneshot::Sender<Ended>>>> {
        // Identifiers end in random digits.
        &self.0[usize::from(id.as_bytes().last().copied().unwrap_or(0)) % SHARDS]
    }
}
