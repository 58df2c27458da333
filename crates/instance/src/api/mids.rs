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
    if !(1..=7 * 86_400).contains(&request.ttl_seconds) {
        return Err(Problem::bad_request(
            "invalid_ttl",
            "ttl_seconds is not between 1 and 604800",
            "Choose a shorter time.",
        ));
    }
    let secret = new_secret("", &*app.random);
    let expires_at = (app.clock.wall() + Duration::from_secs(request.ttl_seconds)).unix_millis();
    let mut tx = app.store.begin().await?;
    let hash = hash_text(&hash(&secret));
    let name = request.name.as_deref();
    mids::insert_enroll_token(&mut *tx, &app.new_id(), &hash, name, request.prevalidated, expires_at).await?;
    let details = json!({ "name": name, "prevalidated": request.prevalidated, "expires_at": expires_at });
    let pending = app.audit.change(&mut tx, app.now(), &client, "enroll_token_made", details).await?;
    tx.commit().await?;
    pending.settle();
    let token = EnrollToken {
        instance_url: app.public_url.clone(),
        instance_id: app.instance_id.clone(),
        ca_pem: app.ca_pem.clone(),
        instance_key: app.signing_key.public(),
        secret,
    };
    Ok((StatusCode::CREATED, Json(json!({ "token": token.encode(), "expires_at": expires_at }))))
}

fn shown(app: &App, mid: &MidView) -> Value {
    let heartbeat = mid.heartbeat.as_ref();
    json!({
        "id": mid.id,
        "name": mid.name,
        "state": mid.state,
        "live": mid.is_live(app.clock.boot()),
        "draining": mid.draining,
        "last_seen_at": mid.last_seen_at,
        "created_at": mid.created_at,
        "program_version": heartbeat.map(|beat| beat.program_version.as_str()),
        "capacity": heartbeat.map(|beat| beat.capacity),
        "running": heartbeat.map(|beat| beat.running),
        "resolvers": heartbeat.map(|beat| beat.resolvers.as_slice()).unwrap_or_default(),
    })
}
