//! New connections: guard, proxy, TLS, HTTP, in this order, under one deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http1::Builder;
use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::config::Proxy;
use crate::pool::{Connection, Target};
use crate::{AddressGuard, NotAfter, SendErrorKind, TlsFault, dial, error, proxy};

/// Most bytes of a response's head.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// What all connections of one way have in common.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) tls: TlsConnector,
    /// To the proxy: no target's client certificate is shown to it.
    pub(crate) proxy_tls: TlsConnector,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Duration,
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection to the target, or to the proxy that takes absolute-form requests for it, with nothing on it yet.
pub(crate) async fn open(
    route: &Route,
    guard: &AddressGuard,
    target: &Target,
    end: Option<&NotAfter>,
) -> Result<Connection, SendErrorKind> {
    let limit = end.map_or(route.connect_timeout, |end| end.left().min(route.connect_timeout));
    let connected = tokio::time::timeout(limit, connect(route, guard, target)).await;
    let stream = Stream(TokioIo::new(connected.unwrap_or(Err(SendErrorKind::Timeout))?));
    let handshake = Builder::new().max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS).handshake(stream).await;
    let (sender, driver) = handshake.map_err(|_| SendErrorKind::Closed)?;
    let task = tokio::spawn(async move {
        // A request that is under way is told why it failed.
        if driver.await.is_err() {
            tracing::debug!("a connection broke while nothing was asked on it");
        }
    });
    Ok(Connection { sender, driver: task.abort_handle() })
}

async fn connect(route: &Route, guard: &AddressGuard, target: &Target) -> Result<Box<dyn Io>, SendErrorKind> {
    let tls = target.tls;
    let host = target.authority.host();
    let port = target.authority.port_u16().unwrap_or(target.default_port());
    let Some(proxy) = &route.proxy else {
        let tcp = dial::dial(host, port, Some(guard)).await?;
        return Ok(if tls { Box::new(handshake(&route.tls, host, tcp).await?) } else { Box::new(tcp) });
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
        return Ok(io);
    }
    proxy::tunnel(&mut *io, &format!("{host}:{port}"), proxy.authorization.as_ref()).await?;
    Ok(Box::new(handshake(&route.tls, host, io).await?))
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

struct Stream(TokioIo<Box<dyn Io>>);

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // hyper is done by then. Who does not read any more must not hold the connection by not taking TLS's last word.
        let ended = Pin::new(&mut self.0).poll_shutdown(context);
        if ended.is_pending() { Poll::Ready(Ok(())) } else { ended }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }
}
