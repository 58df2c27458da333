//! MIDs: what they are, and what an administrator does to them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use midward_core::{Failure, Hop};
use midward_wire::{EnrollToken, MidState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{Page, PageQuery};
use super::records::Tx;
use super::{Body, body, parse};
use crate::app::{App, Shared};
use crate::auth;
use crate::check;
use crate::client::Right;
use crate::extract::{Params, Segments};
use crate::fleet::MidView;
use crate::keys::{hash, hash_text, new_secret};
use crate::problem::Problem;
use crate::store::mids;

pub(super) async fn list(
    State(app): State<Shared>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadRecords).await?;
    let page = Page::of(&query)?;
    let mids = app.fleet.all().into_iter().filter(|mid| mid.name > page.after);
    let mids: Vec<_> = mids.take(usize::try_from(page.to_read()).unwrap_or(usize::MAX)).collect();
    let items = mids.iter().map(|mid| shown(&app, mid)).collect();
    Ok(page.answer(items, |mid| mid["name"].as_str().unwrap_or_default().to_owned()))
}

pub(super) async fn one(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
) -> Result<Json<Value>, Problem> {
    auth::allowed(&app, &headers, Right::ReadRecords).await?;
    let mid = app.fleet.by_name(&name).ok_or_else(|| Problem::not_found("MID", &name))?;
    Ok(Json(shown(&app, &mid)))
}

pub(super) async fn act(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments((name, action)): Segments<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let right = if action == "validate" { Right::AdmitMids } else { Right::OperateMids };
    let client = auth::allowed(&app, &headers, right).await?;
    let mid = app.fleet.by_name(&name).ok_or_else(|| Problem::not_found("MID", &name))?;
    let state = match (action.as_str(), mid.state) {
        ("validate", _) | ("resume", MidState::Paused | MidState::Validated) | ("drain", MidState::Validated) => {
            MidState::Validated
        }
        ("invalidate", _) => MidState::Invalidated,
        ("pause", MidState::Validated | MidState::Paused) => MidState::Paused,
        ("resume" | "pause" | "drain", state) => {
            let failure = Failure::permanent(
                Hop::Caller,
                "wrong_state",
                format!("MID {name} is {}, so it cannot {action}", state.name()),
                format!("Validate it first: `midward mid validate {name}`."),
            );
            return Err(Problem::new(StatusCode::CONFLICT, failure));
        }
        _ => return Err(super::no_such_path().await),
    };
    let mut tx = app.store.begin_change().await?;
    mids::set_state(&mut *tx, &mid.id, state).await?;
    if action == "drain" {
        mids::drain(&mut *tx, &mid.id).await?;
    }
    if state == MidState::Invalidated {
        mids::delete_tokens(&mut *tx, &mid.id).await?;
    }
    let details = json!({ "mid": mid.id, "name": name, "action": action });
    let pending = app.audit.change(&mut tx, app.now(), &client, "mid_changed", details).await?;
    tx.commit().await?;
    pending.settle();
    app.fleet.set_state(&mid.id, state);
    if state == MidState::Invalidated {
        app.mid_tokens.forget();
    }
    if action == "drain" {
        app.fleet.drain(&mid.id);
    }
    tracing::info!(client = client.name, mid = name, action, "the state of a MID was changed");
    let mid = app.fleet.by_id(&mid.id).ok_or_else(|| Problem::not_found("MID", &name))?;
    Ok(Json(shown(&app, &mid)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrollTokenRequest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    prevalidated: bool,
    /// Seconds.
    #[serde(default = "one_hour")]
    ttl_seconds: u64,
}

fn one_hour() -> u64 {
    3600
}

pub(super) async fn enroll_token(
    State(app): State<Shared>,
    headers: HeaderMap,
    content: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let client = auth::allowed(&app, &headers, Right::AdmitMids).await?;
    let request: EnrollTokenRequest = parse(&body(content, app.limits.body_bytes)?)?;
    if let Some(name) = &request.name {
        check::name("MID", name)?;
    }
    let name = request.name.as_deref();
    let expires_at = expiry(&app, request.ttl_seconds)?;
    let mut tx = app.store.begin().await?;
    let token = one_time(&app, &mut tx, (name, request.prevalidated), expires_at, None).await?;
    let details = json!({ "name": name, "prevalidated": request.prevalidated, "expires_at": expires_at });
    let pending = app.audit.change(&mut tx, app.now(), &client, "enroll_token_made", details).await?;
    tx.commit().await?;
    pending.settle();
    Ok((StatusCode::CREATED, Json(json!({ "token": token, "expires_at": expires_at }))))
}

/// A one-time token by which an enrolled MID gets a new key; name, identifier and state stay. The old key is good until
/// the token is used.
pub(super) async fn rekey(
    State(app): State<Shared>,
    headers: HeaderMap,
    Segments(name): Segments<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let client = auth::allowed(&app, &headers, Right::AdmitMids).await?;
    let mid = app.fleet.by_name(&name).ok_or_else(|| Problem::not_found("MID", &name))?;
    let expires_at = expiry(&app, one_hour())?;
    let mut tx = app.store.begin().await?;
    let token = one_time(&app, &mut tx, (Some(&name), false), expires_at, Some(&mid.id)).await?;
    let details = json!({ "mid": mid.id, "name": name, "expires_at": expires_at });
    let pending = app.audit.change(&mut tx, app.now(), &client, "rekey_token_made", details).await?;
    tx.commit().await?;
    pending.settle();
    tracing::info!(client = client.name, mid = name, "a MID may get a new key");
    Ok((StatusCode::CREATED, Json(json!({ "token": token, "expires_at": expires_at }))))
}

fn expiry(app: &App, ttl_seconds: u64) -> Result<i64, Problem> {
    if !(1..=7 * 86_400).contains(&ttl_seconds) {
        return Err(Problem::bad_request(
            "invalid_ttl",
            "ttl_seconds is not between 1 and 604800",
            "Choose a shorter time.",
        ));
    }
    Ok((app.clock.wall() + Duration::from_secs(ttl_seconds)).unix_millis())
}

async fn one_time(
    app: &App,
    tx: &mut Tx,
    (name, prevalidated): (Option<&str>, bool),
    expires_at: i64,
    mid_id: Option<&str>,
) -> Result<String, Problem> {
    let secret = new_secret("", &*app.random);
    let hash = hash_text(&hash(&secret));
    mids::insert_enroll_token(&mut **tx, &app.new_id(), &hash, name, prevalidated, expires_at, mid_id).await?;
    let token = EnrollToken {
        instance_url: app.public_url.clone(),
        instance_id: app.instance_id.clone(),
        ca_pem: app.ca_pem.clone(),
        instance_key: app.signing_key.public(),
        secret,
    };
    Ok(token.encode())
}

fn shown(app: &App, mid: &MidView) -> Value {
    let heartbeat = mid.heartbeat.as_ref();
    json!({
        "id": mid.id,
        "name": mid.name,
        "state": mid.state,
        "live": mid.is_live(app.clock.boot()),
        "draining": mid.draining,
        "cloned": mid.is_cloned(app.now()),
        "last_seen_at": mid.last_seen_at,
        "created_at": mid.created_at,
        "program_version": heartbeat.map(|beat| beat.program_version.as_str()),
        "capacity": heartbeat.map(|beat| beat.capacity),
        "running": heartbeat.map(|beat| beat.running),
        "resolvers": heartbeat.map(|beat| beat.resolvers.as_slice()).unwrap_or_default(),
    })
}
