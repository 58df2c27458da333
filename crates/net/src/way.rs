//! A way out: sends requests, each under a deadline, a size limit and a guard.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, PROXY_AUTHORIZATION};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsConnector;

use crate::config::Proxy;
use crate::connect::{Route, open};
use crate::pool::{Pool, Target};
use crate::{
    AddressGuard, ClientIdentity, NotAfter, ProtocolFault, ProxyFault, SendError, SendErrorKind, WayConfig, WayError,
    dial, error, tls,
};

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
    route: Route,
    pool: Arc<Pool>,
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
        Self(Arc::new(Inner { route, pool: Arc::default() }))
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
        self.exchange(request, options, None).await
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
        self.exchange(request, options, Some(&end)).await
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
        options: &SendOptions,
        end: Option<&NotAfter>,
    ) -> Result<Response<Bytes>, SendError> {
        let Inner { route, pool } = &*self.0;
        let SendOptions { deadline, max_body, guard } = options;
        let (request, target, to_proxy) = self.prepare(request, guard)?;
        let mut handed_over = false;
        let exchange = async {
            let kept = pool.take(guard, &target).await;
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                // In a box of its own: it is large, and most requests do without.
                None => Box::pin(open(route, guard, &target, end)).await.map_err(SendErrorKind::unsent)?,
            };
            if end.is_some_and(NotAfter::is_over) {
                return Err(SendErrorKind::Timeout.unsent());
            }
            handed_over = true;
            let response =
                connection.sender.try_send_request(request).await.map_err(|error| request_error(error, is_new))?;
            check_head(&response, to_proxy)?;
            let response = collect(response, *max_body).await?;
            pool.keep(guard, target, connection);
            Ok(response)
        };
        let result = tokio::time::timeout(*deadline, exchange).await;
        result.unwrap_or_else(|_| Err(SendError { kind: SendErrorKind::Timeout, maybe_sent: handed_over }))
    }

    /// The request as it is written, and whether the proxy itself reads it.
    fn prepare(
        &self,
        request: Request<Bytes>,
        guard: &AddressGuard,
    ) -> Result<(Request<Full<Bytes>>, Target, bool), SendError> {
        let (mut head, body) = request.into_parts();
        let (target, path) = split(&head.method, head.version, std::mem::take(&mut head.uri))
            .ok_or(SendErrorKind::BadRequest.unsent())?;
        // Also when a kept connection would do: the refusal must not depend on the pool.
        if let Some(address) = dial::literal(target.authority.host()) {
            guard.check(address).map_err(|class| SendErrorKind::Refused(class).unsent())?;
        }
        if !head.headers.contains_key(HOST) {
            head.headers.insert(HOST, target.host().ok_or(SendErrorKind::BadRequest.unsent())?);
        }
        let proxy = self.0.route.proxy.as_ref().filter(|_| !target.tls);
        let mut form = uri::Parts::default();
        if let Some(proxy) = proxy {
            if let Some(value) = &proxy.authorization {
                head.headers.insert(PROXY_AUTHORIZATION, value.clone());
            }
            form.scheme = Some(Scheme::HTTP);
            form.authority = Some(target.authority.clone());
        }
        form.path_and_query = Some(path);
        head.uri = Uri::from_parts(form).map_err(|_| SendErrorKind::BadRequest.unsent())?;
        Ok((Request::from_parts(head, Full::new(body)), target, proxy.is_some()))
    }
}

impl fmt::Debug for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayOut").field("proxy", &self.proxy_origin()).finish_non_exhaustive()
    }
}

/// Where a request goes, and what it asks for there. `None` when it cannot be sent.
fn split(method: &Method, version: Version, uri: Uri) -> Option<(Target, PathAndQuery)> {
    if method == Method::CONNECT || !matches!(version, Version::HTTP_10 | Version::HTTP_11) {
        return None;
    }
    let uri::Parts { scheme, authority, path_and_query, .. } = uri.into_parts();
    let tls = match scheme?.as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let mut authority = authority?;
    // RFC 9110 4.2.4: neither a user nor a password is sent, in `Host` or to a proxy.
    if let Some((_, bare)) = authority.as_str().rsplit_once('@') {
        authority = bare.parse::<Authority>().ok()?;
    }
    if authority.host().is_empty() {
        return None;
    }
    // An empty path prints as `/`, but is not written as that.
    let path = path_and_query.filter(|path| path.as_str() != "/").unwrap_or(PathAndQuery::from_static("/"));
    Some((Target { tls, authority }, path))
}

impl Target {
    /// RFC 9110 7.2, without the port that the scheme implies.
    fn host(&self) -> Option<HeaderValue> {
        let implied = self.authority.port_u16().is_none_or(|port| port == self.default_port());
        let text = if implied { self.authority.host() } else { self.authority.as_str() };
        HeaderValue::from_str(text).ok()
    }
}

/// A request that came back from its connection's queue is unsent: hyper gives back only what it had not begun to
/// write. Everything else may have left.
fn request_error(error: TrySendError<Request<Full<Bytes>>>, is_new: bool) -> SendError {
    let came_back = error.message().is_some();
    let error = error.into_error();
    let known = error::root_kind(&error);
    if came_back {
        // Why a kept connection ended says nothing about this request.
        return known.filter(|_| is_new).unwrap_or(SendErrorKind::Closed).unsent();
    }
    let kind = known.unwrap_or_else(|| {
        if error.is_parse() { SendErrorKind::Protocol(ProtocolFault::NotHttp) } else { SendErrorKind::Closed }
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
