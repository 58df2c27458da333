//! What the API does for a request whose token is good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::http::{Body, Dropped, full, json, respond, text};

/// The largest answer of `/api/bytes/{n}`.
const BYTES_LIMIT: usize = 1024 * 1024 * 1024;

pub(super) async fn answer(
    counter: &AtomicU64,
    parts: &Parts,
    body: &[u8],
    token: &str,
) -> Result<Response<Body>, Dropped> {
    let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    Ok(match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["api", "hello"]) => json(StatusCode::OK, &json!({ "hello": "world" })),
        (_, ["api", "echo", ..]) => json(StatusCode::OK, &echo(parts, body)),
        (_, ["api", "status", code]) => {
            let code = code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            // 1xx is not an answer.
            match code.filter(|code| !code.is_informational()) {
                Some(code) => json(code, &json!({ "status": code.as_u16() })),
                None => not_found(),
            }
        }
        (_, ["api", "slow", millis]) => match millis.parse() {
            Ok(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                json(StatusCode::OK, &json!({ "slept_ms": millis }))
            }
            Err(_) => not_found(),
        },
        (_, ["api", "bytes", count]) => match count.parse::<usize>() {
            Ok(count) if count <= BYTES_LIMIT => respond(StatusCode::OK, "application/octet-stream", vec![b'x'; count]),
            _ => not_found(),
        },
        (&Method::POST, ["api", "counter"]) => {
            json(StatusCode::OK, &json!({ "count": counter.fetch_add(1, Ordering::SeqCst) + 1 }))
        }
        (&Method::GET, ["api", "counter"]) => json(StatusCode::OK, &json!({ "count": counter.load(Ordering::SeqCst) })),
        (_, ["api", "redirect"]) => {
            let mut response = text(StatusCode::FOUND, "elsewhere\n");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/api/hello"));
            response
        }
        (_, ["api", "echo-token"]) => echo_token(token),
        _ => not_found(),
    })
}

fn echo(parts: &Parts, body: &[u8]) -> Value {
    let mut headers = Map::new();
    for name in parts.headers.keys().filter(|name| *name != AUTHORIZATION) {
        let values: Vec<_> =
            parts.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        headers.insert(name.to_string(), json!(values.join(", ")));
    }
    json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "query": parts.uri.query(),
        "headers": headers,
        "body": String::from_utf8_lossy(body),
    })
}

/// Hostile to order: gives the caller's token away, in a header and in the body.
fn echo_token(token: &str) -> Response<Body> {
    let mut response = Response::new(full(json!({ "token": token }).to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(value) = HeaderValue::try_from(token) {
        response.headers_mut().insert("x-echoed-token", value);
    }
    response
}

fn not_found() -> Response<Body> {
    json(StatusCode::NOT_FOUND, &json!({ "error": "no such endpoint" }))
}
