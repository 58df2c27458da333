//! The MID Server's leg of a call's trace (W3C Trace Context, OpenTelemetry). The steps are those that the outcome tells
//! anyhow; the API is told the span of its own call.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use midward_core::{BootTime, Clock, Failure, Hop, HopTiming, Trace};
use midward_telemetry::{Leg, Span, SpanKind, TRACEPARENT, TRACESTATE, TimeBase, TraceContext, Tracer};
use midward_wire::{LeaseGrant, Outcome};
use url::Url;

use crate::policy::{Permit, PermittedCall};

/// What a call leaves in its trace.
pub(crate) struct CallSpans {
    leg: Leg,
    /// Present while spans are recorded.
    recording: Option<Recording>,
}

struct Recording {
    base: TimeBase,
    began: BootTime,
    request: String,
    connection: String,
    token_server: Option<String>,
    /// How many steps the trace had at which time: they end there, one after the other.
    marks: Vec<(usize, BootTime)>,
}

/// One attempt at the API.
pub(crate) struct Attempt<'a> {
    /// The call, with the headers of its place in the trace.
    pub(crate) call: Cow<'a, PermittedCall>,
    place: Option<TraceContext>,
    began: BootTime,
}

impl CallSpans {
    /// Takes the trace's headers out of the call: each attempt gets its own.
    pub(crate) fn enter(tracer: &Tracer, grant: &mut LeaseGrant, clock: &dyn Clock) -> Self {
        let leg = tracer.enter(TraceContext::take(&mut grant.call.headers));
        let recording = leg.is_recorded().then(|| Recording {
            base: TimeBase::new(clock),
            began: clock.boot(),
            request: grant.request_id.clone(),
            connection: String::new(),
            token_server: None,
            marks: Vec::new(),
        });
        Self { leg, recording }
    }

    /// Puts the trace's identifier beside what is logged about the call.
    pub(crate) fn log(&self, request: &str) -> tracing::Span {
        match self.leg.context() {
            Some(context) => tracing::info_span!("call", request, trace_id = %context.trace_id),
            None => tracing::Span::none(),
        }
    }

    pub(crate) fn permitted(&mut self, connection: &str, permit: &Permit, trace: &Trace, now: BootTime) {
        if let Some(recording) = &mut self.recording {
            connection.clone_into(&mut recording.connection);
            recording.token_server = permit.token_url.as_ref().and_then(Url::host_str).map(str::to_owned);
        }
        self.mark(trace, now);
    }

    /// The steps that the trace has gained end now.
    pub(crate) fn mark(&mut self, trace: &Trace, now: BootTime) {
        if let Some(recording) = &mut self.recording {
            recording.marks.push((trace.0.len(), now));
        }
    }

    /// Nobody got a token.
    pub(crate) fn no_token(&self, failure: &Failure, began: BootTime, now: BootTime) {
        let Some(recording) = &self.recording else { return };
        let (begin, end) = (recording.base.at(began), recording.base.at(now));
        let span = self.leg.step("token", SpanKind::Internal, begin, end);
        self.leg.record(span.map(|span| failed(span, failure)));
    }

    pub(crate) fn attempt<'a>(&self, call: &'a PermittedCall, now: BootTime) -> Attempt<'a> {
        let place = self.leg.branch();
        let call = match place.as_ref().or(self.leg.context()) {
            Some(context) => {
                let mut call = call.clone();
                insert(&mut call.headers, context);
                Cow::Owned(call)
            }
            None => Cow::Borrowed(call),
        };
        Attempt { call, place, began: now }
    }

    pub(crate) fn answered(&self, attempt: &Attempt<'_>, result: Result<u16, &Failure>, now: BootTime) {
        let (Some(recording), Some(place)) = (&self.recording, &attempt.place) else { return };
        let (begin, end) = (recording.base.at(attempt.began), recording.base.at(now));
        let name = known_method(attempt.call.method.as_str());
        let Some(span) = self.leg.step_at(place, name, SpanKind::Client, begin, end) else { return };
        // Neither path nor query: they may hold anything.
        let target = &attempt.call.target;
        let mut span = span
            .with("http.request.method", name)
            .with("url.scheme", target.scheme().to_owned())
            .with("server.address", target.host_str().unwrap_or_default().to_owned());
        if let Some(port) = target.port_or_known_default() {
            span.set("server.port", port);
        }
        self.leg.record(match result {
            Ok(status) if status < 400 => span.with("http.response.status_code", status),
            Ok(status) => span.with("http.response.status_code", status).failed(status.to_string()),
            Err(failure) => failed(span, failure),
        });
    }

    pub(crate) fn end(self, trace: &Trace, outcome: &Outcome, now: BootTime) {
        let Some(mut recording) = self.recording else { return };
        recording.marks.push((trace.0.len(), now));
        let base = recording.base;
        let whole = self.leg.whole("midward call", SpanKind::Consumer, base.at(recording.began), base.at(now));
        let Some(mut whole) = whole else { return };
        for (step, (begin, end)) in trace.0.iter().zip(times(trace, &recording.marks)) {
            match step_span(step) {
                // It has a span of its own.
                _ if step.hop == Hop::Api => {}
                None => whole.event(base.at(end), step.what.clone()),
                Some((name, kind)) => {
                    let span = self.leg.step(name, kind, base.at(begin), base.at(end));
                    let mut span = span.map(|span| span.with("midward.step", step.what.clone()));
                    let server = recording.token_server.as_ref().filter(|_| step.hop == Hop::AuthorizationServer);
                    if let (Some(span), Some(server)) = (&mut span, server) {
                        span.set("server.address", server.clone());
                    }
                    self.leg.record(span);
                }
            }
        }
        whole.set("midward.request.id", recording.request);
        if !recording.connection.is_empty() {
            whole.set("midward.connection", recording.connection);
        }
        self.leg.record(match outcome {
            Outcome::Replied { reply } => whole.with("http.response.status_code", reply.status),
            Outcome::Failed { failure } | Outcome::Unknown { failure } => failed(whole, failure),
        });
    }
}

