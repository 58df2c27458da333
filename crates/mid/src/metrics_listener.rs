//! The metrics over plain HTTP, on loopback alone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use midward_core::{Failure, Hop};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::metrics;

const MAX_CONNECTIONS: usize = 8;
/// A connection is for one question.
const DEADLINE: Duration = Duration::from_secs(10);
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics` on loopback.
#[derive(Debug)]
pub(crate) struct MetricsListener {
    listener: TcpListener,
    engine: Arc<Engine>,
    max_profiles: usize,
}

impl MetricsListener {
    pub(crate) async fn bind(address: SocketAddr, engine: Arc<Engine>, max_profiles: usize) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::permanent(
                Hop::Mid,
                "metrics_listener_failed",
                format!("{address}: {error}"),
                "Choose another [metrics] listen, or leave it out.",
            )
        })?;
        tracing::info!(address = ?listener.local_addr().ok(), "metrics");
        Ok(Self { listener, engine, max_profiles })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "metrics listener");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (engine, max_profiles) = (Arc::clone(&self.engine), self.max_profiles);
            tokio::spawn(async move {
                let answered = converse(stream, &engine, max_profiles);
                if tokio::time::timeout(DEADLINE, answered).await.is_err() {
                    tracing::debug!("a metrics connection took too long");
                }
                drop(place);
            });
        }
    }
}

async fn converse(stream: TcpStream, engine: &Engine, max_profiles: usize) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, engine, max_profiles);
        async move { Ok::<_, Infallible>(response) }
    });
    let server = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = server.await {
        tracing::debug!(%error, "metrics connection");
    }
}

fn answer(request: &Request<Incoming>, engine: &Engine, max_profiles: usize) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        _ if !is_for_this_host(request) => (StatusCode::MISDIRECTED_REQUEST, "ask for localhost\n".to_owned()),
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics::page(engine, max_profiles)),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "the figures are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// A web page whose name was made to resolve to this host would ask for its own name.
fn is_for_this_host(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    ["127.0.0.1", "[::1]", "localhost"].contains(&name)
}
