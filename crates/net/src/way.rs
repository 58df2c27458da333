//! A way out: sends requests, each under a deadline, a size limit and a guard.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsConnector;

use crate::config::Proxy;
use crate::connect::{Connector, Route};
use crate::{
    AddressGuard, ClientIdentity, NotAfter, ProtocolFault, ProxyFault, SendError, SendErrorKind, WayConfig, WayError,
    dial, error, tls,
};

/// Guards that have connections of their own at one time; the one not used for longest goes first.
const MAX_POOLS: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_IDLE_PER_HOST: usize = 256;
/// Most bytes of a response's head.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// The limits of one exchange.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// For the whole exchange: connection, request, response and its body.
    pub deadline: Duration,
    /// Most bytes of the response's body.
    pub max_body: usize,
    /// Which addresses may be dialled.
    pub guard: AddressGuard,
}

/// One way out, with its connections. Cheap to clone.
#[derive(Clone)]
pub struct WayOut(Arc<Inner>);

struct Inner {
    route: Arc<Route>,
    /// One pool for each guard: a connection that one guard allowed is never used by a request with another.
    pools: RwLock<HashMap<AddressGuard, Arc<Pool>>>,
    uses: AtomicU64,
}

struct Pool {
    client: Client<Connector, Full<Bytes>>,
    last_use: AtomicU64,
}

impl WayOut {
    /// Relative paths in `config` are below `base_dir`. Files are read now, and not again.
    pub fn new(config: &WayConfig, base_dir: &Path) -> Result<Self, WayError> {
        let tls: TlsConnector = tls::client_config(config, base_dir)?.into();
        let route = Route {
            proxy_tls: tls.clone(),
            tls,
            proxy: config.proxy.as_ref().map(|proxy| Proxy::new(proxy, base_dir)).transpose()?,
            connect_timeout: config.connect_timeout(),
        };
        Ok(Self::of(route))
    }

    /// The same way for one client certificate, which every target that asks for one is shown. It has connections of
    /// its own: none is ever used under another identity.
    #[must_use]
    pub fn identified(&self, identity: &ClientIdentity) -> Self {
        let mut config = ClientConfig::clone(self.0.route.tls.config());
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0)));
        // A resumed session would stand for whoever began it.
        config.resumption = Resumption::disabled();
        Self::of(Route { tls: Arc::new(config).into(), ..Route::clone(&self.0.route) })
    }

    fn of(route: Route) -> Self {
        Self(Arc::new(Inner { route: Arc::new(route), pools: RwLock::default(), uses: AtomicU64::new(0) }))
    }

    /// No proxy, the system's CAs.
    pub fn plain_default() -> Result<Self, WayError> {
        Self::new(&WayConfig::default(), Path::new("/"))
    }

    /// `scheme://host:port` of the proxy, for policy: behind it, names are the proxy's to resolve.
    pub fn proxy_origin(&self) -> Option<&str> {
        self.0.route.proxy.as_ref().map(|proxy| proxy.origin.as_str())
    }

    /// Sends one request to an absolute http or https URL and collects the response. Redirects are answers, nothing is
    /// decompressed, nothing is sent a second time.
    pub async fn send(&self, request: Request<Bytes>, options: &SendOptions) -> Result<Response<Bytes>, SendError> {
        let mut request = request.map(Full::new);
        let captured = capture_connection(&mut request);
        self.exchange(request, &captured, options).await
    }

    /// The same, and nothing of the request is written once `end` has come, however long a connection took: the failure
    /// is a time-out then, unsent.
    pub async fn send_before(
        &self,
        request: Request<Bytes>,
        options: &SendOptions,
        end: NotAfter,
    ) -> Result<Response<Bytes>, SendError> {
        if end.is_over() {
            return Err(SendErrorKind::Timeout.unsent());
        }
        let mut request = request.map(Full::new);
        let captured = capture_connection(&mut request);
        let ended = async {
            tokio::time::sleep(end.left()).await;
            if !has_no_connection(&captured) {
                std::future::pending::<()>().await;
            }
        };
        let exchange = end.clone().over(self.exchange(request, &captured, options));
        tokio::select! {
            biased;
            () = ended => Err(SendErrorKind::Timeout.unsent()),
            result = exchange => result,
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        captured: &CaptureConnection,
        options: &SendOptions,
    ) -> Result<Response<Bytes>, SendError> {
        let to_proxy = self.prepare(&mut request, &options.guard)?;
        let pool = self.pool(&options.guard);
        let exchange = async {
            let response = pool.client.request(request).await.map_err(|error| request_error(&error, captured))?;
            check_head(&response, to_proxy)?;
            collect(response, options.max_body).await
        };
        match tokio::time::timeout(options.deadline, exchange).await {
            Ok(result) => result,
            Err(_) if has_no_connection(captured) => Err(SendErrorKind::Timeout.unsent()),
            Err(_) => Err(SendErrorKind::Timeout.maybe_sent()),
        }
    }

    /// Whether the proxy itself reads the request.
    fn prepare(&self, request: &mut Request<Full<Bytes>>, guard: &AddressGuard) -> Result<bool, SendError> {
        let plain = is_plain_http(request.uri()).filter(|_| request.method() != Method::CONNECT);
        let plain = plain.ok_or(SendErrorKind::BadRequest.unsent())?;
        // Also when a pooled connection would do: the refusal must not depend on the pool.
        if let Some(address) = request.uri().host().and_then(dial::literal) {
            guard.check(address).map_err(|class| SendErrorKind::Refused(class).unsent())?;
        }
        let Some(proxy) = self.0.route.proxy.as_ref().filter(|_| plain) else { return Ok(false) };
        if let Some(value) = &proxy.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value.clone());
        }
        Ok(true)
    }

    fn pool(&self, guard: &AddressGuard) -> Arc<Pool> {
        let Inner { route, pools, uses } = &*self.0;
        let now = uses.fetch_add(1, Ordering::Relaxed);
        let known = pools.read().unwrap_or_else(PoisonError::into_inner).get(guard).map(Arc::clone);
        if let Some(pool) = known {
            pool.last_use.store(now, Ordering::Relaxed);
            return pool;
        }
        let mut pools = pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= MAX_POOLS && !pools.contains_key(guard) {
            let oldest = pools.iter().min_by_key(|(_, pool)| pool.last_use.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(guard, _)| guard.clone()) {
                pools.remove(&oldest);
            }
        }
        let pool = pools.entry(guard.clone()).or_insert_with(|| {
            let connector = Connector { route: Arc::clone(route), guard: guard.clone() };
            Arc::new(Pool { client: client(connector), last_use: AtomicU64::new(now) })
        });
        Arc::clone(pool)
    }
}

