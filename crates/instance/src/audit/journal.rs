//! The calls' part of the audit, written by the queue in the transactions that it makes anyhow: who asked what of which
//! connection, which MID was given it, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use midward_wire::Outcome;
use serde::Serialize;
use sqlx::{Any, Transaction};

use super::chain::Chain;
use crate::metrics::Counters;
use crate::store::StoreError;
use crate::store::leases::Leased;
use crate::store::requests::NewRequest;

/// What happens in one transaction of the queue.
#[derive(Debug)]
pub(crate) struct Journal {
    /// None: nothing is written, to measure what the audit costs.
    chain: Option<Chain>,
    entries: Vec<String>,
    counters: Arc<Counters>,
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
    },
}

impl Journal {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain: Some(chain), entries: Vec::new(), counters: Arc::default() }
    }

    /// Another one, whose events are counted together with this one's.
    pub(super) fn beside(&self, chain: Chain) -> Self {
        Self { chain: Some(chain), entries: Vec::new(), counters: Arc::clone(&self.counters) }
    }

    #[cfg(feature = "bench")]
    pub(crate) fn without_audit() -> Self {
        Self { chain: None, entries: Vec::new(), counters: Arc::default() }
    }

    /// The same events, counted.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    pub(crate) fn accepted(&mut self, requests: &[NewRequest]) {
        self.counters.accepted(requests.len());
        for request in requests {
            self.add(&Entry::Accepted {
                request: &request.id,
                client: &request.client_id,
                connection: &request.connection,
                method: &request.method,
                path: request.path.split('?').next().unwrap_or_default(),
                mid: request.lease.as_ref().map(|lease| lease.mid_id.as_str()),
            });
        }
    }

    pub(crate) fn leased(&mut self, mid: &str, leases: &[Leased]) {
        for lease in leases {
            self.add(&Entry::Leased { request: &lease.id, mid, epoch: lease.epoch });
        }
    }

    /// `mid`: who reported it; none when the instance itself ended the request.
    pub(crate) fn ended(&mut self, request: &str, mid: Option<&str>, outcome: &Outcome) {
        self.counters.ended(outcome);
        let (how, status, failure) = match outcome {
            Outcome::Replied { reply } => ("replied", Some(reply.status), None),
            Outcome::Failed { failure } => ("failed", None, Some(failure)),
            Outcome::Unknown { failure } => ("unknown", None, Some(failure)),
        };
        self.add(&Entry::Ended {
            request,
            mid,
            how,
            status,
            hop: failure.map(|failure| failure.hop),
            code: failure.map(|failure| failure.code.as_str()),
            reference: failure.and_then(|failure| failure.reference.as_deref()),
        });
    }

    pub(crate) fn refused(&mut self, request: &str, mid: &str, epoch: i64) {
        self.counters.outcome_refused();
        self.add(&Entry::OutcomeRefused { request, mid, epoch });
    }

    /// Writes what was noted since the last transaction. Say how that ended: [`Self::committed`] or [`Self::lost`].
    pub(crate) async fn write(&mut self, tx: &mut Transaction<'static, Any>, now: i64) -> Result<(), StoreError> {
        let entries = std::mem::take(&mut self.entries);
        match &mut self.chain {
            Some(chain) if !entries.is_empty() => chain.append(tx, now, &entries).await,
            _ => Ok(()),
        }
    }

    pub(crate) fn committed(&mut self, took: Duration) {
        self.counters.committed(took);
        if let Some(chain) = &mut self.chain {
            chain.settle();
        }
    }

    /// Nothing of it happened.
    pub(crate) fn lost(&mut self) {
        self.entries.clear();
    }

    fn add(&mut self, entry: &Entry<'_>) {
        if self.chain.is_none() {
            return;
        }
        match serde_json::to_string(entry) {
            Ok(text) => self.entries.push(text),
            // Texts and numbers always can be written.
            Err(error) => tracing::error!(%error, "an audit entry could not be written"),
        }
    }
}
