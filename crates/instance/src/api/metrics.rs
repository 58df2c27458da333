//! `/metrics`: for a client whose role may read them.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};

use crate::app::Shared;
use crate::auth;
use crate::client::Right;
use crate::metrics;
use crate::problem::Problem;
use crate::store::depth;

pub(super) async fn metrics(State(app): State<Shared>, headers: HeaderMap) -> Result<Response, Problem> {
    auth::allowed(&app, &headers, Right::ReadMetrics).await?;
    let depth = depth::depth(app.store.readers(), app.now()).await?;
    let now = app.clock.boot();
    let mids: Vec<_> =
        app.fleet.all().into_iter().map(|mid| (mid.is_live(now), mid)).map(|(live, mid)| (mid, live)).collect();
    let text = metrics::page(&app.counters, depth, &mids, app.tracer.counts());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
