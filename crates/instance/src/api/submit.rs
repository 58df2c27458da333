//! What both ways of submitting share.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use midward_core::{Failure, Hop, WallTime, check_name};
use midward_wire::{ApiCall, Outcome};
use serde_json::json;

use crate::app::App;
use crate::at_rest::{Part, not_kept};
use crate::audit::ended_entry;
use crate::auth;
use crate::client::ApiClient;
use crate::problem::{Problem, stopping as stopping_failure};
use crate::queue::{Ended, Submitted, Waiting};
use crate::routes::Route;
use crate::store::requests::{self, KeepRequest, NewRequest, Priority};
use crate::store::{StoreError, outcomes, to_json};
use crate::traces::Traced;

/// A lease outlives the API's time-out by this: for what a MID may need before the call, when it has nothing yet (the
/// configuration 10 s, the look-up of the secret 30 s, the token request 10 s), and for the way back.
pub(super) const LEASE_MARGIN: Duration = Duration::from_mins(1);
/// How often a waiting caller asks the database, in case no word reached it in memory.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The route of a connection that this client may use.
pub(super) async fn route(app: &App, client: &ApiClient, alias: &str) -> Result<Arc<Route>, Problem> {
    if !client.may_call(alias) {
        return Err(auth::forbidden("this API key may not call this connection"));
    }
    // Nothing has another name, and not every database could be asked for it.
    if check_name(alias).is_err() {
        return Err(Problem::not_found("connection", alias));
    }
    let route = app.routes.find(&app.store, &app.fleet, alias).await?;
    route.ok_or_else(|| Problem::not_found("connection", alias))
}

/// On what terms a request is queued.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) priority: Priority,
    pub(super) idempotency_key: Option<String>,
    /// It is not sent before this time, in unix milliseconds.
    pub(super) not_before: i64,
    /// How long its caller waits for it to be accepted.
    pub(super) patience: Duration,
    /// It is tried again as its connection says; nobody waits for it.
    pub(super) retries: bool,
    pub(super) traced: &'a Traced,
}

/// Commits a request under `id`.
pub(super) async fn submit(
    app: &App,
    client: &ApiClient,
    route: &Arc<Route>,
    id: String,
    mut call: ApiCall,
    expires_in: Duration,
    terms: Terms<'_>,
) -> Result<Submitted, Problem> {
    // One who waits is counted by now, so this is said or the answer is waited for.
    if app.stop.stopping.is_cancelled() {
        return Err(Problem::stopping());
    }
    let now = app.clock.wall();
    let repeatable = call.may_repeat(route.replay_methods.as_deref());
    // Only a request with a key is ever compared; its place in a trace is another one each time.
    let fingerprint = match terms.idempotency_key {
        Some(_) => app.at_rest.fingerprint(&route.alias, &to_json(&call)?)?,
        None => String::new(),
    };
    terms.traced.put(&mut call);
    let text = Arc::new(to_json(&call)?);
    let arrived = app.clock.boot();
    let keep = match (route.metadata_only, terms.retries) {
        (false, _) => KeepRequest::Everything,
        (true, true) => KeepRequest::Metadata,
        (true, false) => KeepRequest::MetadataAndWait,
    };
    let mut path = call.path;
    if route.metadata_only {
        // The query may hold anything.
        path.truncate(path.find('?').unwrap_or(path.len()));
    }
    let lease = Duration::from_millis(route.timeout_ms) + LEASE_MARGIN;
    let request = NewRequest {
        id: id.clone(),
        connection: route.alias.clone(),
        config_digest: route.digest.0.clone(),
        resolver: route.resolver.clone(),
        mids: route.mids.clone(),
        repeatable,
        lease_ms: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
        expires_at: (WallTime::from_unix_millis(now.unix_millis().max(terms.not_before)) + expires_in).unix_millis(),
        created_at: now.unix_millis(),
        client_id: client.id.clone(),
        idempotency_key: terms.idempotency_key,
        fingerprint,
        method: call.method,
        path_kept: app.at_rest.keep_path(&id, &path)?,
        path,
        call_kept: app.at_rest.keep(&id, Part::Call, &text)?,
        call: text,
        keep,
        priority: terms.priority,
        origin: String::new(),
        ordered: route.ordered,
        limited: route.limited,
        not_before: terms.not_before,
        delayed_until: None,
        retry: route.retry.clone().filter(|_| terms.retries),
        lease: None,
        arrived,
    };
    // Named, so that its caller can see whether it was taken after all.
    let submitted = tokio::time::timeout(terms.patience, app.queue.submit(Arc::clone(route), request)).await;
    // The writer still has it, and may store it.
    let submitted = submitted.unwrap_or_else(|_| Err(StoreError::Uncertain(Arc::new(StoreError::Slow))));
    terms.traced.submitted(app, arrived);
    submitted.map_err(|error| Problem::from(error).with_request(&id))
}

