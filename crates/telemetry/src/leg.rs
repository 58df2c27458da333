//! One program's leg of a trace: what came in, what is passed on, and what is recorded in between.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use midward_core::Random;
use tokio::sync::mpsc;

use crate::context::{SpanId, TraceContext, TraceId};
use crate::export::{Counts, SpanCounts};
use crate::span::{Span, SpanKind};

/// Begins and continues traces. Off, it records nothing and passes on what came.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    /// Traces that begin here are recorded when their random 56 bits are below it.
    threshold: u64,
    random: Arc<dyn Random>,
}

/// A program's part of one trace.
#[derive(Clone, Default)]
pub struct Leg {
    /// What whoever comes next is told. While this leg is recorded, it names the leg's own span.
    context: Option<TraceContext>,
    /// Who sent the call here.
    parent: Option<SpanId>,
    /// Present while spans are recorded.
    recorder: Option<Arc<Inner>>,
}

const RANDOM_BITS: u32 = 56;

impl Tracer {
    pub fn off() -> Self {
        Self(None)
    }

    pub(crate) fn new(queue: mpsc::Sender<Span>, counts: Arc<Counts>, ratio: f64, random: Arc<dyn Random>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of 2^56, which was checked to be between 0 and 1"
        )]
        let threshold = (ratio * (1_u64 << RANDOM_BITS) as f64) as u64;
        Self(Some(Arc::new(Inner { queue, counts, threshold, random })))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Goes on with the trace of a call that came in, or begins one. The caller's decision whether it is recorded
    /// stands; a trace that is not recorded is passed on as it came.
    pub fn enter(&self, incoming: Option<TraceContext>) -> Leg {
        let Some(inner) = &self.0 else { return Leg { context: incoming, ..Leg::default() } };
        match incoming {
            Some(context) if !context.is_sampled() => Leg { context: Some(context), ..Leg::default() },
            Some(context) => Leg {
                parent: Some(context.span_id),
                context: Some(context.at(SpanId::new(&*inner.random))),
                recorder: Some(Arc::clone(inner)),
            },
            None => {
                let trace_id = TraceId::new(&*inner.random);
                let is_sampled = trace_id.randomness() < inner.threshold;
                let context = TraceContext::new(trace_id, SpanId::new(&*inner.random), is_sampled);
                Leg { parent: None, context: Some(context), recorder: is_sampled.then(|| Arc::clone(inner)) }
            }
        }
    }

    /// For more spans of a leg that was entered elsewhere in this program, by what it passed on.
    pub fn within(&self, context: TraceContext) -> Leg {
        let recorder = self.0.as_ref().filter(|_| context.is_sampled()).map(Arc::clone);
        Leg { context: Some(context), parent: None, recorder }
    }

    /// What became of the spans; `None` when this is off.
    pub fn counts(&self) -> Option<SpanCounts> {
        self.0.as_ref().map(|inner| inner.counts.read())
    }
}

impl Leg {
    pub fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    pub fn is_recorded(&self) -> bool {
        self.recorder.is_some()
    }

    /// The leg's own span, from `begin` to `end` in unix nanoseconds; `None` when nothing is recorded.
    pub fn whole(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, begin: u64, end: u64) -> Option<Span> {
        let context = self.context.as_ref().filter(|_| self.recorder.is_some())?;
        Some(span(context, self.parent, name.into(), kind, (begin, end)))
    }

    /// A step inside.
    pub fn step(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, begin: u64, end: u64) -> Option<Span> {
        let of = self.branch()?;
        self.step_at(&of, name, kind, begin, end)
    }

    /// The place of a step that calls somebody, to be told to them; its span follows by [`Self::step_at`].
    pub fn branch(&self) -> Option<TraceContext> {
        let inner = self.recorder.as_ref()?;
        self.context.as_ref().map(|context| context.at(SpanId::new(&*inner.random)))
    }

    pub fn step_at(
        &self,
        of: &TraceContext,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        begin: u64,
        end: u64,
    ) -> Option<Span> {
        let context = self.context.as_ref().filter(|_| self.recorder.is_some())?;
        Some(span(of, Some(context.span_id), name.into(), kind, (begin, end)))
    }

