//! Faults that any HTTP fake can be told to show.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::BodyExt as _;
use http_body_util::Either;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;

use crate::http::{Body, Dropped, Wire, full, read_body, respond, text};
use crate::serve::lock;

/// What goes wrong. As JSON: `{"kind":"slow","millis":500}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HttpFault {
    /// This answer, verbatim.
    Respond {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, String)>,
        body: String,
    },
    /// 200 with a web page, as a login portal in the way gives.
    Html200,
    /// 200 without a body.
    Empty200,
    /// 500 without a body.
    Error500,
    /// The right answer, late.
    Slow { millis: u64 },
    /// No answer; the connection stays open.
    Hang,
    /// The connection closes before the request's body was read.
    DropBeforeRead,
    /// The request is read, then the connection closes.
    DropAfterRead,
    /// These bytes on the socket in place of an HTTP answer.
    Raw { bytes: String },
    /// 307 to this URL.
    Redirect { location: String },
    /// 429 with this `Retry-After`, verbatim.
    TooManyRequests { retry_after: String },
    /// The right answer, one byte per `millis`.
    Drip { millis: u64 },
    /// The right head, and this many bytes of body.
    Large { bytes: usize },
    /// The right answer with `Content-Encoding: gzip`, although nobody asked for it.
    Gzip,
}

/// What the fault did to the request before the handler saw it.
pub(crate) enum Before {
    /// Go on, and pass the answer through [`after`].
    Continue,
    /// This is the answer.
    Answer(Response<Body>),
    /// Read the request, then close.
    DropAfterRead,
}

/// The faults in force: the oldest first, each for a number of requests or until cleared.
#[derive(Debug)]
pub(crate) struct Faults<F>(Mutex<Vec<(F, Option<u32>)>>);

impl<F> Default for Faults<F> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<F: Clone> Faults<F> {
    /// Orders `fault` for the next `requests` requests, after those ordered before; `None` is until cleared.
    pub(crate) fn order(&self, fault: F, requests: Option<u32>) {
        if requests != Some(0) {
            lock(&self.0).push((fault, requests));
        }
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The first fault that `applies`, which uses up one of its requests.
    pub(crate) fn take(&self, applies: impl Fn(&F) -> bool) -> Option<F> {
        let mut faults = lock(&self.0);
        let position = faults.iter().position(|(fault, _)| applies(fault))?;
        let (fault, left) = &mut faults[position];
        let fault = fault.clone();
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                faults.remove(position);
            }
        }
        Some(fault)
    }
}

/// Applies the part of a fault that comes before the request is handled.
pub(crate) async fn before(fault: Option<&HttpFault>, wire: &Wire) -> Result<Before, Dropped> {
    let answer = match fault {
        None | Some(HttpFault::Drip { .. } | HttpFault::Large { .. } | HttpFault::Gzip) => return Ok(Before::Continue),
        Some(HttpFault::Slow { millis }) => {
            tokio::time::sleep(Duration::from_millis(*millis)).await;
            return Ok(Before::Continue);
        }
        Some(HttpFault::Hang) => std::future::pending().await,
        Some(HttpFault::DropBeforeRead) => return Err(Dropped),
        Some(HttpFault::DropAfterRead) => return Ok(Before::DropAfterRead),
        Some(HttpFault::Raw { bytes }) => wire.replace(Bytes::from(bytes.clone())),
        Some(HttpFault::Respond { status, headers, body }) => verbatim(*status, headers, body),
        Some(HttpFault::Html200) => respond(StatusCode::OK, "text/html", "<html><body>Please sign in.</body></html>"),
        Some(HttpFault::Empty200) => Response::new(full(Bytes::new())),
        Some(HttpFault::Error500) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Bytes::new()),
        Some(HttpFault::Redirect { location }) => {
            with_header(text(StatusCode::TEMPORARY_REDIRECT, "elsewhere"), LOCATION, location)
        }
        Some(HttpFault::TooManyRequests { retry_after }) => {
            with_header(text(StatusCode::TOO_MANY_REQUESTS, "too many requests"), RETRY_AFTER, retry_after)
        }
    };
    Ok(Before::Answer(answer))
}

