//! The calls' part of the audit, written by the queue in the transactions that it makes anyhow: who asked what of which
//! connection, which MID was given it, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use midward_wire::Outcome;
use serde::Serialize;
use sqlx::{Any, Transaction};

use super::chain::Chain;
use crate::metrics::{Counters, How};
use crate::store::leases::Leased;
use crate::store::requests::NewRequest;
use crate::store::{StoreError, to_json};

/// What happens in one transaction of the queue.
#[derive(Debug)]
pub(crate) struct Journal {
    /// None: nothing is written, to measure what the audit costs.
    chain: Option<Chain>,
    entries: Vec<Noted>,
    /// In the block of the transaction that is under way.
    written: Vec<Noted>,
    /// Its hash.
    block: Option<String>,
    /// Blocks, by hash, of transactions of which nobody knows whether they were committed.
    doubtful: Vec<(String, Vec<Noted>)>,
    /// What was told by such a transaction, which was committed, and is now run again.
    told: Vec<String>,
    counters: Arc<Counters>,
}

/// An entry, and what it adds to the figures once it is committed.
#[derive(Clone, Debug)]
struct Noted {
    text: String,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
enum Counts {
    Nothing,
    Accepted,
    OutcomeRefused,
    Ended(How),
}

#[derive(Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Entry<'a> {
    Accepted {
        request: &'a str,
        client: &'a str,
        connection: &'a str,
        method: &'a str,
        /// Without its query, which may hold anything.
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        mid: Option<&'a str>,
    },
    Leased {
        request: &'a str,
        mid: &'a str,
        epoch: i64,
    },
    /// Somebody else has the request, or another outcome stands.
    OutcomeRefused {
        request: &'a str,
        mid: &'a str,
        epoch: i64,
    },
    Ended {
        request: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        mid: Option<&'a str>,
        #[serde(flatten)]
        end: End<'a>,
    },
    /// An attempt ended, and the request waits for its next one.
    TriedAgain {
        request: &'a str,
        mid: &'a str,
        epoch: i64,
        #[serde(flatten)]
        end: End<'a>,
    },
}

#[derive(Serialize)]
struct End<'a> {
    how: &'a str,
    /// The API's.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hop: Option<midward_core::Hop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    /// Of a policy refusal, on the MID's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

fn end(outcome: &Outcome) -> (How, End<'_>) {
    let (how, status, failure) = match outcome {
        Outcome::Replied { reply } => (How::Replied, Some(reply.status), None),
        Outcome::Failed { failure } => (How::Failed, None, Some(failure)),
        Outcome::Unknown { failure } => (How::Unknown, None, Some(failure)),
    };
    let end = End {
        how: how.name(),
        status,
        hop: failure.map(|failure| failure.hop),
        code: failure.map(|failure| failure.code.as_str()),
        reference: failure.and_then(|failure| failure.reference.as_deref()),
    };
    (how, end)
}

/// The entry of a request that ended outside of the queue, and how to count it once that is committed.
pub(crate) fn ended_entry(request: &str, outcome: &Outcome) -> Result<(String, How), StoreError> {
    let (how, end) = end(outcome);
    Ok((to_json(&Entry::Ended { request, mid: None, end })?, how))
}

impl Journal {
    pub(super) fn new(chain: Chain) -> Self {
        Self::with(Some(chain), Arc::default())
    }

    /// Another one, whose events are counted together with this one's.
    pub(super) fn beside(&self, chain: Chain) -> Self {
        Self::with(Some(chain), Arc::clone(&self.counters))
    }

    #[cfg(feature = "bench")]
    pub(crate) fn without_audit() -> Self {
        Self::with(None, Arc::default())
    }

    fn with(chain: Option<Chain>, counters: Arc<Counters>) -> Self {
        Self {
            chain,
            entries: Vec::new(),
            written: Vec::new(),
            block: None,
            doubtful: Vec::new(),
            told: Vec::new(),
            counters,
        }
    }

