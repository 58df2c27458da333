//! A chain of blocks that one writer at a time makes longer.

use std::sync::{Arc, Mutex, PoisonError};

use midward_wire::block_hash;
use sqlx::{Any, Transaction};

use crate::store::StoreError;
use crate::store::audit::{self, BlockRow};

/// Number and hash of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: i64,
    pub(crate) hash: String,
}

/// What is committed of a chain, for those who sign it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed(Arc<Mutex<Head>>);

impl Committed {
    pub(crate) fn head(&self) -> Head {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, head: Head) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }
}

#[derive(Debug)]
pub(crate) struct Chain {
    id: String,
    committed: Committed,
    /// Written in a transaction whose end is not known yet.
    pending: Option<Head>,
    /// A transaction with a block did not end as it should: the database knows whether it was committed.
    unsure: bool,
}

impl Chain {
    /// A new chain.
    pub(crate) fn new(id: String) -> Self {
        Self { id, committed: Committed::default(), pending: None, unsure: false }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn committed(&self) -> Committed {
        self.committed.clone()
    }

    /// Where it is not known how the last transaction ended, the database is asked. The hash of a block that was
    /// committed and not settled. Should that transaction still be under way, the next block cannot be written beside
    /// it: both have the same number.
    pub(crate) async fn catch_up(&mut self, tx: &mut Transaction<'static, Any>) -> Result<Option<String>, StoreError> {
        if !self.unsure {
            return Ok(None);
        }
        let found = audit::head(tx, &self.id).await?;
        let found = found.map(|(seq, hash)| Head { seq, hash }).unwrap_or_default();
        (self.unsure, self.pending) = (false, None);
        if found == self.committed.head() {
            return Ok(None);
        }
        let hash = found.hash.clone();
        self.committed.set(found);
        Ok(Some(hash))
    }

    /// Writes a block of `entries`, a JSON array, and tells its hash. When the transaction is committed, say so with [`Self::settle`].
    pub(crate) async fn append(
        &mut self,
        tx: &mut Transaction<'static, Any>,
        at: i64,
        entries: String,
    ) -> Result<String, StoreError> {
        self.catch_up(tx).await?;
        let last = self.committed.head();
        let seq = last.seq + 1;
        let hash = block_hash(&last.hash, &self.id, seq, at, &entries);
        // Until it is settled, whoever drops the transaction says nothing.
        (self.unsure, self.pending) = (true, Some(Head { seq, hash: hash.clone() }));
        audit::insert(&mut **tx, &BlockRow { chain: self.id.clone(), seq, at, entries, hash: hash.clone() }).await?;
        Ok(hash)
    }

    /// The transaction of the last block is committed.
    pub(crate) fn settle(&mut self) {
        if let Some(head) = self.pending.take() {
            self.committed.set(head);
            self.unsure = false;
        }
    }
}

/// Whether a chain's blocks, from its last checkpoint to `head`, follow each other with the hashes that they say.
pub(super) async fn is_whole(tx: &mut Transaction<'static, Any>, id: &str, head: &Head) -> Result<bool, StoreError> {
    const AT_ONCE: i64 = 500;
    let signed = audit::last_signed(tx, id).await?;
    let mut last = signed.map(|(seq, hash)| Head { seq, hash }).unwrap_or_default();
    while last.seq < head.seq {
        let blocks = audit::page(&mut **tx, id, last.seq, AT_ONCE).await?;
        let mut of_this = blocks.into_iter().filter(|block| block.chain == id).peekable();
        if of_this.peek().is_none() {
            return Ok(false);
        }
        for BlockRow { seq, at, entries, hash, .. } in of_this {
            if seq != last.seq + 1 || hash != block_hash(&last.hash, id, seq, at, &entries) {
                return Ok(false);
            }
            last = Head { seq, hash };
        }
    }
    Ok(last == *head)
}

#[cfg(test)]
mod tests {
    use midward_wire::AuditCheckpoint;

    use super::*;
    use crate::config::StoreConfig;
    use crate::store::Store;

    /// One that is idle for longer than the audit is kept.
    #[tokio::test]
    async fn a_chain_goes_on_when_all_its_blocks_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let mut chain = Chain::new("c".into());
        let mut tx = store.begin().await.expect("begun");
        let first = chain.append(&mut tx, 1, "[1]".into()).await.expect("written");
        let (signature, key) = ("s".to_owned(), "k".to_owned());
        let checkpoint = AuditCheckpoint { chain: "c".into(), seq: 1, hash: first.clone(), at: 2, key, signature };
        audit::insert_checkpoint(&mut *tx, &checkpoint).await.expect("written");
        tx.commit().await.expect("committed");
        chain.settle();
        let mut tx = store.begin().await.expect("begun");
        assert_eq!(audit::remove_before(&mut tx, 3).await.expect("removed"), 1);
        tx.commit().await.expect("committed");
        // Undone, so that the database is asked where the chain ends.
        let mut tx = store.begin().await.expect("begun");
        chain.append(&mut tx, 4, "[2]".into()).await.expect("written");
        tx.rollback().await.expect("undone");
        let mut tx = store.begin().await.expect("begun");
        let second = chain.append(&mut tx, 5, "[3]".into()).await.expect("written");
        tx.commit().await.expect("committed");
        assert_eq!(second, block_hash(&first, "c", 2, 5, "[3]"));
        store.close().await;
    }

    #[tokio::test]
    async fn a_chain_of_which_a_block_was_changed_or_is_missing_is_not_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let mut tx = store.begin().await.expect("begun");
        let mut chain = Chain::new("c".into());
        for number in 1..=1200 {
            let hash = chain.append(&mut tx, number, format!("[{number}]")).await.expect("written");
            chain.settle();
            if number == 2 {
                let (signature, key) = ("s".to_owned(), "k".to_owned());
                let checkpoint = AuditCheckpoint { chain: "c".into(), seq: 2, hash, at: 2, key, signature };
                audit::insert_checkpoint(&mut *tx, &checkpoint).await.expect("written");
            }
        }
        Chain::new("d".into()).append(&mut tx, 1, "[]".into()).await.expect("written");
        let head = chain.committed().head();
        assert!(is_whole(&mut tx, "c", &head).await.expect("read"));
        for (change, is_seen) in [
            // Before the checkpoint: whoever verifies all of it sees that.
            ("UPDATE audit_blocks SET entries = '[0]' WHERE chain = 'c' AND seq = 1", false),
            ("UPDATE audit_blocks SET entries = '[0]' WHERE chain = 'c' AND seq = 3", true),
            ("UPDATE audit_blocks SET entries = '[0]' WHERE chain = 'c' AND seq = 1200", true),
            ("DELETE FROM audit_blocks WHERE chain = 'c' AND seq = 700", true),
            ("DELETE FROM audit_blocks WHERE chain = 'c' AND seq = 1200", true),
            ("DELETE FROM audit_blocks WHERE chain = 'c'", true),
        ] {
            sqlx::query("SAVEPOINT whole").execute(&mut *tx).await.expect("done");
            sqlx::query(change).execute(&mut *tx).await.expect("done");
            assert_eq!(is_whole(&mut tx, "c", &head).await.expect("read"), !is_seen, "{change}");
            sqlx::query("ROLLBACK TO whole").execute(&mut *tx).await.expect("done");
        }
        drop(tx);
        store.close().await;
    }
}
