//! OTLP as JSON (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding"): identifiers in hexadecimal, 64-bit numbers as
//! text, enumerations as numbers.

use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::span::{Span, Value};

/// Status code of a span that failed.
const ERROR: u8 = 2;
/// The caller said whether the trace is recorded, and it is (`SpanFlags`: sampled).
const FLAGS: u32 = 0x01;

/// Who the spans are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub service_name: String,
    pub service_version: &'static str,
    /// One run of the program.
    pub service_instance_id: String,
}

/// The body of a request to `/v1/traces`.
pub(crate) fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let attributes = [
        Attribute::text("service.name", &resource.service_name),
        Attribute::text("service.version", resource.service_version),
        Attribute::text("service.instance.id", &resource.service_instance_id),
    ];
    let scope = Scope { name: "midward", version: resource.service_version };
    let request = Request {
        resource_spans: [ResourceSpans {
            resource: Attributes { attributes: &attributes },
            scope_spans: [ScopeSpans { scope, spans: Spans(spans) }],
        }],
    };
    // Strings, numbers and lists: nothing in it can fail.
    serde_json::to_vec(&request).unwrap_or_default()
}

/// How many spans a collector did not want, from the body of its answer (`partialSuccess`).
pub(crate) fn rejected(answer: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "partialSuccess")]
        partial: Option<Partial>,
    }
    #[derive(Deserialize)]
    struct Partial {
        #[serde(rename = "rejectedSpans", default)]
        rejected: Option<Number>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Text(String),
        Plain(u64),
    }
    let answer = serde_json::from_slice::<Answer>(answer).ok();
    match answer.and_then(|answer| answer.partial).and_then(|partial| partial.rejected) {
        Some(Number::Text(text)) => text.parse().unwrap_or(0),
        Some(Number::Plain(number)) => number,
        None => 0,
    }
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "resourceSpans")]
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
struct ResourceSpans<'a> {
    resource: Attributes<'a>,
    #[serde(rename = "scopeSpans")]
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Spans<'a>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Attributes<'a> {
    attributes: &'a [Attribute<'a>],
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
enum AnyValue<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "intValue")]
    Number(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanText<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    time_unix_nano: String,
    name: &'a str,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

struct Spans<'a>(&'a [Span]);

impl Serialize for Spans<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for span in self.0 {
            list.serialize_element(&SpanText::of(span))?;
        }
        list.end()
    }
}

impl<'a> Attribute<'a> {
    fn text(key: &'a str, value: &'a str) -> Self {
        Self { key, value: AnyValue::Text(value) }
    }

    fn of(key: &'a str, value: &'a Value) -> Self {
        let value = match value {
            Value::Text(text) => AnyValue::Text(text),
            Value::Number(number) => AnyValue::Number(number.to_string()),
        };
        Self { key, value }
    }
}

impl<'a> SpanText<'a> {
    fn of(span: &'a Span) -> Self {
        Self {
            trace_id: span.trace_id.to_string(),
            span_id: span.id.to_string(),
            parent_span_id: span.parent.map(|parent| parent.to_string()),
            flags: FLAGS,
            name: &span.name,
            kind: span.kind.number(),
            start_time_unix_nano: span.begin.to_string(),
            end_time_unix_nano: span.end.to_string(),
            attributes: span.attributes.iter().map(|(key, value)| Attribute::of(key, value)).collect(),
            events: span.events.iter().map(|(at, name)| Event { time_unix_nano: at.to_string(), name }).collect(),
            status: span.failed.then_some(Status { code: ERROR }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::context::{SpanId, TraceId};
    use crate::span::SpanKind;

    #[test]
    fn spans_are_encoded_as_the_protocol_says() {
        let mut span = Span {
            trace_id: TraceId([0x5b; 16]),
            id: SpanId([0x0e; 8]),
            parent: Some(SpanId([0xee; 8])),
            name: "GET".into(),
            kind: SpanKind::Client,
            begin: 1_544_712_660_000_000_000,
            end: 1_544_712_661_000_000_000,
            attributes: Vec::new(),
            events: Vec::new(),
            failed: false,
        };
        span.set("http.response.status_code", 404_u16);
        span.event(1_544_712_660_500_000_000, "token from cache");
        let resource = Resource {
            service_name: "midward-mid".to_owned(),
            service_version: "1.2.3",
            service_instance_id: "i".to_owned(),
        };
        let root = Span { parent: None, events: Vec::new(), ..span.clone() };
        let text = encode(&resource, &[span.failed("404"), root]);
        let text: Json = serde_json::from_slice(&text).expect("JSON");
        let whole = &text["resourceSpans"][0];
        assert_eq!(
            whole["resource"]["attributes"][0],
            json!({ "key": "service.name", "value": { "stringValue": "midward-mid" } })
        );
        assert_eq!(
            whole["scopeSpans"][0]["spans"][0],
            json!({
                "traceId": "5b".repeat(16), "spanId": "0e".repeat(8), "parentSpanId": "ee".repeat(8), "flags": 1,
                "name": "GET", "kind": 3,
                "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000",
                "attributes": [
                    { "key": "http.response.status_code", "value": { "intValue": "404" } },
                    { "key": "error.type", "value": { "stringValue": "404" } },
                ],
                "events": [{ "timeUnixNano": "1544712660500000000", "name": "token from cache" }],
                "status": { "code": 2 },
            })
        );
        let root = whole["scopeSpans"][0]["spans"][1].as_object().expect("a span");
        assert!(["parentSpanId", "events", "status"].iter().all(|absent| !root.contains_key(*absent)), "{root:?}");
    }

    #[test]
    fn a_partial_success_says_what_was_not_wanted() {
        for (answer, expected) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
            (r#"{"partialSuccess":{}}"#, 0),
            ("{}", 0),
            ("", 0),
            ("<html>", 0),
        ] {
            assert_eq!(rejected(answer.as_bytes()), expected, "{answer}");
        }
    }
}
