//! Removes what nobody will ask for any more: finished requests with their bodies, by age and by size, answers of
//! connections that keep metadata only, spent enrollment tokens, documents that no request and no connection names,
//! the rates of connections that are gone.

mod size;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::size::Sizes;
use crate::app::App;
use crate::at_rest::{reduce_delivered, remember_keys};
use crate::config::RetentionConfig;
use crate::store::{StoreError, connections, kept, mids, reduce};

/// How often old requests are looked for.
const EVERY: Duration = Duration::from_secs(10);
/// Most requests removed in one transaction: the queue waits for no more than these.
const AT_ONCE: i64 = 500;
/// Documents are looked at once in so many rounds.
const DOCUMENT_ROUNDS: u32 = 360;
/// An answer for a caller at another replica is there for so long, if that one does not take it.
const FETCHED_WITHIN: Duration = Duration::from_secs(30);
/// Longest that a request waits to be sent, and then to end.
const LONGEST_LIFE: Duration = Duration::from_hours(15 * 24);

/// How long finished requests are kept.
fn keep(terms: &RetentionConfig) -> Duration {
    Duration::from_hours(terms.finished_hours.into())
}

/// What was written before this time is gone by now.
pub(crate) fn gone_before(terms: &RetentionConfig, now: i64) -> i64 {
    before(now, keep(terms) + LONGEST_LIFE)
}

fn before(now: i64, ago: Duration) -> i64 {
    now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))
}

/// Runs until `shutdown`. What fails is tried again in the next round.
pub(crate) async fn run(app: Arc<App>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut documents = Documents::default();
    let mut sizes = Sizes::default();
    let mut round = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = requests_older_than(&app, &mut sizes, &shutdown).await {
            app.broken.see(&error);
            tracing::warn!(%error, "old requests were not removed");
        }
        if let Err(error) = late_answers(&app).await {
            app.broken.see(&error);
            tracing::warn!(%error, "answers that are not to be kept were not removed");
        }
        if round == 0
            && let Err(error) = keys(&app).await
        {
            app.broken.see(&error);
            tracing::warn!(%error, "the use of the encryption key was not noted");
        }
        if round == 0
            && let Err(error) = documents.sweep(&app).await
        {
            app.broken.see(&error);
            tracing::warn!(%error, "unused configuration documents and rates were not removed");
        }
        round = (round + 1) % DOCUMENT_ROUNDS;
    }
}

async fn requests_older_than(app: &App, sizes: &mut Sizes, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let mut removed = 0;
    let mut excess = None;
    if let Some(most) = app.retention.finished_bytes {
        excess = sizes.excess(app, most, app.store_now().await?).await?;
    }
    while !shutdown.is_cancelled() {
        let mut tx = app.store.begin().await?;
        let now = app.store.now(&mut tx, app.now()).await?;
        let old = before(now, keep(&app.retention));
        let count = kept::remove_finished(&mut tx, excess.unwrap_or(old).max(old), AT_ONCE).await?;
        if removed == 0 {
            mids::forget_enroll_tokens(&mut tx, old).await?;
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

/// Answers that were stored for callers at other replicas, who left without them.
async fn late_answers(app: &App) -> Result<(), StoreError> {
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    let late = reduce::late(&mut tx, before(now, FETCHED_WITHIN), AT_ONCE).await?;
    tx.rollback().await?;
    reduce_delivered(&app.store, &app.at_rest, late).await
}

async fn keys(app: &App) -> Result<(), StoreError> {
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    let known = remember_keys(&mut tx, &app.at_rest, now, gone_before(&app.retention, now)).await?;
    tx.commit().await?;
    if let Err(error) = known {
        tracing::error!(%error, "another instance encrypts with a key that this one was not given");
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
        connections::forget_use(&mut tx).await?;
        for digest in unused.intersection(&self.unused) {
            connections::remove_document(&mut *tx, digest).await?;
        }
        tx.commit().await?;
        self.unused = unused;
        Ok(())
    }
}
