//! The instance's leg of a call's trace: the request that came in, and what the instance does before a MID has it. What is
//! in it is listed in the manual: no path, no query, no header, no body.

use axum::http::{HeaderMap, Method, StatusCode};
use midward_core::{BootTime, Failure, Hop};
use midward_telemetry::{Leg, SpanKind, TimeBase, TraceContext};
use midward_wire::ApiCall;

use crate::app::App;

/// A request to submit something, from its head to its answer.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    leg: Leg,
    began: BootTime,
}

/// How it was answered.
pub(crate) struct Answered<'a> {
    pub(crate) method: &'a Method,
    /// The route's pattern.
    pub(crate) route: &'static str,
    pub(crate) request_id: &'a str,
    /// Only one that the client may call.
    pub(crate) connection: Option<&'a str>,
    pub(crate) status: StatusCode,
    /// Midward's own, where the answer is not the API's.
    pub(crate) failure: Option<&'a Failure>,
}

impl Traced {
    /// Only for clients that are known: a stranger fills no collector. The trace is the head's, else the call's own.
    pub(crate) fn enter(app: &App, began: BootTime, headers: &HeaderMap, call: Option<TraceContext>) -> Self {
        let readable = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        Self { leg: app.tracer.enter(TraceContext::of(readable).or(call)), began }
    }

    /// The MID goes on from here. An older one hands the header on to the API, as any hop may.
    pub(crate) fn put(&self, call: &mut ApiCall) {
        if let Some(context) = self.leg.context() {
            context.put(&mut call.headers);
        }
    }

    /// Puts the trace's identifier beside what is logged meanwhile.
    pub(crate) fn log(&self, request_id: &str) -> tracing::Span {
        match self.leg.context() {
            Some(context) => tracing::info_span!("call", request = request_id, trace_id = %context.trace_id),
            None => tracing::Span::none(),
        }
    }

    /// The commit of the request, from `since` until now.
    pub(crate) fn submitted(&self, app: &App, since: BootTime) {
        if self.leg.is_recorded() {
            let base = TimeBase::new(&*app.clock);
            let span = self.leg.step("submit", SpanKind::Internal, base.at(since), base.at(app.clock.boot()));
            self.leg.record(span);
        }
    }

    pub(crate) fn end(&self, app: &App, answered: &Answered<'_>) {
        if !self.leg.is_recorded() {
            return;
        }
        let base = TimeBase::new(&*app.clock);
        let method = known_method(answered.method);
        let name = format!("{method} {}", answered.route);
        let span = self.leg.whole(name, SpanKind::Server, base.at(self.began), base.at(app.clock.boot()));
        let Some(mut span) = span else { return };
        span.set("http.request.method", method);
        span.set("http.route", answered.route);
        span.set("http.response.status_code", answered.status.as_u16());
        span.set("midward.request.id", answered.request_id.to_owned());
        if let Some(connection) = answered.connection {
            span.set("midward.connection", connection.to_owned());
        }
        self.leg.record(match answered.failure {
            Some(failure) if failure.hop != Hop::Caller => {
                span.with("midward.hop", failure.hop.name()).failed(failure.code.clone())
            }
            Some(failure) => span.with("error.type", failure.code.clone()),
            None if answered.status.is_server_error() => span.failed(answered.status.as_u16().to_string()),
            None => span,
        });
    }
}

/// One of a few names, whatever a caller sends (OpenTelemetry semantic conventions for HTTP).
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    KNOWN.iter().find(|known| **known == method.as_str()).copied().unwrap_or("_OTHER")
}
