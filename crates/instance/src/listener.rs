//! Accepts connections, and serves HTTP on each. One above the limit is told so and closed; some of the first listener's are
//! kept for MIDs, so that callers never shut them out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::problem::Problem;
use crate::stop::Stop;
use crate::tls_reload::CurrentTls;

/// How long a connection may take to begin, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long nothing of an answer may be taken by who asked.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// How long one may take that is there to be refused, or was not expected.
const SHORTLY: Duration = Duration::from_secs(5);
/// Most connections at once that are told that there are too many; more are closed without a word.
const REFUSED_AT_ONCE: usize = 64;
/// Of the first listener's connections, one in so many is kept for MIDs.
const KEPT_FOR_MIDS: usize = 10;

/// One of the instance's two.
pub(crate) struct Listener {
    tls: Option<CurrentTls>,
    tracker: TaskTracker,
    stop: Stop,
    /// The first that has a place is taken.
    rooms: [Arc<Room>; 3],
}

/// So many connections, and what they are served.
struct Room {
    free: Arc<Semaphore>,
    router: Router,
    head_within: Duration,
    is_for_one_request: bool,
}

impl Room {
    fn new(most: usize, router: Router, head_within: Duration) -> Self {
        let free = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { free, router, head_within, is_for_one_request: false }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }
}

impl Listener {
    /// Serves `router` to at most `most` connections at once. `mids_come`: some of them are for MIDs only.
    pub(crate) fn new(
        router: Router,
        most: usize,
        mids_come: bool,
        tls: Option<CurrentTls>,
        tracker: TaskTracker,
        stop: Stop,
    ) -> Self {
        let kept = if mids_come { most.div_ceil(KEPT_FOR_MIDS) } else { 0 };
        let for_mids = Room::new(kept, router.clone().layer(from_fn(mids_only)), SHORTLY);
        let full = Room::new(REFUSED_AT_ONCE, Router::new().fallback(async || too_many()), SHORTLY);
        let full = Room { is_for_one_request: true, ..full };
        let open = Room::new(most.saturating_sub(kept), router, HEAD_WITHIN);
        Self { tls, tracker, stop, rooms: [open, for_mids, full].map(Arc::new) }
    }

    /// Accepts until the instance closes. Once it stops, each connection is for one request: who comes again comes to
    /// another instance, if a balancer knows one.
    pub(crate) async fn run(self, socket: TcpListener) {
        let listener = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = listener.stop.closing.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, as a rule: it passes when connections end.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some((room, permit)) = listener.rooms.iter().find_map(|room| Some((Arc::clone(room), room.take()?)))
            else {
                continue;
            };
            let this = Arc::clone(&listener);
            listener.tracker.spawn(async move {
                this.connection(stream, &room).await;
                drop(permit);
            });
        }
    }

    async fn connection(&self, stream: TcpStream, room: &Room) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the connection is gone");
            return;
        }
        let Some(tls) = &self.tls else { return self.serve(stream, room).await };
        match tokio::time::timeout(Duration::from_secs(10), TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, room).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, room: &Room) {
        let mut stopping = self.stop.stopping.is_cancelled();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(room.head_within).max_buf_size(64 * 1024);
        http.keep_alive(!stopping && !room.is_for_one_request);
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(READ_WITHIN));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = http.serve_connection(stream, TowerToHyperService::new(room.router.clone()));
        tokio::pin!(connection);
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended badly");
                    }
                    return;
                }
                () = self.stop.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// On a connection that is kept for MIDs: a probe is answered once, and who is no MID, or has no word, is sent away.
async fn mids_only(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_mids = path.starts_with("/mid/");
    let mut response =
        if is_mids || matches!(path, "/healthz" | "/readyz") { next.run(request).await } else { too_many() };
    if !is_mids || response.status().is_client_error() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn too_many() -> Response {
    Problem::busy("as many connections are open as may be").into_response()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends a request for 64 KiB through a pipe that holds one, and has nothing read.
    async fn asked() -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let router = Router::new().route("/", get(|| async { "x".repeat(64 * 1024) }));
        let stop = Stop::asked_by(&CancellationToken::new());
        let listener = Listener::new(router, 8, false, None, TaskTracker::new(), stop);
        let (mut caller, stream) = tokio::io::duplex(1024);
        let serving = tokio::spawn(async move {
            let room = Arc::clone(&listener.rooms[0]);
            listener.serve(stream, &room).await;
        });
        caller.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        (caller, serving)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_does_not_read_its_answer_is_left() {
        let (_caller, mut serving) = asked().await;
        let early = tokio::time::timeout(READ_WITHIN.saturating_sub(SECOND), &mut serving).await;
        assert!(early.is_err(), "it has its time");
        tokio::time::timeout(2 * SECOND, serving).await.expect("left").expect("served");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_reads_slowly_gets_all_of_its_answer() {
        let (mut caller, serving) = asked().await;
        let (mut read, mut part) = (0, [0; 1024]);
        loop {
            tokio::time::sleep(READ_WITHIN.saturating_sub(SECOND)).await;
            match caller.read(&mut part).await.expect("read") {
                0 => break,
                more => read += more,
            }
        }
        assert!(read > 64 * 1024, "{read}");
        serving.await.expect("served");
    }
}
