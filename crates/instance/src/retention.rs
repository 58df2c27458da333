//! Removes what nobody will ask for any more: finished requests with their bodies, spent enrollment tokens, documents
//! that no request and no connection names.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::{StoreError, connections, mids, requests};

/// How often old requests are looked for.
const EVERY: Duration = Duration::from_secs(10);
/// Most requests removed in one transaction: the queue waits for no more than these.
const AT_ONCE: i64 = 500;
/// Documents are looked at once in so many rounds.
const DOCUMENT_ROUNDS: u32 = 360;

/// Runs until `shutdown`. What fails is tried again in the next round.
pub(crate) async fn run(app: Arc<App>, keep: Duration, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut documents = Documents::default();
    let mut round = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = requests_older_than(&app, keep, &shutdown).await {
            tracing::warn!(%error, "old requests were not removed");
        }
        if round == 0
            && let Err(error) = documents.sweep(&app).await
        {
            tracing::warn!(%error, "unused configuration documents were not removed");
        }
        round = (round + 1) % DOCUMENT_ROUNDS;
    }
}

async fn requests_older_than(app: &App, keep: Duration, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let mut removed = 0;
    while !shutdown.is_cancelled() {
        let mut tx = app.store.begin().await?;
        let now = app.store.now(&mut tx, app.now()).await?;
        let before = now.saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let count = requests::remove_finished(&mut tx, before, AT_ONCE).await?;
        if removed == 0 {
            mids::forget_enroll_tokens(&mut tx, before).await?;
        }
        tx.commit().await?;
        removed += count;
        if count < u64::try_from(AT_ONCE).unwrap_or(u64::MAX) {
            break;
        }
        // The queue's own work goes in between.
        tokio::task::yield_now().await;
    }
    if removed > 0 {
        tracing::debug!(removed, "old requests removed");
    }
    Ok(())
}

/// Documents that were found unused the last time: they go when they still are, so that one which is just about to be
/// used stays.
#[derive(Debug, Default)]
struct Documents {
    unused: HashSet<String>,
}

impl Documents {
    async fn sweep(&mut self, app: &App) -> Result<(), StoreError> {
        let in_use = app.routes.digests();
        let mut tx = app.store.begin().await?;
        let unnamed = connections::unnamed_documents(&mut tx).await?;
        let unused: HashSet<String> = unnamed.into_iter().filter(|digest| !in_use.contains(digest)).collect();
        for digest in unused.intersection(&self.unused) {
            connections::remove_document(&mut *tx, digest).await?;
        }
        tx.commit().await?;
        self.unused = unused;
        Ok(())
    }
}
