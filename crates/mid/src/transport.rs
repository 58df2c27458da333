//! Token requests over a way out.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request};
use midward_core::Secret;
use midward_net::{AddressGuard, ClientIdentity, IdentityError, SendError, SendErrorKind, SendOptions, WayOut};
use midward_oauth::{
    BoxFuture, ClientCertificate, GrantFetcher, MetadataTransport, TokenHttpReply, TokenHttpRequest, TokenTransport,
    TransportFailure, TransportFailureKind,
};
use url::Url;

/// Sends token requests over the way to authorization servers, to the addresses that one rule allows.
#[derive(Clone)]
pub struct NetTokenTransport {
    way: WayOut,
    /// Of the permit that the token is for.
    guard: AddressGuard,
}

impl NetTokenTransport {
    pub fn new(way: WayOut, guard: AddressGuard) -> Self {
        Self { way, guard }
    }

    async fn exchange(&self, request: Request<Bytes>, limit: Duration) -> Result<TokenHttpReply, TransportFailure> {
        let limit = limit.min(GrantFetcher::DEADLINE);
        let options = SendOptions { deadline: limit, max_body: TokenHttpReply::MAX_BODY, guard: self.guard.clone() };
        let response = self.way.send(request, &options).await.map_err(failure)?;
        let (parts, body) = response.into_parts();
        let body = Secret::new(Vec::from(body));
        check_coding(&parts.headers)?;
        Ok(TokenHttpReply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl TokenTransport for NetTokenTransport {
    fn post(
        &self,
        request: TokenHttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let sent = http_request(&request)?;
            let Some(certificate) = &request.certificate else {
                drop(request);
                return self.exchange(sent, deadline).await;
            };
            if request.url.scheme() != "https" {
                return Err(failure(SendError { kind: SendErrorKind::BadRequest, maybe_sent: false }));
            }
            let identity = identity(certificate).map_err(|error| TransportFailure {
                kind: TransportFailureKind::Certificate,
                detail: format!("the client certificate from the vault cannot be used: {error}"),
            })?;
            drop(request);
            // A way of its own, which ends with this request: so does its copy of the key.
            Self { way: self.way.identified(&identity), guard: self.guard.clone() }.exchange(sent, deadline).await
        })
    }
}

impl MetadataTransport for NetTokenTransport {
    fn get(&self, url: Url, deadline: Duration) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let mut sent = Request::new(Bytes::new());
            *sent.uri_mut() = uri(&url)?;
            sent.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            sent.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            self.exchange(sent, deadline).await
        })
    }
}

impl std::fmt::Debug for NetTokenTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetTokenTransport").field("way", &self.way).field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// The certificate and key, ready for a handshake.
pub(crate) fn identity(certificate: &ClientCertificate) -> Result<ClientIdentity, IdentityError> {
    ClientIdentity::from_pem(certificate.chain().expose(), certificate.private_key().expose())
}

fn http_request(request: &TokenHttpRequest) -> Result<Request<Bytes>, TransportFailure> {
    let mut sent = Request::new(request.body_bytes());
    *sent.method_mut() = Method::POST;
    *sent.uri_mut() = uri(&request.url)?;
    *sent.headers_mut() = request.header_map();
    // A connection that is kept keeps the buffer that the secret was written from.
    sent.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(sent)
}

fn uri(url: &Url) -> Result<http::Uri, TransportFailure> {
    let uri = url.as_str().parse();
    uri.map_err(|_| failure(SendError { kind: SendErrorKind::BadRequest, maybe_sent: false }))
}

/// Identity was asked for, and nothing is decompressed: a small body that grows is an attack.
fn check_coding(headers: &HeaderMap) -> Result<(), TransportFailure> {
    if headers.get_all(CONTENT_ENCODING).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(TransportFailure {
        kind: TransportFailureKind::BadReply,
        detail: "the authorization server's answer is compressed, although it was asked not to be".to_owned(),
    })
}

