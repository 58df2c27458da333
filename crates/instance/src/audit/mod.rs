//! The audit: what was asked of this instance, by whom, and how it ended. Entries are written in blocks, in the
//! transactions of what they tell of; each block's hash covers the block before. Signed checkpoints go to the MIDs,
//! so an instance that writes its history anew is found out.
//!
//! Each start begins new chains, whose first block names the chains before.

mod chain;
mod journal;
mod verify;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use midward_core::{Clock, Random, new_id};
use midward_wire::{AuditCheckpoint, checkpoint_signing_input};
use serde_json::{Value, json};
use sqlx::{Any, Transaction};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::client::ApiClient;
use crate::keys::SigningKey;
use crate::store::{Store, StoreError, audit};
use chain::{Chain, Committed, Head};

pub(crate) use journal::{Journal, ended_entry};
pub use verify::{AuditFault, AuditLine, AuditReport, verify_audit};

/// How often refusals are written.
const FLUSH: Duration = Duration::from_secs(1);
/// Most kinds of refusal that are told apart between two writes.
const KINDS: usize = 256;
/// How often old blocks are looked for.
const PRUNE: Duration = Duration::from_hours(1);
/// Chains of instances that are gone that are signed in one transaction.
const CLOSED_AT_ONCE: i64 = 100;
/// Chains of before that a new one names.
const NAMED_BEFORE: i64 = 20;

/// Everything but the calls: changes, and refusals.
#[derive(Debug)]
pub(crate) struct Audit {
    changes: tokio::sync::Mutex<Chain>,
    chains: Vec<(String, Committed)>,
    refusals: Mutex<HashMap<Refusal, u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    code: String,
    client: String,
    what: String,
}

/// A block that is in a transaction: nobody else makes the chain longer until it is settled or dropped.
#[derive(Debug)]
#[must_use = "settle it after the commit"]
pub(crate) struct Pending<'a>(tokio::sync::MutexGuard<'a, Chain>);

impl Pending<'_> {
    pub(crate) fn settle(mut self) {
        self.0.settle();
    }
}

impl Audit {
    /// Begins this start's chains: for changes, for each writer of the queue one. The second writer of a shared database
    /// records outcomes.
    pub(crate) async fn begin(
        store: &Store,
        key: &SigningKey,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<(Self, Journal, Option<Journal>), StoreError> {
        let mut chains = ["changes", "calls", "outcomes"].map(|of| (of, Chain::new(new_id(clock.wall(), random))));
        let used = if store.is_shared() { 3 } else { 2 };
        let mut tx = store.begin().await?;
        let before: Vec<Value> = audit::heads(&mut *tx, NAMED_BEFORE)
            .await?
            .into_iter()
            .map(|(chain, seq, hash)| json!({ "chain": chain, "seq": seq, "hash": hash }))
            .collect();
        let now = clock.wall().unix_millis();
        for (of, chain) in &mut chains[..used] {
            let version = env!("CARGO_PKG_VERSION");
            let entry = json!({ "what": "started", "of": of, "key": key.id(), "version": version, "before": before });
            chain.append(&mut tx, now, format!("[{entry}]")).await?;
        }
        tx.commit().await?;
        for (_, chain) in &mut chains {
            chain.settle();
        }
        let known = chains[..used].iter().map(|(_, chain)| (chain.id().to_owned(), chain.committed())).collect();
        let [(_, changes), (_, calls), (_, outcomes)] = chains;
        let audit = Self { changes: tokio::sync::Mutex::new(changes), chains: known, refusals: Mutex::default() };
        let calls = Journal::new(calls);
        let outcomes = store.is_shared().then(|| calls.beside(outcomes));
        Ok((audit, calls, outcomes))
    }

    /// Records a change in the transaction that makes it, as the last thing before the commit.
    pub(crate) async fn change(
        &self,
        tx: &mut Transaction<'static, Any>,
        now: i64,
        by: &ApiClient,
        what: &str,
        details: Value,
    ) -> Result<Pending<'_>, StoreError> {
        let mut entry = json!({ "what": what, "client": by.id, "by": by.name });
        if let (Some(entry), Value::Object(details)) = (entry.as_object_mut(), details) {
            entry.extend(details);
        }
        self.write(tx, now, &[entry.to_string()]).await
    }

