//! The connector: guard, proxy, TLS, in this order, under one deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::config::Proxy;
use crate::{AddressGuard, SendErrorKind, TlsFault, dial, error, not_after, proxy};

/// What all connections of one way have in common.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) tls: TlsConnector,
    /// To the proxy: no target's client certificate is shown to it.
    pub(crate) proxy_tls: TlsConnector,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Duration,
}

/// Dials for one guard.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) route: Arc<Route>,
    pub(crate) guard: AddressGuard,
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection to the target, or to the proxy that takes absolute-form requests for it.
pub(crate) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    /// The proxy reads the requests.
    to_proxy: bool,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = SendErrorKind;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, SendErrorKind>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendErrorKind>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { route, guard } = self.clone();
        Box::pin(async move {
            let connect = connect(&route, &guard, &uri);
            let stream =
                tokio::time::timeout(route.connect_timeout, connect).await.unwrap_or(Err(SendErrorKind::Timeout))?;
            not_after::check()?;
            Ok(stream)
        })
    }
}

async fn connect(route: &Route, guard: &AddressGuard, uri: &Uri) -> Result<Stream, SendErrorKind> {
    let (tls, default_port) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") => (false, 80),
        _ => return Err(SendErrorKind::BadRequest),
    };
    let host = uri.host().ok_or(SendErrorKind::BadRequest)?;
    let port = uri.port_u16().unwrap_or(default_port);
    let Some(proxy) = &route.proxy else {
        let tcp = dial::dial(host, port, Some(guard)).await?;
        let io: Box<dyn Io> = if tls { Box::new(handshake(&route.tls, host, tcp).await?) } else { Box::new(tcp) };
        return Ok(Stream { io: TokioIo::new(io), to_proxy: false });
    };
    // Names are the proxy's to resolve, so only the origin can be checked for them (by the policy); an address can.
    if let Some(address) = dial::literal(host) {
        guard.check(address).map_err(SendErrorKind::Refused)?;
    }
    let tcp = dial::dial(&proxy.host, proxy.port, None).await.map_err(SendErrorKind::at_proxy)?;
    let mut io: Box<dyn Io> = if proxy.tls {
        Box::new(handshake(&route.proxy_tls, &proxy.host, tcp).await.map_err(SendErrorKind::at_proxy)?)
    } else {
        Box::new(tcp)
    };
    if !tls {
        return Ok(Stream { io: TokioIo::new(io), to_proxy: true });
    }
    proxy::tunnel(&mut *io, &format!("{host}:{port}"), proxy.authorization.as_ref()).await?;
    let io: Box<dyn Io> = Box::new(handshake(&route.tls, host, io).await?);
    Ok(Stream { io: TokioIo::new(io), to_proxy: false })
}

async fn handshake<S: Io + 'static>(
    tls: &TlsConnector,
    host: &str,
    stream: S,
) -> Result<tokio_rustls::client::TlsStream<S>, SendErrorKind> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|_| SendErrorKind::BadRequest)?;
    let connected = tls.connect(name, stream).await;
    connected.map_err(|error| error::root_kind(&error).unwrap_or(SendErrorKind::Tls(TlsFault::Handshake)))
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.to_proxy)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