fn failure(error: SendError) -> TransportFailure {
    let kind = match error.kind {
        SendErrorKind::Refused(class) => {
            tracing::warn!(class = class.name(), "a token URL resolves to an address that the policy does not list");
            // Which address a name has inside the network is nothing for the instance.
            return TransportFailure {
                kind: TransportFailureKind::Refused,
                detail: "the token URL's address is one that the MID Server's policy does not list".to_owned(),
            };
        }
        SendErrorKind::BadRequest => TransportFailureKind::Refused,
        SendErrorKind::Dns
        | SendErrorKind::Connect(_)
        | SendErrorKind::NoFiles
        | SendErrorKind::Proxy(_)
        | SendErrorKind::Closed => TransportFailureKind::Unreachable,
        SendErrorKind::Tls(_) => TransportFailureKind::Tls,
        SendErrorKind::Timeout => TransportFailureKind::TimedOut,
        SendErrorKind::BodyTooLarge { .. } | SendErrorKind::Protocol(_) => TransportFailureKind::BadReply,
    };
    TransportFailure { kind, detail: format!("the authorization server gave no usable answer: {}", error.kind) }
}

#[cfg(test)]
mod tests {
    use midward_net::TlsFault;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn transport(allow: &[&str]) -> NetTokenTransport {
        let guard = AddressGuard::new(allow.iter().map(|net| net.parse().expect("a network")));
        NetTokenTransport::new(WayOut::plain_default().expect("a way"), guard)
    }

    /// Sends one token request to a server that answers with these bytes; the request as it came, and the result.
    async fn post(answer: &'static str, allow: &[&str]) -> (Option<String>, Result<TokenHttpReply, TransportFailure>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut seen = Vec::new();
            while !seen.ends_with(b"grant_type=x") {
                seen.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("written");
            String::from_utf8_lossy(&seen).into_owned()
        });
        let request = TokenHttpRequest {
            certificate: None,
            dpop: None,
            url: format!("http://{address}/token").parse().expect("a URL"),
            authorization: Some(Secret::from("Basic aTpz")),
            body: Secret::from("grant_type=x"),
        };
        let result = transport(allow).post(request, Duration::from_secs(5)).await;
        if result.as_ref().is_err_and(|failure| failure.kind == TransportFailureKind::Refused) {
            server.abort();
        }
        (server.await.ok(), result)
    }

    #[tokio::test]
    async fn a_token_request_is_a_form_with_its_credentials() {
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}";
        let (seen, result) = post(answer, &["127.0.0.0/8"]).await;
        let reply = result.expect("a reply");
        assert_eq!((reply.status, reply.body.expose()), (400, &b"{}"[..]));
        let seen = seen.expect("a request").to_ascii_lowercase();
        assert!(seen.starts_with("post /token http/1.1\r\n"), "{seen}");
        for line in ["authorization: basic atpz", "accept-encoding: identity", "content-length: 12"] {
            assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line} in {seen}");
        }
    }

    #[tokio::test]
    async fn compressed_oversized_and_refused_answers_are_failures() {
        let listed: &[&str] = &["127.0.0.0/8"];
        for (answer, allow, kind) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
                listed,
                TransportFailureKind::BadReply,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", listed, TransportFailureKind::BadReply),
            ("", listed, TransportFailureKind::Unreachable),
            ("", &[], TransportFailureKind::Refused),
        ] {
            let (_, result) = post(answer, allow).await;
            let failure = result.expect_err("no reply");
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(!failure.detail.contains("127.0.0.1"));
        }
    }

    #[test]
    fn a_certificate_fault_is_named() {
        for (fault, words) in [
            (TlsFault::Expired, "expired"),
            (TlsFault::WrongHost, "another host"),
            (TlsFault::SelfSigned, "self-signed"),
            (TlsFault::UnknownIssuer, "unknown issuer"),
        ] {
            let failure = failure(SendError { kind: SendErrorKind::Tls(fault), maybe_sent: false });
            assert_eq!(failure.kind, TransportFailureKind::Tls);
            assert!(failure.detail.contains(words), "{failure}");
        }
    }
}