    /// Records what nobody with an API key did.
    pub(crate) async fn write(
        &self,
        tx: &mut Transaction<'static, Any>,
        now: i64,
        entries: &[String],
    ) -> Result<Pending<'_>, StoreError> {
        let mut chain = self.changes.lock().await;
        chain.append(tx, now, format!("[{}]", entries.join(","))).await?;
        Ok(Pending(chain))
    }

    /// Counts a refusal; it is written within a second. `client` is empty for one who is not known.
    pub(crate) fn refused(&self, code: &str, client: &str, what: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let what: String = what.chars().take(200).collect();
        let mut refusal = Refusal { code: code.to_owned(), client: client.to_owned(), what };
        if refusals.len() >= KINDS && !refusals.contains_key(&refusal) {
            refusal = Refusal { code: "others".to_owned(), client: String::new(), what: String::new() };
        }
        *refusals.entry(refusal).or_default() += 1;
    }

    async fn flush(&self, app: &App) -> Result<(), StoreError> {
        let refusals = std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        if refusals.is_empty() {
            return Ok(());
        }
        let entry = |(refusal, times): (&Refusal, &u64)| {
            json!({ "what": "refused", "code": refusal.code, "client": refusal.client, "asked": refusal.what,
                    "times": times })
            .to_string()
        };
        let entries: Vec<String> = refusals.iter().map(entry).collect();
        let mut tx = app.store.begin().await?;
        let pending = self.write(&mut tx, app.now(), &entries).await?;
        tx.commit().await?;
        pending.settle();
        Ok(())
    }

    /// Signs what is committed of each chain that has grown since `signed`.
    async fn checkpoint(&self, app: &App, signed: &mut HashMap<String, i64>) -> Result<(), StoreError> {
        let at = app.now();
        let due: Vec<AuditCheckpoint> = self
            .chains
            .iter()
            .map(|(id, committed)| (id, committed.head()))
            .filter(|(id, head)| head.seq > signed.get(*id).copied().unwrap_or(0))
            .map(|(id, head)| sign(app, id, head.seq, head.hash, at))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut tx = app.store.begin().await?;
        for checkpoint in &due {
            audit::insert_checkpoint(&mut *tx, checkpoint).await?;
        }
        tx.commit().await?;
        signed.extend(due.into_iter().map(|checkpoint| (checkpoint.chain, checkpoint.seq)));
        Ok(())
    }
}

fn sign(app: &App, chain: &str, seq: i64, hash: String, at: i64) -> AuditCheckpoint {
    let signature = app.signing_key.sign(&checkpoint_signing_input(chain, seq, &hash, at));
    AuditCheckpoint { chain: chain.to_owned(), seq, hash, at, key: app.signing_key.id(), signature }
}

/// Writes refusals, signs checkpoints, removes what is old, until `shutdown`.
pub(crate) async fn run(app: std::sync::Arc<App>, every: Duration, keep: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(FLUSH.min(every));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut signed = HashMap::new();
    let (mut next_checkpoint, mut next_prune) = (app.clock.boot(), app.clock.boot());
    loop {
        let stopping = tokio::select! {
            _ = ticks.tick() => false,
            () = shutdown.cancelled() => true,
        };
        if let Err(error) = app.audit.flush(&app).await {
            app.broken.see(&error);
            tracing::error!(%error, "refusals are missing in the audit");
        }
        let now = app.clock.boot();
        if stopping || now >= next_checkpoint {
            next_checkpoint = now + every;
            if let Err(error) = app.audit.checkpoint(&app, &mut signed).await {
                app.broken.see(&error);
                tracing::warn!(%error, "no checkpoint of the audit was made");
            }
        }
        if stopping {
            return;
        }
        if now >= next_prune {
            next_prune = now + PRUNE;
            if let Err(error) = prune(&app, keep).await {
                app.broken.see(&error);
                tracing::warn!(%error, "old blocks of the audit were not removed");
            }
        }
    }
}

/// Signs what instances left behind that did not stop by themselves, so that its time is over some day; and tells so. What
/// somebody changed meanwhile is not signed: it stays, and `midward audit verify` names it.
async fn close(app: &App, older: Duration) -> Result<(), StoreError> {
    let at = app.now();
    let before = at.saturating_sub(i64::try_from(older.as_millis()).unwrap_or(i64::MAX));
    let mut tx = app.store.begin().await?;
    let mut left = audit::unsigned(&mut tx, before, CLOSED_AT_ONCE).await?;
    left.retain(|(chain, ..)| app.audit.chains.iter().all(|(own, _)| own != chain));
    let mut entries = Vec::with_capacity(left.len());
    for (chain, seq, hash) in left {
        if !chain::is_whole(&mut tx, &chain, &Head { seq, hash: hash.clone() }).await? {
            tracing::error!(chain, "the audit of an instance that is gone was changed: see `midward audit verify`");
            continue;
        }
        entries.push(json!({ "what": "chain_closed", "chain": chain, "seq": seq, "hash": hash }).to_string());
        audit::insert_checkpoint(&mut *tx, &sign(app, &chain, seq, hash, at)).await?;
    }
    if entries.is_empty() {
        return Ok(());
    }
    let pending = app.audit.write(&mut tx, at, &entries).await?;
    tx.commit().await?;
    pending.settle();
    tracing::info!(chains = entries.len(), "the audit of instances that did not stop by themselves is signed");
    Ok(())
}

async fn prune(app: &App, keep: Duration) -> Result<(), StoreError> {
    // Who runs signs much sooner.
    close(app, keep.min(PRUNE)).await?;
    let before = app.now().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
    let mut tx = app.store.begin().await?;
    let removed = audit::remove_before(&mut tx, before).await?;
    tx.commit().await?;
    if removed > 0 {
        tracing::info!(removed, "old blocks of the audit are removed");
    }
    Ok(())
}
