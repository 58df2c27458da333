//! Accepts connections, and serves HTTP on each.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::stop::Stop;
use crate::tls_reload::CurrentTls;

/// One of the instance's two.
pub(crate) struct Listener {
    pub(crate) tls: Option<CurrentTls>,
    pub(crate) router: Router,
    /// Most connections at once.
    pub(crate) most: usize,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: Stop,
}

impl Listener {
    /// Accepts until the instance closes. Once it stops, each connection is for one request: who comes again comes to
    /// another instance, if a balancer knows one.
    pub(crate) async fn run(self, socket: TcpListener) {
        let listener = Arc::new(self);
        let room = Arc::new(Semaphore::new(listener.most));
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&room).acquire_owned() => permit,
                () = listener.stop.closing.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = listener.stop.closing.cancelled() => return,
            };
            let (stream, permit) = match (accepted, permit) {
                (Ok((stream, _)), Ok(permit)) => (stream, permit),
                (accepted, _) => {
                    // Out of file descriptors, as a rule: it passes when connections end.
                    tracing::warn!(error = ?accepted.err(), "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let this = Arc::clone(&listener);
            listener.tracker.spawn(async move {
                this.connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn connection(&self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the connection is gone");
            return;
        }
        let Some(tls) = &self.tls else { return self.serve(stream).await };
        match tokio::time::timeout(Duration::from_secs(10), TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let mut stopping = self.stop.stopping.is_cancelled();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30)).max_buf_size(64 * 1024);
        http.keep_alive(!stopping);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router.clone()));
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
