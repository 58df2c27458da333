//! Callers that wait for outcomes in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use midward_wire::Outcome;
use tokio::sync::oneshot;

const SHARDS: usize = 16;

/// How a request ended, delivered in memory.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Arc<Outcome>,
    /// JSON of the trace.
    pub(crate) trace: Arc<str>,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// The API's answer. It is true from when the database found that the MID holds the request, so it need not wait
    /// for the disk: should the instance die before the commit, the MID reports the same again.
    Answer,
    /// What is recorded, so word comes after the commit.
    Record,
}

type Shard = HashMap<String, Vec<(Wants, oneshot::Sender<Ended>)>>;

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
    pub(crate) fn wait(&self, id: &str, wants: Wants) -> Waiting<'_> {
        let (sender, word) = oneshot::channel();
        self.shard(id).entry(id.to_owned()).or_default().push((wants, sender));
        Waiting { word, waiters: self, id: id.to_owned() }
    }

    /// Tells those who want the answer, before the commit. What is left is for [`Self::deliver`] after it; nothing when
    /// they were all, so that a caller who is the only one gets the outcome itself and no copy.
    pub(crate) fn answer(&self, id: &str, ended: Ended) -> Option<Ended> {
        let mut shard = self.shard(id);
        let Some(waiting) = shard.remove(id) else { return Some(ended) };
        let (answered, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(wants, _)| *wants == Wants::Answer);
        let left = (answered.is_empty() || !rest.is_empty()).then(|| ended.clone());
        if !rest.is_empty() {
            shard.insert(id.to_owned(), rest);
        }
        drop(shard);
        tell(answered, ended);
        left
    }

    /// Tells everybody else, after the commit.
    pub(crate) fn deliver(&self, id: &str, ended: Ended) {
        let waiting = self.shard(id).remove(id);
        tell(waiting.unwrap_or_default(), ended);
    }

    /// The requests that somebody waits for.
    pub(crate) fn ids(&self) -> Vec<String> {
        let shards = self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards.flat_map(|shard| shard.keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Ends when nobody waits any more.
    pub(crate) async fn none(&self) {
        while !self.ids().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn shard(&self, id: &str) -> MutexGuard<'_, Shard> {
        // Identifiers end in random digits.
        let shard = &self.0[usize::from(id.as_bytes().last().copied().unwrap_or(0)) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(waiting: Vec<(Wants, oneshot::Sender<Ended>)>, ended: Ended) {
    let mut waiting = waiting.into_iter().map(|(_, waiter)| waiter);
    let Some(last) = waiting.next_back() else { return };
    for waiter in waiting {
        // One who left needs no word.
        let _ = waiter.send(ended.clone());
    }
    let _ = last.send(ended);
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.word.close();
        let mut shard = self.waiters.shard(&self.id);
        if let Some(waiting) = shard.get_mut(&self.id) {
            waiting.retain(|(_, other)| !other.is_closed());
            if waiting.is_empty() {
                shard.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use midward_core::{Failure, Hop};

    use super::*;

    #[test]
    fn who_leaves_is_forgotten_and_disturbs_nobody() {
        let waiters = Waiters::default();
        let (left, stays) = (waiters.wait("a", Wants::Record), waiters.wait("a", Wants::Record));
        drop(left);
        assert_eq!(waiters.shard("a")["a"].len(), 1);
        drop(stays);
        assert!(waiters.shard("a").is_empty());
    }

    #[test]
    fn only_who_wants_the_answer_has_it_before_the_commit() {
        let waiters = Waiters::default();
        let (mut caller, mut reader) = (waiters.wait("a", Wants::Answer), waiters.wait("a", Wants::Record));
        let failure = Failure::transient(Hop::Mid, "mid_lost", "", "");
        let ended = Ended { outcome: Arc::new(Outcome::Unknown { failure }), trace: "[]".into() };
        let left = waiters.answer("a", ended.clone()).expect("one more waits");
        assert!(caller.word.try_recv().is_ok() && reader.word.try_recv().is_err());
        waiters.deliver("a", left);
        assert!(reader.word.try_recv().is_ok() && waiters.shard("a").is_empty());
        let mut alone = waiters.wait("b", Wants::Answer);
        assert!(waiters.answer("b", ended.clone()).is_none() && waiters.shard("b").is_empty());
        assert_eq!(
            alone.word.try_recv().map(|ended| Arc::strong_count(&ended.outcome)),
            Ok(2),
            "no copy but the test's"
        );
        assert!(waiters.answer("c", ended).is_some(), "somebody may come before the commit");
    }
}