fn failed(span: Span, failure: &Failure) -> Span {
    span.with("midward.hop", failure.hop.name()).failed(failure.code.clone())
}

/// In place of whatever the caller wrote there.
fn insert(headers: &mut HeaderMap, context: &TraceContext) {
    let state = context.tracestate().map(str::to_owned);
    for (name, value) in [(TRACEPARENT, Some(context.traceparent())), (TRACESTATE, state)] {
        let name = HeaderName::from_static(name);
        match value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            Some(value) => headers.insert(name, value),
            None => headers.remove(name),
        };
    }
}

/// Span and attribute are one of a few names, whatever is asked for (OpenTelemetry semantic conventions for HTTP).
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    KNOWN.iter().find(|known| **known == method).copied().unwrap_or("_OTHER")
}

/// `None`: a moment, which needs no span.
fn step_span(step: &HopTiming) -> Option<(&'static str, SpanKind)> {
    match step.hop {
        Hop::Policy => Some(("policy", SpanKind::Internal)),
        Hop::Resolver => Some(("resolver", SpanKind::Internal)),
        Hop::Vault => Some(("vault", SpanKind::Client)),
        Hop::AuthorizationServer => Some(("token request", SpanKind::Client)),
        Hop::Mid if step.micros > 0 => Some(("wait", SpanKind::Internal)),
        Hop::Mid | Hop::Api | Hop::Caller | Hop::Instance => None,
    }
}

/// Begin and end of each step. The trace tells how long each took; those up to a mark end there, one after the other.
fn times(trace: &Trace, marks: &[(usize, BootTime)]) -> Vec<(BootTime, BootTime)> {
    let mut times = vec![(BootTime::default(), BootTime::default()); trace.0.len()];
    let mut first = 0;
    for (count, at) in marks {
        let count = (*count).min(times.len());
        let mut end = *at;
        for (time, step) in times[first..count].iter_mut().zip(&trace.0[first..count]).rev() {
            let begin = end.saturating_sub(std::time::Duration::from_micros(step.micros));
            *time = (begin, end);
            end = begin;
        }
        first = first.max(count);
    }
    times
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn steps_end_at_their_mark_one_after_the_other() {
        let mut trace = Trace::default();
        for (hop, millis) in [(Hop::Policy, 1), (Hop::Vault, 20), (Hop::AuthorizationServer, 30), (Hop::Api, 40)] {
            trace.push(hop, "x", Duration::from_millis(millis));
        }
        let at = |millis| BootTime::from_duration(Duration::from_millis(millis));
        let found = times(&trace, &[(1, at(101)), (3, at(160)), (3, at(161)), (4, at(210))]);
        assert_eq!(found, [(at(100), at(101)), (at(110), at(130)), (at(130), at(160)), (at(170), at(210))],);
    }

    #[test]
    fn an_unknown_method_is_not_repeated() {
        assert_eq!(known_method("PATCH"), "PATCH");
        assert_eq!(known_method("canary"), "_OTHER");
    }

    #[test]
    fn the_callers_own_place_does_not_go_on_beside_ours() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static("old"));
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        insert(&mut headers, &TraceContext::of([(TRACEPARENT, context)]).expect("good"));
        assert_eq!(headers.get_all(TRACEPARENT).iter().collect::<Vec<_>>(), [context]);
        assert!(!headers.contains_key(TRACESTATE));
    }
}