/// How a request ended; `None` when `wait` was over first, or the instance stops. With a route, a request that no MID
/// has is withdrawn as soon as nobody is left that could serve it or give it out: its caller learns why, and does not
/// wait in vain; and the instance listens until the answer is there, or for so long as it does.
pub(super) async fn wait(
    app: &App,
    id: &str,
    mut waiting: Waiting<'_>,
    wait: Duration,
    route: Option<&Route>,
) -> Option<Ended> {
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    let (stopping, closing) = (&app.stop.stopping, &app.stop.closing);
    let end = if route.is_some() { closing } else { stopping };
    // Another replica may still give it to a MID.
    let nobody_gives = if app.store.is_shared() { closing } else { stopping };
    let (mut gone, mut asked_back) = (false, route.is_none());
    loop {
        tokio::select! {
            biased;
            ended = &mut waiting.word, if !gone => match ended {
                Ok(ended) => return Some(ended),
                Err(_) => gone = true,
            },
            () = &mut deadline => return None,
            () = nobody_gives.cancelled(), if !asked_back => {
                asked_back = true;
                match withdraw(app, None, id, stopping_failure()).await {
                    Ok(Some(ended)) => return Some(ended),
                    Ok(None) => {}
                    Err(problem) => {
                        tracing::warn!(request = id, code = problem.failure.code, "it was not withdrawn");
                    }
                }
            }
            () = end.cancelled() => return None,
            () = tokio::time::sleep(ASK_AGAIN) => match look(app, id, route).await {
                // What was said in memory meanwhile is the whole answer; what is stored may be less.
                Ok(Some(ended)) => return Some(waiting.word.try_recv().unwrap_or(ended)),
                Ok(None) => {}
                // The request is accepted and runs: saying that it was not would have it submitted twice.
                Err(problem) => tracing::warn!(request = id, code = problem.failure.code, "the store was not asked"),
            },
        }
    }
}

/// How a request ended, by the database; ends it itself when nobody else will.
async fn look(app: &App, id: &str, route: Option<&Route>) -> Result<Option<Ended>, Problem> {
    let found = stored(app, id).await?;
    let now = app.clock.boot();
    let Some(route) = route.filter(|route| found.is_none() && !app.fleet.serves(route, now)) else { return Ok(found) };
    withdraw(app, None, id, app.fleet.explain(route, now)).await
}

/// Ends a request that no MID has or may have sent, because a client says so or nobody can serve it: with `failure`, or
/// as its last attempt ended. `None`: it is too late.
pub(super) async fn withdraw(
    app: &App,
    by: Option<&ApiClient>,
    id: &str,
    failure: Failure,
) -> Result<Option<Ended>, Problem> {
    let (client, code) = (by.map(|client| &client.id), failure.code.clone());
    let text = to_json(&Outcome::Failed { failure })?;
    let mut tx = app.store.begin().await?;
    let now = app.store.now(&mut tx, app.now()).await?;
    let Some((column, trace)) = outcomes::withdraw(&mut tx, id, now, &text).await? else { return Ok(None) };
    let outcome = app.at_rest.outcome(&mut *tx, id, column).await?;
    let outcome = outcome.unwrap_or_else(|why| Outcome::Unknown { failure: why.failure() });
    let entry = json!({ "what": "withdrawn", "request": id, "code": code, "client": client });
    let (ended, how) = ended_entry(id, &outcome)?;
    let pending = app.audit.write(&mut tx, now, &[entry.to_string(), ended]).await?;
    tx.commit().await?;
    pending.settle();
    app.counters.ended(how);
    let ended = Ended { outcome: Arc::new(outcome), trace: trace.into() };
    // Others may wait for the same request.
    app.waiters.deliver(id, ended.clone());
    Ok(Some(ended))
}

async fn stored(app: &App, id: &str) -> Result<Option<Ended>, Problem> {
    let Some(row) = requests::find(app.store.readers(), id).await? else { return Ok(None) };
    let Some(column) = row.outcome else { return Ok(None) };
    let outcome = match app.at_rest.outcome(app.store.readers(), id, column).await? {
        Ok(Outcome::Replied { .. }) if row.reduced => Outcome::Unknown { failure: not_kept() },
        Ok(outcome) => outcome,
        Err(why) => Outcome::Unknown { failure: why.failure() },
    };
    Ok(Some(Ended { outcome: Arc::new(outcome), trace: row.trace.as_deref().unwrap_or("[]").into() }))
}

pub(super) fn key_reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        Failure::permanent(
            Hop::Caller,
            "idempotency_key_reused",
            "another request was submitted under this idempotency key",
            "Use a new key for a new request.",
        ),
    )
}
