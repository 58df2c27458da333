//! What goes on of a caller's trace, and what the figures say of a call. Nothing is exported here.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid};
use super::with_document;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// The headers of a trace that a MID is given of a synchronous call with `sent`.
async fn passed_on(instance: &Instance, mid: &mut ScriptedMid, sent: Pairs<'_>) -> Vec<(String, String)> {
    let mut request = instance.call(Method::GET, "crm/call/items");
    for (name, value) in sent {
        request = request.header(*name, *value);
    }
    let request = request.body(Bytes::new()).expect("a request");
    let (answer, headers) = tokio::join!(instance.send(request), async {
        let leases = mid.poll(instance, 5000, true).await;
        let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
        assert_eq!(mid.report(instance, &lease.request_id, lease.epoch, "x").await, "accepted");
        lease.call.headers.clone()
    });
    assert_eq!(answer.status(), 201);
    headers
}

pub(crate) async fn a_callers_trace_goes_on_once_and_a_bad_one_does_not(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sent: [(Pairs<'_>, Vec<(String, String)>); 5] = [
        (
            &[("traceparent", PARENT), ("tracestate", "a=1")],
            vec![pair("traceparent", PARENT), pair("tracestate", "a=1")],
        ),
        (&[("traceparent", PARENT), ("tracestate", "A")], vec![pair("traceparent", PARENT)]),
        (&[("traceparent", "00-00-00-01"), ("tracestate", "a=1")], vec![]),
        (&[("traceparent", PARENT), ("traceparent", OTHER)], vec![]),
        (&[("tracestate", "a=1")], vec![]),
    ];
    for (sent, expected) in sent {
        assert_eq!(passed_on(&instance, &mut mid, sent).await, expected, "{sent:?}");
    }
    instance.stop().await;
}

pub(crate) async fn a_queued_request_keeps_its_trace_and_its_idempotency_key(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let submit = async |own: Value, head: Option<&str>| {
        let body = json!({"connection": "crm", "method": "GET", "path": "/", "headers": own, "idempotency_key": "k"});
        let mut request = http::Request::post(format!("{}/api/v1/requests", instance.started.public_url))
            .header("authorization", format!("Bearer {}", instance.key));
        if let Some(head) = head {
            request = request.header("traceparent", head);
        }
        let answer = instance.send(request.body(Bytes::from(body.to_string())).expect("a request")).await;
        answer.status().as_u16()
    };
    // The request's own head says where it belongs, whatever the list says.
    assert_eq!(submit(json!([["TraceParent", OTHER], ["x-a", "1"]]), Some(PARENT)).await, 202);
    assert_eq!(submit(json!([["x-a", "1"]]), Some(OTHER)).await, 200, "the same request, from another place");
    assert_eq!(submit(json!([["traceparent", PARENT], ["x-a", "1"]]), None).await, 200);
    assert_eq!(submit(json!([["x-a", "2"]]), Some(PARENT)).await, 422, "another request");
    let leases = mid.poll(&instance, 5000, true).await;
    let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(lease.call.headers, [pair("x-a", "1"), pair("traceparent", PARENT)]);
    instance.stop().await;
}

pub(crate) async fn the_figures_tell_how_long_a_call_waited_and_ran(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    assert_eq!(passed_on(&instance, &mut mid, &[]).await, []);
    // Queued while no MID polls, and given out by the database.
    super::submit(&instance, "GET").await;
    let leases = mid.poll(&instance, 5000, false).await;
    let again = mid.poll(&instance, 5000, true).await;
    assert_eq!((leases.len(), again.len()), (1, 1), "delivered twice, given once");
    assert_eq!(mid.report(&instance, &leases[0].request_id, 1, "x").await, "accepted");
    let request = http::Request::get(format!("{}/metrics", instance.started.public_url))
        .header("authorization", format!("Bearer {}", instance.key));
    let answer = instance.send(request.body(Bytes::new()).expect("a request")).await;
    let text = String::from_utf8(answer.body().to_vec()).expect("text");
    for line in [
        "# TYPE midward_dispatch_seconds histogram",
        "midward_dispatch_seconds_bucket{le=\"+Inf\"} 2",
        "midward_dispatch_seconds_count 2",
        "midward_execution_seconds_count 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
    assert!(!text.contains("midward_trace_spans_total"), "off");
    instance.stop().await;
}

pub(crate) async fn no_answer_of_the_call_listener_is_anything_to_a_browser(place: Place) {
    let instance = with_document(&place).await;
    ScriptedMid::working(&instance, "mid-a").await;
    let at = |path: &str| http::Request::post(format!("{}{path}", instance.started.call_url));
    let mine = format!("Bearer {}", instance.key);
    let call = "/api/v1/connections/crm/call/x";
    let large = Bytes::from(vec![b'x'; 100_000]);
    for (request, body, status) in [
        (at("/"), Bytes::new(), 404),
        (at("/api/v1/connections/%FF/call"), Bytes::new(), 400),
        (at(call), Bytes::new(), 401),
        (at(call).header("authorization", &mine).header("midward-wait-ms", "x"), Bytes::new(), 400),
        (at("/api/v1/connections/none/call/x").header("authorization", &mine), Bytes::new(), 404),
        (at(call).header("authorization", &mine), large, 413),
        (at("/healthz"), Bytes::new(), 405),
    ] {
        let answer = instance.send(request.body(body).expect("a request")).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{status}");
        assert_eq!(answer.headers()["content-security-policy"], "sandbox", "{status}");
    }
    instance.stop().await;
}
