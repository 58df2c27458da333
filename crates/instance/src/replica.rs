//! Follows what other replicas on the same database do. What they changed is looked up twice a second, and at once when
//! one of them gives a hint; a hint that got lost costs half a second.

use std::sync::Arc;
use std::time::Duration;

use midward_wire::{MidState, Outcome};
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::at_rest::reduce_delivered;
use crate::config::PostgresConfig;
use crate::queue::{Ended, Job};
use crate::store::{self, StoreError, mids, outcomes, replicas};

/// How often is looked without a hint.
const EVERY: Duration = Duration::from_millis(500);
/// Hints that come closer together count as one.
const GATHER: Duration = Duration::from_millis(2);
/// How long what was checked is believed while the others cannot be followed.
const BLIND: Duration = Duration::from_secs(10);
/// How long a lost listener waits before it listens again.
const AGAIN: Duration = Duration::from_secs(1);
/// Callers that are looked up in one statement.
const AT_ONCE: usize = 64;

/// Runs until the instance closes. Nothing to do where the database is this process's own. Stops the instance when
/// another one has migrated the schema to what this one must not use; `failed` tells it.
pub(crate) async fn follow(app: Arc<App>, postgres: Option<PostgresConfig>, failed: oneshot::Sender<StoreError>) {
    let Some(postgres) = postgres else { return };
    let (hints, closing) = (Notify::new(), &app.stop.closing);
    let (ended, ()) = tokio::join!(look(&app, &hints, closing), listen(&postgres, &hints, closing));
    if let Err(error) = ended {
        // The one who runs the instance has gone already, or is told.
        let _ = failed.send(error);
    }
}

async fn look(app: &App, hints: &Notify, closing: &CancellationToken) -> Result<(), StoreError> {
    let mut changes = 0;
    let mut followed = app.clock.boot();
    loop {
        let hinted = tokio::select! {
            () = tokio::time::sleep(EVERY) => false,
            () = hints.notified() => true,
            () = closing.cancelled() => return Ok(()),
        };
        if hinted {
            if app.queue.send(Job::Look).await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(GATHER).await;
        }
        let followed_now = tokio::time::timeout(BLIND, catch_up(app, &mut changes)).await;
        match followed_now.unwrap_or(Err(StoreError::Slow)) {
            Ok(()) => followed = app.clock.boot(),
            Err(error @ StoreError::SchemaAhead { .. }) => {
                tracing::error!(%error, "stopping");
                app.stop.now();
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, "the other replicas are not followed for now");
                if app.clock.boot().saturating_since(followed) > BLIND {
                    app.clients.forget();
                    app.mid_tokens.forget();
                }
            }
        }
    }
}

/// Takes over what changed: records, MIDs, and outcomes that somebody here waits for.
async fn catch_up(app: &App, changes: &mut i64) -> Result<(), StoreError> {
    for ids in app.waiters.ids().chunks(AT_ONCE) {
        let mut delivered = Vec::new();
        for told in outcomes::ended(app.store.readers(), ids).await? {
            let outcome = app.at_rest.outcome(app.store.readers(), &told.id, told.outcome.clone()).await?;
            let outcome = Arc::new(outcome.unwrap_or_else(|why| Outcome::Unknown { failure: why.failure() }));
            app.waiters.deliver(&told.id, Ended { outcome, trace: told.trace.into() });
            if told.passing {
                delivered.push((told.id, told.outcome));
            }
        }
        reduce_delivered(&app.store, &app.at_rest, delivered).await?;
    }
    follow_mids(app).await?;
    let number = replicas::changes(app.store.readers()).await?;
    if number != *changes {
        // Who starts counts as one, after its migrations.
        store::level::check(app.store.readers()).await?;
        *changes = number;
        app.routes.forget();
        app.clients.forget();
        app.mid_tokens.forget();
    }
    Ok(())
}

/// Looks one MID up now, and tells its state.
pub(crate) async fn meet(app: &App, id: &str) -> Result<Option<MidState>, StoreError> {
    let now = app.store_now().await?;
    if let Some(row) = mids::by_id(app.store.readers(), id).await? {
        app.fleet.add(row, app.clock.boot(), now);
    }
    Ok(app.fleet.state(id))
}

async fn follow_mids(app: &App) -> Result<(), StoreError> {
    let now = app.store_now().await?;
    let pulses = mids::pulses(app.store.readers()).await?;
    for id in app.fleet.follow(&pulses, app.clock.boot(), now) {
        meet(app, &id).await?;
    }
    Ok(())
}

async fn listen(postgres: &PostgresConfig, hints: &Notify, closing: &CancellationToken) {
    loop {
        let error = tokio::select! {
            error = hear(postgres, hints) => error,
            () = closing.cancelled() => return,
        };
        tracing::warn!(%error, "hints of other replicas are not heard for now");
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// Passes hints on until the connection is lost.
async fn hear(postgres: &PostgresConfig, hints: &Notify) -> StoreError {
    let hear = async {
        let url = store::postgres_url(postgres)?;
        let mut listener = PgListener::connect(url.as_str()).await?;
        listener.listen(replicas::CHANNEL).await?;
        loop {
            // Whether a hint or a new connection: something may have happened.
            listener.try_recv().await?;
            hints.notify_one();
        }
    };
    let ended: Result<std::convert::Infallible, StoreError> = hear.await;
    match ended {
        Err(error) => error,
    }
}
