//! Heartbeats that say nothing new: that the MID is alive is known here at once, and stored for all such MIDs together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use midward_wire::Heartbeat;
use tokio_util::sync::CancellationToken;

use super::incarnation;
use crate::app::App;
use crate::store::{StoreError, mids};

/// How often they are stored. Other replicas learn so much later that a MID is alive.
const EVERY: Duration = Duration::from_millis(500);

/// MIDs that were heard of since they were stored last.
#[derive(Debug, Default)]
pub(crate) struct Pulses(Mutex<HashSet<String>>);

impl Pulses {
    pub(crate) fn note(&self, mid_id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(mid_id.to_owned());
    }

    fn take(&self) -> HashSet<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Stores them until `shutdown`, and once more then. What is not stored is not tried again: the next heartbeat comes soon.
pub(crate) async fn run(app: Arc<App>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            _ = ticks.tick() => false,
            () = shutdown.cancelled() => true,
        };
        if let Err(error) = store(&app).await {
            app.broken.see(&error);
            tracing::warn!(%error, "heartbeats were not stored");
        }
        if stopping {
            return;
        }
    }
}

async fn store(app: &App) -> Result<(), StoreError> {
    let mut heard = app.pulses.take();
    if heard.is_empty() {
        return Ok(());
    }
    let now = app.store_now().await?;
    for mid_id in mids::seen_again(&app.store, now, &app.fleet.versions(&heard)).await? {
        heard.remove(&mid_id);
    }
    // Somebody else changed them meanwhile, or holds them for a moment.
    for mid_id in heard {
        if let Some(heartbeat) = app.fleet.by_id(&mid_id).and_then(|mid| mid.heartbeat) {
            store_one(app, &mid_id, heartbeat).await?;
        }
    }
    Ok(())
}

/// Stores a heartbeat with all that it says, unless its incarnation has lost the word: its next one is told so.
async fn store_one(app: &App, mid_id: &str, heartbeat: Heartbeat) -> Result<(), StoreError> {
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    if !incarnation::has_word(&mut tx, mid_id, &heartbeat.incarnation, now).await? {
        return Ok(());
    }
    let version = mids::seen(&mut *tx, mid_id, now, &heartbeat).await?;
    tx.commit().await?;
    app.fleet.heartbeat(mid_id, app.clock.boot(), now, heartbeat, version.filter(|_| !app.store.is_shared()));
    Ok(())
}