/// Reads a request to its end, unless the fault answers in its place (`Err` within).
pub(crate) async fn receive(
    fault: Option<&HttpFault>,
    request: Request<Incoming>,
    wire: &Wire,
) -> Result<Result<(Parts, Bytes), Response<Body>>, Dropped> {
    let dropped = match before(fault, wire).await? {
        Before::Answer(response) => return Ok(Err(response)),
        Before::DropAfterRead => true,
        Before::Continue => false,
    };
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    if dropped { Err(Dropped) } else { Ok(Ok((parts, body))) }
}

/// Applies the part of a fault that spoils the right answer.
pub(crate) async fn after(fault: Option<&HttpFault>, response: Response<Body>) -> Result<Response<Body>, Dropped> {
    match fault {
        Some(HttpFault::Drip { millis }) => {
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|_| Dropped)?.to_bytes();
            let drip = Drip { bytes, interval: tokio::time::interval(Duration::from_millis((*millis).max(1))) };
            Ok(Response::from_parts(parts, Either::Right(drip.boxed_unsync())))
        }
        Some(HttpFault::Large { bytes }) => Ok(response.map(|_| full(vec![b'x'; *bytes]))),
        Some(HttpFault::Gzip) => {
            let (mut parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|_| Dropped)?.to_bytes();
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.remove(CONTENT_LENGTH);
            Ok(Response::from_parts(parts, full(gzip(&bytes))))
        }
        _ => Ok(response),
    }
}

fn verbatim(status: u16, headers: &[(String, String)], body: &str) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn with_header(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// A body that comes one byte at a time.
struct Drip {
    bytes: Bytes,
    interval: tokio::time::Interval,
}

impl HttpBody for Drip {
    type Data = Bytes;
    type Error = Dropped;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Dropped>>> {
        if self.bytes.is_empty() {
            return std::task::Poll::Ready(None);
        }
        std::task::ready!(self.interval.poll_tick(cx));
        let byte = self.bytes.split_to(1);
        std::task::Poll::Ready(Some(Ok(Frame::data(byte))))
    }
}

/// RFC 1952 with stored blocks only (RFC 1951 3.2.4): right for every decoder, and needs no compressor.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let chunks: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(0xffff).collect() };
    for (index, chunk) in chunks.iter().enumerate() {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.push(u8::from(index + 1 == chunks.len()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or(0).to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// An order for a fault as the programs' admin endpoints take it: `{"fault": {..}, "requests": 3}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "F: Deserialize<'de>"))]
pub(crate) struct FaultOrder<F> {
    pub(crate) fault: F,
    #[serde(default)]
    pub(crate) requests: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_has_the_published_check_value() {
        // The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let packed = gzip(b"ab");
        assert_eq!(&packed[10..17], &[1, 2, 0, 0xfd, 0xff, b'a', b'b']);
    }

    #[test]
    fn a_fault_ends_after_its_requests_and_the_next_follows() {
        let faults = Faults::default();
        faults.order(HttpFault::Gzip, Some(2));
        faults.order(HttpFault::Hang, None);
        let taken: Vec<_> = (0..4).map(|_| faults.take(|_| true)).collect();
        assert_eq!(taken, [Some(HttpFault::Gzip), Some(HttpFault::Gzip), Some(HttpFault::Hang), Some(HttpFault::Hang)]);
        faults.clear();
        assert_eq!(faults.take(|_| true), None);
    }

    #[test]
    fn an_order_for_a_fault_reads_from_json() {
        let order: FaultOrder<HttpFault> =
            serde_json::from_str(r#"{"fault":{"kind":"slow","millis":5},"requests":2}"#).expect("valid");
        assert_eq!((order.fault, order.requests), (HttpFault::Slow { millis: 5 }, Some(2)));
    }
}
