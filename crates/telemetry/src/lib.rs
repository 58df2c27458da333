//! What instance and MID tell about themselves alike: W3C trace context, spans, their way to an OpenTelemetry collector
//! (OTLP over HTTP, as JSON), and the form of logs. Pure but for the task that sends; who dials is a parameter.

mod config;
mod context;
mod export;
mod leg;
mod otlp;
mod span;
mod tracestate;

pub use config::{LogFormat, TelemetryConfig, TelemetryProxy, UnknownLogFormat};
pub use context::{SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
pub use export::{BoxFuture, Collector, Exporter, FLUSH, NotTaken, SpanCounts, start};
pub use leg::{Leg, Tracer};
pub use otlp::Resource;
pub use span::{Span, SpanKind, TimeBase, Value};