impl fmt::Debug for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayOut").field("proxy", &self.proxy_origin()).finish_non_exhaustive()
    }
}

fn client(connector: Connector) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
        .http1_max_buf_size(MAX_HEAD)
        .http1_max_headers(MAX_HEADERS)
        // Whether a request may be sent again is the caller's decision.
        .retry_canceled_requests(false)
        .build(connector)
}

fn is_plain_http(uri: &Uri) -> Option<bool> {
    uri.host().filter(|host| !host.is_empty())?;
    match uri.scheme_str()? {
        "http" => Some(true),
        "https" => Some(false),
        _ => None,
    }
}

/// hyper-util fills the metadata in before it hands a request to a connection.
fn has_no_connection(captured: &CaptureConnection) -> bool {
    captured.connection_metadata().is_none()
}

/// A request that no connection was found for, or that came back from its connection's queue (`is_canceled`: hyper says
/// so only of a message that it had not begun to write), is unsent. Everything else may have left.
fn request_error(error: &hyper_util::client::legacy::Error, captured: &CaptureConnection) -> SendError {
    let known = error::root_kind(error);
    if error.is_connect() || has_no_connection(captured) {
        return known.unwrap_or(SendErrorKind::Closed).unsent();
    }
    let hyper = std::error::Error::source(error).and_then(|source| source.downcast_ref::<hyper::Error>());
    let Some(hyper) = hyper else { return known.unwrap_or(SendErrorKind::Closed).maybe_sent() };
    if hyper.is_canceled() {
        return SendErrorKind::Closed.unsent();
    }
    let kind = known.unwrap_or_else(|| {
        if hyper.is_parse() { SendErrorKind::Protocol(ProtocolFault::NotHttp) } else { SendErrorKind::Closed }
    });
    kind.maybe_sent()
}

fn check_head(response: &Response<Incoming>, to_proxy: bool) -> Result<(), SendError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendErrorKind::Protocol(ProtocolFault::Upgrade).maybe_sent());
    }
    if to_proxy && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        // The proxy read the request's head, but it did not pass it on.
        return Err(SendErrorKind::Proxy(ProxyFault::Authentication).maybe_sent());
    }
    if is_length_ambiguous(response.headers()) {
        return Err(SendErrorKind::Protocol(ProtocolFault::ContentLength).maybe_sent());
    }
    Ok(())
}

/// RFC 9112 6.3 lets equal lengths pass; nobody honest sends them.
fn is_length_ambiguous(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.next().is_some() || first.is_some_and(|value| value.as_bytes().contains(&b','))
}

async fn collect(response: Response<Incoming>, limit: usize) -> Result<Response<Bytes>, SendError> {
    let too_large = SendErrorKind::BodyTooLarge { limit }.maybe_sent();
    let (parts, mut body) = response.into_parts();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            error::root_kind(&error).unwrap_or(SendErrorKind::Protocol(ProtocolFault::Body)).maybe_sent()
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(too_large);
        }
        // Most bodies are one frame, and need no copy.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.max(first.len() + data.len()));
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    let whole = if rest.is_empty() { first } else { rest.freeze() };
    Ok(Response::from_parts(parts, whole))
}
