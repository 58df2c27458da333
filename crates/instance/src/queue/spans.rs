//! Queue and lease as steps of the calls' traces. A trace is found in the headers of the stored call, so whichever replica
//! gives the lease has it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use midward_core::{BootTime, Clock};
use midward_telemetry::{Leg, SpanKind, TRACEPARENT, TimeBase, TraceContext, Tracer};
use serde::Deserialize;

use crate::store::leases::{Call, Leased};

/// Most leases whose end is waited for; others get no span.
const MOST_HELD: usize = 8192;
/// An end that another replica is told of never comes here.
const FORGET_AFTER: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(crate) struct LeaseSpans {
    tracer: Tracer,
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    leg: Leg,
    since: BootTime,
    mid_id: String,
}

impl LeaseSpans {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self { tracer, held: Mutex::default() }
    }

    /// A MID is given a request, after so long in the queue.
    pub(super) fn leased(&self, lease: &Leased, mid_id: &str, in_queue: Duration, clock: &dyn Clock) {
        if !self.tracer.is_on() {
            return;
        }
        // What waited encrypted or in pieces is not read here, so that the queue waits for no body: it has no such spans.
        let text = match &lease.call {
            Call::Plain(text) => text.as_str(),
            Call::Stored(text) => text.as_str(),
        };
        let Some(context) = context(text).filter(TraceContext::is_sampled) else { return };
        let leg = self.tracer.within(context);
        let since = clock.boot();
        let base = TimeBase::new(clock);
        let span = leg.step("queue", SpanKind::Internal, base.at(since.saturating_sub(in_queue)), base.at(since));
        leg.record(span.map(|span| span.with("midward.request.id", lease.id.clone())));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MOST_HELD {
            held.retain(|_, held| since.saturating_since(held.since) < FORGET_AFTER);
        }
        if held.len() < MOST_HELD {
            held.insert(lease.id.clone(), Held { leg, since, mid_id: mid_id.to_owned() });
        }
    }

    /// A request has ended, or goes back into the queue.
    pub(super) fn ended(&self, id: &str, clock: &dyn Clock) {
        if !self.tracer.is_on() {
            return;
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let Some(Held { leg, since, mid_id }) = held else { return };
        let base = TimeBase::new(clock);
        let span = leg.step("lease", SpanKind::Internal, base.at(since), base.at(clock.boot()));
        leg.record(span.map(|span| span.with("midward.request.id", id.to_owned()).with("midward.mid.id", mid_id)));
    }
}

/// The trace of a stored call.
fn context(call_json: &str) -> Option<TraceContext> {
    #[derive(Deserialize)]
    struct Call<'a> {
        #[serde(borrow, default)]
        headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    }
    // Written by this program, the headers come before the body, which may be large.
    let (head, _) = call_json.split_once(",\"body\":")?;
    if !head.contains(TRACEPARENT) {
        return None;
    }
    let head = format!("{head}}}");
    let call: Call<'_> = serde_json::from_str(&head).ok()?;
    TraceContext::of(call.headers.iter().map(|(name, value)| (&**name, &**value)))
}

#[cfg(test)]
mod tests {
    use midward_wire::{ApiCall, Bytes64, ReplayRule};

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_trace_is_read_from_the_stored_call() {
        let mut call = ApiCall {
            method: "POST".to_owned(),
            path: "/a".to_owned(),
            headers: vec![("x-a".to_owned(), "\"quoted\",\"body\":\"".to_owned())],
            body: Bytes64(b"body".to_vec()),
            replay: ReplayRule::ByMethod,
        };
        let stored = |call: &ApiCall| serde_json::to_string(call).expect("JSON");
        assert_eq!(context(&stored(&call)), None);
        call.headers.push((TRACEPARENT.to_owned(), GOOD.to_owned()));
        assert_eq!(context(&stored(&call)).expect("a trace").traceparent(), GOOD);
    }
}