    /// The same events, counted.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    pub(crate) fn accepted(&mut self, requests: &[NewRequest]) {
        for request in requests {
            let entry = Entry::Accepted {
                request: &request.id,
                client: &request.client_id,
                connection: &request.connection,
                method: &request.method,
                path: request.path.split('?').next().unwrap_or_default(),
                mid: request.lease.as_ref().map(|lease| lease.mid_id.as_str()),
            };
            self.add(&entry, Counts::Accepted);
        }
    }

    pub(crate) fn leased(&mut self, mid: &str, leases: &[Leased]) {
        for lease in leases {
            self.add(&Entry::Leased { request: &lease.id, mid, epoch: lease.epoch }, Counts::Nothing);
        }
    }

    /// `mid`: who reported it; none when the instance itself ended the request.
    pub(crate) fn ended(&mut self, request: &str, mid: Option<&str>, outcome: &Outcome) {
        let (how, end) = end(outcome);
        self.add(&Entry::Ended { request, mid, end }, Counts::Ended(how));
    }

    /// A MID reported how an attempt ended after which the request is tried again.
    pub(crate) fn tried_again(&mut self, request: &str, mid: &str, epoch: i64, outcome: &Outcome) {
        let (_, end) = end(outcome);
        self.add(&Entry::TriedAgain { request, mid, epoch, end }, Counts::Nothing);
    }

    pub(crate) fn refused(&mut self, request: &str, mid: &str, epoch: i64) {
        self.add(&Entry::OutcomeRefused { request, mid, epoch }, Counts::OutcomeRefused);
    }

    /// Writes what was noted since the last transaction, but for what a transaction before it, of which that was not
    /// known, has told already. Say how this one ended: [`Self::committed`] or [`Self::lost`].
    pub(crate) async fn write(&mut self, tx: &mut Transaction<'static, Any>, now: i64) -> Result<(), StoreError> {
        let Some(chain) = &mut self.chain else {
            self.written = std::mem::take(&mut self.entries);
            return Ok(());
        };
        if let Some(hash) = chain.catch_up(tx).await? {
            let doubtful = std::mem::take(&mut self.doubtful);
            if let Some((_, told)) = doubtful.into_iter().find(|(block, _)| *block == hash) {
                count(&self.counters, &told);
                self.told.extend(told.into_iter().map(|entry| entry.text));
            }
        }
        self.written = std::mem::take(&mut self.entries);
        let mut told = self.told.clone();
        self.written.retain(|entry| match told.iter().position(|text| *text == entry.text) {
            Some(index) => {
                told.swap_remove(index);
                false
            }
            None => true,
        });
        if self.written.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = self.written.iter().map(|entry| entry.text.as_str()).collect();
        self.block = Some(chain.append(tx, now, format!("[{}]", texts.join(","))).await?);
        Ok(())
    }

    /// A request was given to a MID for the first time, after so long.
    pub(crate) fn dispatched(&self, in_queue: Duration) {
        self.counters.dispatched(in_queue);
    }

    /// A MID reported a request that it had held for so many milliseconds.
    pub(crate) fn executed(&self, millis: i64) {
        self.counters.executed(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
    }

    pub(crate) fn committed(&mut self, took: Duration) {
        self.counters.committed(took);
        if let Some(chain) = &mut self.chain {
            chain.settle();
        }
        self.block = None;
        let written = std::mem::take(&mut self.written);
        count(&self.counters, &written);
        self.forget();
    }

    /// The transaction is run again. Whether it was committed, the next [`Self::write`] finds out.
    pub(crate) fn lost(&mut self) {
        self.entries.clear();
        let written = std::mem::take(&mut self.written);
        self.doubtful.extend(self.block.take().map(|hash| (hash, written)));
    }

    /// It is not run again: what comes next has nothing to do with it.
    pub(crate) fn forget(&mut self) {
        self.doubtful.clear();
        self.told.clear();
    }

    fn add(&mut self, entry: &Entry<'_>, counts: Counts) {
        if self.chain.is_none() {
            self.entries.push(Noted { text: String::new(), counts });
            return;
        }
        match serde_json::to_string(entry) {
            Ok(text) => self.entries.push(Noted { text, counts }),
            // Texts and numbers always can be written.
            Err(error) => tracing::error!(%error, "an audit entry could not be written"),
        }
    }
}

fn count(counters: &Counters, entries: &[Noted]) {
    for entry in entries {
        match entry.counts {
            Counts::Nothing => {}
            Counts::Accepted => counters.accepted(),
            Counts::OutcomeRefused => counters.outcome_refused(),
            Counts::Ended(how) => counters.ended(how),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;
    use crate::store::Store;
    use sqlx::Row as _;

    async fn blocks(store: &Store) -> Vec<String> {
        let sql = "SELECT entries FROM audit_blocks ORDER BY seq";
        let rows = sqlx::query(sql).fetch_all(store.readers()).await.expect("rows");
        rows.iter().map(|row| row.try_get(0).expect("text")).collect()
    }

    /// As after a commit whose answer got lost, and after one that did not happen.
    #[tokio::test]
    async fn a_transaction_that_is_run_again_tells_nothing_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let mut journal = Journal::new(Chain::new("c".into()));
        for (round, is_committed) in [(1, true), (2, false), (3, true), (4, true)] {
            journal.refused("first", "mid", round);
            let mut tx = store.begin().await.expect("begun");
            journal.write(&mut tx, 1).await.expect("written");
            if is_committed {
                tx.commit().await.expect("committed");
            } else {
                tx.rollback().await.expect("undone");
            }
            journal.lost();
            // Again; this time something else happens, too, and once more, because that one is undone.
            for is_last in [false, true] {
                journal.refused("first", "mid", round);
                journal.refused("second", "mid", round);
                let mut tx = store.begin().await.expect("begun");
                journal.write(&mut tx, 2).await.expect("written");
                if is_last {
                    tx.commit().await.expect("committed");
                    journal.committed(Duration::ZERO);
                } else {
                    tx.rollback().await.expect("undone");
                    journal.lost();
                }
            }
        }
        let blocks = blocks(&store).await;
        assert_eq!(blocks.len(), 7, "{blocks:?}");
        for round in 1..=4 {
            for request in ["first", "second"] {
                let entry = format!(r#""request":"{request}","mid":"mid","epoch":{round}}}"#);
                assert_eq!(blocks.concat().matches(&entry).count(), 1, "{entry} in {blocks:?}");
            }
        }
        assert_eq!(journal.counters().outcomes_refused(), 8, "and counts nothing twice");
        store.close().await;
    }
}
