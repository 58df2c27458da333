//! An HTTP/1.1 server whose handler may also break the connection in every way that HTTP itself forbids.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::serve::{Listening, lock};
use crate::tls::Tls;

/// The largest request body that a fake reads.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

pub(crate) type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Dropped>>;

/// The handler wants the connection closed without another byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection dropped to order")
    }
}

impl std::error::Error for Dropped {}

/// What a fake does with a request.
pub(crate) trait App: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        wire: Wire,
    ) -> impl Future<Output = Result<Response<Body>, Dropped>> + Send;
}

/// The connection below a request: lets a handler replace everything that HTTP would write.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Option<Bytes>>>);

impl Wire {
    /// Writes exactly these bytes to the socket in place of an answer, and closes.
    pub(crate) fn replace(&self, bytes: Bytes) -> Response<Body> {
        *lock(&self.0) = Some(bytes);
        let mut response = text(StatusCode::OK, "replaced on the wire");
        response.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
        response
    }
}

/// Starts `app` on loopback.
pub(crate) fn serve<A: App>(app: Arc<A>, tls: &Tls, port: u16) -> io::Result<Listening> {
    let acceptor = tls.server_config()?.map(TlsAcceptor::from);
    Listening::start(port, move |stream: TcpStream| {
        let (app, acceptor) = (Arc::clone(&app), acceptor.clone());
        async move {
            match acceptor {
                // A failed handshake is the client's to report.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                        let shown = shown.map(|leaf| ShownCertificate(thumbprint(leaf)));
                        connection(app, stream, shown).await;
                    }
                }
                None => connection(app, stream, None).await,
            }
        }
    })
}

/// `scheme://localhost:port`, the name that the fakes' certificates carry.
pub(crate) fn base_url(tls: &Tls, addr: SocketAddr) -> String {
    match tls {
        Tls::Plain => format!("http://127.0.0.1:{}", addr.port()),
        Tls::Server(_) | Tls::Mutual(_) | Tls::Optional(_) => format!("https://localhost:{}", addr.port()),
    }
}

/// The client certificate of the connection, as `x5t#S256` (RFC 8705 3.1); an extension of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownCertificate(pub(crate) String);

pub(crate) fn thumbprint(certificate: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(certificate))
}

async fn connection<A: App, S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    app: Arc<A>,
    stream: S,
    shown: Option<ShownCertificate>,
) {
    let wire = Wire::default();
    let io = TokioIo::new(ReplacedOutput { inner: stream, wire: wire.clone(), written: 0 });
    let service = service_fn(move |mut request| {
        if let Some(shown) = shown.clone() {
            request.extensions_mut().insert(shown);
        }
        Arc::clone(&app).handle(request, wire.clone())
    });
    // Upgrades carry the proxy's tunnels. How a connection ended is the client's to report.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await);
}

/// The request's body, or `Dropped` when the client left while sending it.
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, Dropped> {
    Limited::new(body, BODY_LIMIT).collect().await.map(http_body_util::Collected::to_bytes).map_err(|_| Dropped)
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

pub(crate) fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", body.to_string())
}

/// A stream that writes the ordered bytes in place of the server's own.
struct ReplacedOutput<S> {
    inner: S,
    wire: Wire,
    written: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for ReplacedOutput<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReplacedOutput<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some(ordered) = lock(&self.wire.0).clone() else {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        };
        while self.written < ordered.len() {
            let start = self.written;
            match Pin::new(&mut self.inner).poll_write(cx, &ordered[start..]) {
                Poll::Ready(Ok(count)) => self.written += count,
                other => return other,
            }
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