    /// Hands a span over to be sent. Never waits: where there is no room it is dropped, and counted.
    pub fn record(&self, span: impl Into<Option<Span>>) {
        let (Some(inner), Some(span)) = (&self.recorder, span.into()) else { return };
        if inner.queue.try_send(span).is_err() {
            inner.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn span(
    context: &TraceContext,
    parent: Option<SpanId>,
    name: Cow<'static, str>,
    kind: SpanKind,
    (begin, end): (u64, u64),
) -> Span {
    Span {
        trace_id: context.trace_id,
        id: context.span_id,
        parent,
        name,
        kind,
        begin,
        end: end.max(begin),
        attributes: Vec::new(),
        events: Vec::new(),
        failed: false,
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tracer").field(&self.is_on()).finish()
    }
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg")
            .field("context", &self.context)
            .field("recorded", &self.is_recorded())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use midward_core::SeededRandom;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(ratio: f64, room: usize) -> (Tracer, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(room);
        (Tracer::new(queue, Arc::default(), ratio, Arc::new(SeededRandom::new(1))), spans)
    }

    fn incoming(flags: &str) -> Option<TraceContext> {
        TraceContext::of([("traceparent", &*GOOD.replace("-01", flags)), ("tracestate", "a=1")])
    }

    #[test]
    fn a_callers_trace_goes_on_with_a_span_of_ours() {
        let (tracer, mut spans) = tracer(0.0, 8);
        let leg = tracer.enter(incoming("-01"));
        let context = leg.context().expect("a context");
        assert_eq!(context.trace_id, incoming("-01").expect("good").trace_id);
        assert_ne!(context.span_id, incoming("-01").expect("good").span_id);
        assert_eq!(context.tracestate(), Some("a=1"));
        let branch = leg.branch().expect("recorded");
        leg.record(leg.step_at(&branch, "GET", SpanKind::Client, 3, 4));
        leg.record(tracer.within(context.clone()).step("queue", SpanKind::Internal, 1, 2));
        leg.record(leg.whole("call", SpanKind::Server, 5, 1));
        let (step, queue, whole) = (spans.try_recv(), spans.try_recv(), spans.try_recv());
        let (step, queue, whole) = (step.expect("a step"), queue.expect("a step"), whole.expect("the leg"));
        assert_eq!((step.id, step.parent), (branch.span_id, Some(context.span_id)));
        assert_eq!(queue.parent, Some(context.span_id));
        assert_eq!((whole.id, whole.parent), (context.span_id, incoming("-01").map(|context| context.span_id)));
        assert_eq!((whole.begin, whole.end), (5, 5), "a step does not end before it begins");
    }

    #[test]
    fn what_a_caller_does_not_record_passes_as_it_came() {
        for tracer in [tracer(1.0, 8).0, Tracer::off()] {
            let leg = tracer.enter(incoming("-00"));
            assert!(!leg.is_recorded() && leg.whole("call", SpanKind::Server, 0, 1).is_none());
            assert_eq!(leg.context(), incoming("-00").as_ref());
            assert!(leg.branch().is_none());
        }
        let off = Tracer::off();
        assert_eq!(off.enter(incoming("-01")).context(), incoming("-01").as_ref());
        assert!(off.enter(None).context().is_none() && off.counts().is_none());
        assert!(!off.within(incoming("-01").expect("good")).is_recorded());
    }

    #[test]
    fn the_ratio_is_of_traces_that_begin_here_and_told_on() {
        for (ratio, low, high) in [(0.0, 0, 0), (0.25, 1_700, 3_300), (1.0, 10_000, 10_000)] {
            let (tracer, _spans) = tracer(ratio, 8);
            let legs: Vec<Leg> = (0..10_000).map(|_| tracer.enter(None)).collect();
            let recorded = legs.iter().filter(|leg| leg.is_recorded()).count();
            assert!((low..=high).contains(&recorded), "{recorded} of 10000 at {ratio}");
            assert!(legs.iter().all(|leg| leg.context().is_some_and(|c| c.is_sampled() == leg.is_recorded())));
        }
    }

    #[test]
    fn without_room_a_span_is_dropped_and_counted() {
        let (tracer, mut spans) = tracer(1.0, 2);
        let leg = tracer.enter(None);
        for _ in 0..5 {
            leg.record(leg.step("s", SpanKind::Internal, 0, 1));
        }
        assert_eq!(tracer.counts().expect("on").dropped, 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }
}
