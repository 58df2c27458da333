//! A small HTTP client: one request, one connection, the whole answer. For the fakes' own fetches and for tests.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Sends `request` (whose URI is absolute) and reads the whole answer. `https` needs `tls`. No redirect is followed.
pub async fn send(request: Request<Bytes>, tls: Option<Arc<ClientConfig>>) -> io::Result<Response<Bytes>> {
    let url = Url::parse(&request.uri().to_string()).map_err(invalid)?;
    let host = url.host_str().ok_or_else(|| invalid("a URL without a host"))?.to_owned();
    let port = url.port_or_known_default().ok_or_else(|| invalid("a URL without a port"))?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    match (url.scheme(), tls) {
        ("http", _) => exchange(stream, request).await,
        ("https", Some(tls)) => {
            let name = ServerName::try_from(host).map_err(invalid)?;
            exchange(TlsConnector::from(tls).connect(name, stream).await?, request).await
        }
        _ => Err(invalid("neither http, nor https with a TLS set-up")),
    }
}

/// GET, with no header of its own.
pub async fn get(url: &str, tls: Option<Arc<ClientConfig>>) -> io::Result<Response<Bytes>> {
    send(Request::get(url).body(Bytes::new()).map_err(invalid)?, tls).await
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> io::Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority() {
        let host = http::HeaderValue::try_from(authority.as_str()).map_err(invalid)?;
        parts.headers.insert(http::header::HOST, host);
    }
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    parts.uri = target.parse().map_err(invalid)?;
    let answer = async {
        let response = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
        let (parts, body) = response.into_parts();
        Ok::<_, hyper::Error>(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
    .await;
    driver.abort();
    answer.map_err(io::Error::other)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
