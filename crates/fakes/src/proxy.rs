//! An HTTP proxy that wants Basic credentials: CONNECT tunnels, and plain forwarding of absolute `http` URLs.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::client;
use crate::fault::{Before, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, Wire, base_url, full, read_body, serve, text};
use crate::serve::{Listening, lock};
use crate::tap;
use crate::tls::Tls;

/// How the proxy is set up.
#[derive(Clone, Default)]
pub struct ProxyConfig {
    /// 0 takes a free port.
    pub port: u16,
    /// How clients speak to the proxy itself.
    pub tls: Tls,
    /// User and password; absent, anybody may use it.
    pub credentials: Option<(String, String)>,
}

/// A request that the proxy saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedRequest {
    /// `CONNECT`, or the method that was forwarded.
    pub method: String,
    /// `host:port`, or the absolute URL.
    pub target: String,
    /// It showed the right credentials (or none are needed).
    pub authorized: bool,
}

/// A running proxy; it ends when this is dropped.
pub struct Proxy {
    state: Arc<State>,
    listening: Listening,
}

struct State {
    config: ProxyConfig,
    seen: Mutex<Vec<ProxiedRequest>>,
    /// What clients sent: bodies forwarded in the open, and the inside of tunnels as it is on the wire.
    sent: Arc<Mutex<Vec<u8>>>,
    received: Arc<Mutex<Vec<u8>>>,
    faults: Faults<HttpFault>,
}

impl Proxy {
    pub fn start(config: ProxyConfig) -> io::Result<Self> {
        let state = Arc::new(State {
            config,
            seen: Mutex::default(),
            sent: Arc::default(),
            received: Arc::default(),
            faults: Faults::default(),
        });
        let listening = serve(Arc::clone(&state), &state.config.tls, state.config.port)?;
        Ok(Self { state, listening })
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub fn url(&self) -> String {
        base_url(&self.state.config.tls, self.addr())
    }

    pub fn set_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.state.faults.order(fault, requests);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    pub fn requests(&self) -> Vec<ProxiedRequest> {
        lock(&self.state.seen).clone()
    }

    /// All bytes that went through, heads of forwarded requests excepted.
    pub fn tapped(&self) -> tap::Tapped {
        tap::Tapped { sent: lock(&self.state.sent).clone(), received: lock(&self.state.received).clone() }
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let authorized = self.authorized(&request);
        lock(&self.seen).push(ProxiedRequest {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            authorized,
        });
        let fault = self.faults.take(|_| true);
        match before(fault.as_ref(), &wire).await? {
            Before::Continue => {}
            Before::Answer(response) => return Ok(response),
            Before::DropAfterRead => return Err(Dropped),
        }
        if !authorized {
            let mut response = text(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "credentials are required\n");
            response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"proxy\""));
            return Ok(response);
        }
        if request.method() == Method::CONNECT {
            return Ok(self.tunnel(request).await);
        }
        let response = self.forward(request).await?;
        after(fault.as_ref(), response).await
    }
}

impl State {
    fn authorized(&self, request: &Request<Incoming>) -> bool {
        let Some((user, password)) = &self.config.credentials else { return true };
        let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        request.headers().get(PROXY_AUTHORIZATION).is_some_and(|shown| shown.as_bytes() == wanted.as_bytes())
    }

    async fn tunnel(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(authority) = request.uri().authority().map(ToString::to_string) else {
            return text(StatusCode::BAD_REQUEST, "CONNECT needs host:port\n");
        };
        let Ok(server) = TcpStream::connect(&authority).await else {
            return text(StatusCode::BAD_GATEWAY, "the target cannot be reached\n");
        };
        let (sent, received) = (Arc::clone(&self.sent), Arc::clone(&self.received));
        tokio::spawn(async move {
            // The tunnel lives as long as its two ends; how it ended is theirs to report.
            if let Ok(client) = hyper::upgrade::on(request).await {
                let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
                let (from_server, to_server) = server.into_split();
                let ended = tokio::join!(
                    tap::copy(from_client, to_server, &sent),
                    tap::copy(from_server, to_client, &received)
                );
                drop(ended);
            }
        });
        Response::new(full(Bytes::new()))
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.scheme_str() != Some("http") {
            return Ok(text(StatusCode::BAD_REQUEST, "an absolute http URL is expected\n"));
        }
        let body = read_body(body).await?;
        lock(&self.sent).extend_from_slice(&body);
        for name in [PROXY_AUTHORIZATION, HeaderName::from_static("proxy-connection")] {
            parts.headers.remove(name);
        }
        Ok(match client::send(Request::from_parts(parts, body), None).await {
            Ok(mut response) => {
                lock(&self.received).extend_from_slice(response.body());
                response.headers_mut().remove(hyper::header::TRANSFER_ENCODING);
                response.map(full)
            }
            Err(_) => text(StatusCode::BAD_GATEWAY, "the target cannot be reached\n"),
        })
    }
}
