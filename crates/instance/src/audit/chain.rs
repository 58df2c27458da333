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
}

#[derive(Debug)]
pub(crate) struct Chain {
    id: String,
    committed: Committed,
    /// Written in a transaction whose end is not known yet.
    pending: Option<Head>,
}

impl Chain {
    /// A new chain.
    pub(crate) fn new(id: String) -> Self {
        Self { id, committed: Committed::default(), pending: None }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn committed(&self) -> Committed {
        self.committed.clone()
    }

    /// Writes a block. When the transaction is committed, say so with [`Self::settle`].
    pub(crate) async fn append(
        &mut self,
        tx: &mut Transaction<'static, Any>,
        at: i64,
        entries: &[String],
    ) -> Result<(), StoreError> {
        let last = if self.pending.is_some() {
            // Nobody knows how the last transaction ended, so the database is asked.
            let found = audit::head(&mut **tx, &self.id).await?;
            found.map(|(seq, hash)| Head { seq, hash }).unwrap_or_default()
        } else {
            self.committed.head()
        };
        let entries = format!("[{}]", entries.join(","));
        let seq = last.seq + 1;
        let hash = block_hash(&last.hash, &self.id, seq, at, &entries);
        self.pending = Some(Head { seq, hash: hash.clone() });
        audit::insert(&mut **tx, &BlockRow { chain: self.id.clone(), seq, at, entries, hash }).await
    }

    /// The transaction of the last block is committed.
    pub(crate) fn settle(&mut self) {
        if let Some(head) = self.pending.take() {
            *self.committed.0.lock().unwrap_or_else(PoisonError::into_inner) = head;
        }
    }
}
