//! The token endpoint behind TLS that must not be trusted, through the whole engine: nothing is sent, never plain HTTP,
//! the failure says which fault it is, and once the server is in order a token comes without anybody's help.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use midward_net::{WayConfig, WayOut};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::token_endpoint::{REQUEST_END, clock, handle};

const ANSWER: &str = r#"{"access_token":"t1","token_type":"Bearer","expires_in":300}"#;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    Authority { pem: certificate.pem(), issuer: Issuer::new(params, key) }
}

/// A server's certificate for `name`, by `authority` or by itself.
fn identity(
    name: &str,
    authority: Option<&Authority>,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = match authority {
        Some(authority) => params.signed_by(&key, &authority.issuer),
        None => params.self_signed(&key),
    };
    let der = certificate.expect("signed").der().clone();
    (der, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

/// How the endpoint speaks on its next connection.
#[derive(Clone)]
enum Speaks {
    Tls(Arc<ServerConfig>),
    /// It answers the first message with these bytes, as a server does that knows nothing newer than TLS 1.1.
    Bytes(&'static [u8]),
}

fn tls((certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Speaks {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Speaks::Tls(Arc::new(config.expect("a set-up")))
}

/// A token endpoint whose way of speaking can be changed while it runs.
struct Endpoint {
    address: SocketAddr,
    speaks: tokio::sync::watch::Sender<Speaks>,
    connections: Arc<AtomicUsize>,
    /// Bytes of requests that it could read, on a TLS connection or outside of any.
    requests: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (speaks, current) = tokio::sync::watch::channel(speaks);
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, readable) = (Arc::clone(&connections), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (speaks, readable) = (current.borrow().clone(), Arc::clone(&readable));
                tokio::spawn(async move { converse(stream, speaks, &readable).await });
            }
        });
        Self { address, speaks, connections, requests }
    }
}

async fn converse(mut stream: TcpStream, speaks: Speaks, requests: &AtomicUsize) {
    match speaks {
        Speaks::Tls(config) => {
            let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            let mut seen = Vec::new();
            while !seen.ends_with(REQUEST_END) {
                let Ok(byte) = stream.read_u8().await else { return };
                requests.fetch_add(1, Ordering::SeqCst);
                seen.push(byte);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", ANSWER.len());
            let _ = stream.write_all((head + ANSWER).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Speaks::Bytes(bytes) => {
            let mut seen = vec![0; 4096];
            let Ok(length) = stream.read(&mut seen).await else { return };
            seen.truncate(length);
            // A TLS record of the type handshake; anything else would be the request in the clear.
            if seen.first() != Some(&0x16) || seen.windows(6).any(|window| window == b"s3cret") {
                requests.fetch_add(length, Ordering::SeqCst);
            }
            let _ = stream.write_all(bytes).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            if rest.windows(6).any(|window| window == b"s3cret") {
                requests.fetch_add(rest.len(), Ordering::SeqCst);
            }
        }
    }
}

/// Nothing readable was sent, the failure names the fault, and a server that is put in order is used by itself.
async fn refused(bad: Speaks, good: Speaks, ours: &Authority, words: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = Endpoint::start(bad).await;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &ours.pem).expect("written");
    let way = WayOut::new(&WayConfig { ca_file: Some(ca_file), ..WayConfig::default() }, folder.path());
    let clock = clock();
    let handle = handle(&format!("https://{}/token", endpoint.address), way.expect("a way"), &clock);
    let failure = handle.token(Duration::from_secs(20)).await.map(drop).expect_err(words);
    assert_eq!(failure.code, "token_endpoint_tls", "{failure}");
    assert!(failure.detail.contains(words), "{words}: {failure}");
    assert_eq!(endpoint.requests.load(Ordering::SeqCst), 0, "{words}: a request was sent");
    assert_eq!(endpoint.connections.load(Ordering::SeqCst), 1, "{words}: nothing else was tried");
    assert!(handle.cached().is_none());

    endpoint.speaks.send_replace(good);
    clock.advance(Duration::from_secs(2));
    let granted = handle.token(Duration::from_secs(20)).await.expect("a server in order");
    assert_eq!(granted.token().expose(), "t1");
}

#[tokio::test]
async fn certificates_that_must_not_be_trusted_are_refused_and_named() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let good = tls(identity("127.0.0.1", Some(&ours), |_| ()));
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2090, 1, 1);
    for (identity, words) in [
        (identity("127.0.0.1", Some(&ours), past), "expired"),
        (identity("127.0.0.1", Some(&ours), future), "not valid yet"),
        (identity("login.example.com", Some(&ours), |_| ()), "another host"),
        (identity("127.0.0.1", None, |_| ()), "self-signed"),
        (identity("127.0.0.1", Some(&theirs), |_| ()), "unknown issuer"),
    ] {
        refused(tls(identity), good.clone(), &ours, words).await;
    }
}

/// RFC 4346: an alert, level fatal, description protocol_version (70), in a record of TLS 1.1.
const ALERT: &[u8] = &[21, 3, 2, 0, 2, 2, 70];

/// RFC 4346: a ServerHello that chooses TLS 1.1 and TLS_RSA_WITH_AES_128_CBC_SHA, with 32 bytes of randomness, no
/// session and no compression.
const HELLO: &[u8] = &[
    22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 0, 0, 47, 0,
];

/// The same of TLS 1.0 (RFC 2246).
const OLDER: &[u8] = &[
    22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 0, 0, 47, 0,
];

#[tokio::test]
async fn a_server_that_speaks_nothing_newer_than_tls_1_1_is_refused_and_named() {
    let ours = authority("ours");
    let good = tls(identity("127.0.0.1", Some(&ours), |_| ()));
    for bytes in [ALERT, HELLO, OLDER] {
        refused(Speaks::Bytes(bytes), good.clone(), &ours, "neither TLS 1.2 nor TLS 1.3").await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_plain_http_on_its_tls_port_gets_no_request() {
    let ours = authority("ours");
    let good = tls(identity("127.0.0.1", Some(&ours), |_| ()));
    let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    refused(Speaks::Bytes(answer), good, &ours, "does not speak TLS").await;
}
