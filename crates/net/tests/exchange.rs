//! Exchanges with real servers on loopback that behave, or do not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use midward_core::{BootTime, Clock, SystemClock, WallTime};
use midward_net::{
    AddressClass, AddressGuard, NotAfter, ProtocolFault, ProxyFault, SendError, SendErrorKind, SendOptions, TlsFault,
    WayConfig, WayOut,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn guard() -> AddressGuard {
    AddressGuard::new(["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network")))
}

fn options() -> SendOptions {
    SendOptions { deadline: Duration::from_secs(10), max_body: 1024, guard: guard() }
}

fn get(url: impl AsRef<str>) -> Request<Bytes> {
    Request::get(url.as_ref()).body(Bytes::new()).expect("a request")
}

async fn send(url: impl AsRef<str>) -> Result<Response<Bytes>, SendError> {
    WayOut::plain_default().expect("a way").send(get(url), &options()).await
}

/// Reads one request's head; `None` when the other side closed.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) {
    while head(&mut stream).await.is_some() {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers every request with the same bytes; counts connections. Closes after each answer when told so.
async fn server(text: &'static str, close: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let connections = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                if close {
                    head(&mut stream).await;
                    stream.write_all(text.as_bytes()).await.expect("written");
                } else {
                    answer(stream, text).await;
                }
            });
        }
    });
    (address, count)
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn leaf(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
    change(&mut params);
    (params, KeyPair::generate().expect("a key"))
}

async fn tls_server(certificate: rcgen::Certificate, key: KeyPair) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, OK).await;
                }
            });
        }
    });
    address
}

/// A way that trusts one authority, with the changes that a test wants.
fn way(dir: &Path, authority: &Authority, change: impl FnOnce(&mut WayConfig)) -> WayOut {
    std::fs::write(dir.join("ca.pem"), &authority.pem).expect("written");
    let mut config = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
    change(&mut config);
    WayOut::new(&config, dir).expect("a way")
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_every_bad_certificate_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let way = way(dir.path(), &ours, |_| ());

    let (params, key) = leaf("127.0.0.1", |_| ());
    let good = tls_server(params.signed_by(&key, &ours.issuer).expect("signed"), key).await;
    let response = way.send(get(format!("https://{good}/")), &options()).await.expect("trusted");
    assert_eq!(response.body(), "ok");
    // The way without our CA does not trust it.
    let error = send(format!("https://{good}/")).await.expect_err("not trusted");
    assert_eq!(error, SendError { kind: SendErrorKind::Tls(TlsFault::UnknownIssuer), maybe_sent: false });

    let mut cases = Vec::new();
    let (params, key) = leaf("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1));
    cases.push((TlsFault::Expired, tls_server(params.signed_by(&key, &ours.issuer).expect("signed"), key).await));
    let (params, key) = leaf("127.0.0.1", |params| params.not_before = date_time_ymd(4000, 1, 1));
    cases.push((TlsFault::NotYetValid, tls_server(params.signed_by(&key, &ours.issuer).expect("signed"), key).await));
    let (params, key) = leaf("other.example", |_| ());
    cases.push((TlsFault::WrongHost, tls_server(params.signed_by(&key, &ours.issuer).expect("signed"), key).await));
    let (params, key) = leaf("127.0.0.1", |_| ());
    cases.push((
        TlsFault::UnknownIssuer,
        tls_server(params.signed_by(&key, &theirs.issuer).expect("signed"), key).await,
    ));
    let (params, key) = leaf("127.0.0.1", |_| ());
    cases.push((TlsFault::SelfSigned, tls_server(params.self_signed(&key).expect("signed"), key).await));
    let (params, key) = leaf("127.0.0.1", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    cases.push((TlsFault::SelfSigned, tls_server(params.self_signed(&key).expect("signed"), key).await));
    for (fault, address) in cases {
        let error = way.send(get(format!("https://{address}/")), &options()).await.expect_err("refused");
        assert_eq!(error, SendError { kind: SendErrorKind::Tls(fault), maybe_sent: false });
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.expect("written");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("read");
        received
    });
    let error = send(format!("https://{address}/")).await.expect_err("not TLS");
    assert_eq!(error, SendError { kind: SendErrorKind::Tls(TlsFault::NotTls), maybe_sent: false });
    assert!(!String::from_utf8_lossy(&server.await.expect("ended")).contains("HTTP/1.1"), "fell back to plain HTTP");
}

/// A proxy for CONNECT and for absolute-form requests; wants `user:pass`. Counts what it let through.
async fn proxy(reported: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let reported = Arc::clone(&reported);
            tokio::spawn(async move {
                let Some(head) = head(&mut stream).await else { return };
                let refuse = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                if !head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz\r\n") {
                    stream.write_all(refuse("407 No").as_bytes()).await.expect("written");
                } else if let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) {
                    match TcpStream::connect(target).await {
                        Ok(mut upstream) => {
                            reported.fetch_add(1, Ordering::SeqCst);
                            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
                            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                        }
                        Err(_) => stream.write_all(refuse("502 Bad Gateway").as_bytes()).await.expect("written"),
                    }
                } else if head.starts_with("GET http://nowhere.invalid/x HTTP/1.1\r\n") {
                    reported.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(OK.as_bytes()).await.expect("written");
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_is_passed_with_its_password_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let ours = authority("ours");
    let (params, key) = leaf("127.0.0.1", |_| ());
    let target = tls_server(params.signed_by(&key, &ours.issuer).expect("signed"), key).await;
    let passed = Arc::new(AtomicUsize::new(0));
    let proxy = proxy(Arc::clone(&passed)).await;
    let through = |password: &str| {
        let file = dir.path().join(format!("password-{password}"));
        std::fs::write(&file, password).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("permissions");
        way(dir.path(), &ours, |config| {
            config.proxy = Some(midward_net::ProxyConfig {
                url: format!("http://{proxy}"),
                username: Some("user".into()),
                password_file: Some(file),
            });
        })
    };
    let right = through("pass");
    assert_eq!(right.proxy_origin(), Some(format!("http://{proxy}").as_str()));
    let response = right.send(get(format!("https://{target}/")), &options()).await.expect("tunnelled");
    assert_eq!(response.body(), "ok");
    // The name is the proxy's to resolve; nobody else could.
    let response = right.send(get("http://nowhere.invalid/x"), &options()).await.expect("passed on");
    assert_eq!(response.body(), "ok");
    assert_eq!(passed.load(Ordering::SeqCst), 2);

    let error = right.send(get("https://127.0.0.1:1/"), &options()).await.expect_err("nobody listens there");
    assert_eq!(error, SendError { kind: SendErrorKind::Proxy(ProxyFault::Status(502)), maybe_sent: false });
    // An address is refused even where the proxy would dial it.
    let unlisted = SendOptions { guard: AddressGuard::default(), ..options() };
    let error = right.send(get(format!("https://{target}/")), &unlisted).await.expect_err("not listed");
    assert_eq!(error.kind, SendErrorKind::Refused(AddressClass::Loopback));

    let wrong = through("wrong");
    let error = wrong.send(get(format!("https://{target}/")), &options()).await.expect_err("wrong password");
    assert_eq!(error, SendError { kind: SendErrorKind::Proxy(ProxyFault::Authentication), maybe_sent: false });
    let error = wrong.send(get("http://nowhere.invalid/x"), &options()).await.expect_err("wrong password");
    assert_eq!(error.kind, SendErrorKind::Proxy(ProxyFault::Authentication));
    assert_eq!(passed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_guard_refuses_before_anything_is_dialled() {
    let (address, connections) = server(OK, false).await;
    let way = WayOut::plain_default().expect("a way");
    let unlisted = SendOptions { guard: AddressGuard::default(), ..options() };
    let port = address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"] {
        let error = way.send(get(format!("http://{host}:{port}/")), &unlisted).await.expect_err(host);
        let refused = SendErrorKind::Refused(AddressClass::Loopback);
        assert_eq!(error, SendError { kind: refused, maybe_sent: false }, "{host}");
    }
    let metadata = way.send(get("http://169.254.169.254/latest/"), &unlisted).await.expect_err("refused");
    assert_eq!(metadata.kind, SendErrorKind::Refused(AddressClass::Metadata));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn connections_are_reused_under_one_guard_and_never_under_another() {
    let (address, connections) = server(OK, false).await;
    let way = WayOut::plain_default().expect("a way");
    // By name, so that only the dialled address can be checked.
    let url = format!("http://localhost:{}/", address.port());
    for _ in 0..5 {
        way.send(get(&url), &options()).await.expect("an answer");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let unlisted = SendOptions { guard: AddressGuard::default(), ..options() };
    let error = way.send(get(&url), &unlisted).await.expect_err("the pooled connection is not for this guard");
    assert_eq!(error, SendError { kind: SendErrorKind::Refused(AddressClass::Loopback), maybe_sent: false });
    let other = AddressGuard::new(["127.0.0.1/32".parse().expect("a network")]);
    way.send(get(&url), &SendOptions { guard: other, ..options() }).await.expect("an answer");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    // More guards than there are pools: all of them still work.
    for last in 0..100 {
        let nets = ["127.0.0.1/32".to_owned(), format!("10.0.0.{last}/32")];
        let guard = AddressGuard::new(nets.map(|net| net.parse().expect("a network")));
        way.send(get(&url), &SendOptions { guard, ..options() }).await.expect("an answer");
    }
}

#[tokio::test]
async fn answers_that_are_framed_wrongly_are_refused() {
    for (text, fault) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", ProtocolFault::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx", ProtocolFault::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ProtocolFault::Body),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", ProtocolFault::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", ProtocolFault::ContentLength),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", ProtocolFault::Upgrade),
        ("SSH-2.0-OpenSSH_10\r\n\r\n", ProtocolFault::NotHttp),
    ] {
        let (address, _) = server(text, true).await;
        let error = send(format!("http://{address}/")).await.expect_err(text);
        assert_eq!(error, SendError { kind: SendErrorKind::Protocol(fault), maybe_sent: true }, "{text}");
    }
    let (address, _) = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", true).await;
    let error = send(format!("http://{address}/")).await.expect_err("two lengths");
    assert!(matches!(error.kind, SendErrorKind::Protocol(_)) && error.maybe_sent, "{error:?}");
    let (address, _) = server("", true).await;
    let error = send(format!("http://{address}/")).await.expect_err("no answer");
    assert_eq!(error, SendError { kind: SendErrorKind::Closed, maybe_sent: true });
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read() {
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 1025\r\n\r\n";
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n";
    let long: &'static str = format!("{endless}{}\r\n1\r\nx\r\n", "a".repeat(1024)).leak();
    for text in [announced, long] {
        let (address, _) = server(text, false).await;
        let error = send(format!("http://{address}/")).await.expect_err("too large");
        assert_eq!(error, SendError { kind: SendErrorKind::BodyTooLarge { limit: 1024 }, maybe_sent: true });
    }
    let exact: &'static str = format!("{endless}{}\r\n0\r\n\r\n", "a".repeat(1024)).leak();
    let (address, _) = server(exact, false).await;
    assert_eq!(send(format!("http://{address}/")).await.expect("an answer").body().len(), 1024);
}

#[tokio::test]
async fn a_slow_drip_and_silence_end_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                let mut tick = tokio::time::interval(Duration::from_millis(20));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
                while stream.write_all(b"x").await.is_ok() {
                    tick.tick().await;
                }
            });
        }
    });
    let way = WayOut::plain_default().expect("a way");
    let short = SendOptions { deadline: Duration::from_millis(200), ..options() };
    let error = way.send(get(format!("http://{address}/")), &short).await.expect_err("too slow");
    assert_eq!(error, SendError { kind: SendErrorKind::Timeout, maybe_sent: true });

    // Accepts by the backlog, and never speaks TLS: no byte of the request can have left.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://{}/", silent.local_addr().expect("an address"));
    let error = way.send(get(url), &short).await.expect_err("silent");
    assert_eq!(error, SendError { kind: SendErrorKind::Timeout, maybe_sent: false });
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let (address, connections) = server(redirect, false).await;
    let response = send(format!("http://{address}/")).await.expect("an answer");
    assert_eq!(response.status(), 307);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_dies_while_idle_never_costs_more_than_a_resend() {
    // Keeps the connection open by its headers, and closes it: the client finds out at any moment.
    let (address, _) = server(OK, true).await;
    let way = WayOut::plain_default().expect("a way");
    for _ in 0..50 {
        match way.send(get(format!("http://{address}/")), &options()).await {
            Ok(response) => assert_eq!(response.body(), "ok"),
            Err(error) => assert_eq!(error.kind, SendErrorKind::Closed),
        }
    }
}

/// The variables are set for a process of its own, because other tests run in this one.
#[tokio::test]
async fn the_environment_reroutes_nothing() {
    const CHILD: &str = "MIDWARD_TEST_URL";
    if let Ok(url) = std::env::var(CHILD) {
        assert_eq!(send(url).await.expect("a direct answer").body(), "ok");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (address, connections) = server(OK, false).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"));
    child.args(["--exact", "the_environment_reroutes_nothing"]).env(CHILD, format!("http://{address}/"));
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, "http://127.0.0.1:1");
    }
    child.env("SSL_CERT_FILE", "/nonexistent").env("SSLKEYLOGFILE", dir.path().join("keys"));
    let output = child.output().await.expect("it ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(!dir.path().join("keys").exists());
}

#[tokio::test]
async fn what_is_no_http_url_is_not_sent() {
    for url in ["/path", "ftp://127.0.0.1/", "ws://127.0.0.1/"] {
        let error = send(url).await.expect_err(url);
        assert_eq!(error, SendError { kind: SendErrorKind::BadRequest, maybe_sent: false }, "{url}");
    }
    let connect = Request::connect("http://127.0.0.1:1/").body(Bytes::new()).expect("a request");
    let error = WayOut::plain_default().expect("a way").send(connect, &options()).await.expect_err("a tunnel");
    assert_eq!(error, SendError { kind: SendErrorKind::BadRequest, maybe_sent: false });
    // A label of 64 characters is no name: nothing is asked for.
    let error = send(format!("http://{}.invalid/", "a".repeat(64))).await.expect_err("no such name");
    assert_eq!(error, SendError { kind: SendErrorKind::Dns, maybe_sent: false });
}

/// Goes on by a second each time that it is asked.
struct Ticking(AtomicUsize);

impl Clock for Ticking {
    fn boot(&self) -> BootTime {
        let seconds = self.0.fetch_add(1, Ordering::SeqCst);
        BootTime::from_duration(Duration::from_secs(u64::try_from(seconds).expect("small")))
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix_millis(0)
    }
}

#[tokio::test]
async fn nothing_is_written_on_a_connection_that_comes_too_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.expect("closed");
        seen
    });
    let way = WayOut::plain_default().expect("a way");
    // Asked before anything is done, for the timer, and when the connection is there.
    let end =
        NotAfter { clock: Arc::new(Ticking(AtomicUsize::new(0))), at: BootTime::from_duration(Duration::from_secs(2)) };
    let unsent = SendError { kind: SendErrorKind::Timeout, maybe_sent: false };
    let result = way.send_before(get(format!("http://{address}/")), &options(), end).await;
    assert_eq!(result.map(drop), Err(unsent));
    assert_eq!(seen.await.expect("no panic"), b"");

    let (address, connections) = server(OK, false).await;
    let over =
        NotAfter { clock: Arc::new(Ticking(AtomicUsize::new(9))), at: BootTime::from_duration(Duration::from_secs(9)) };
    let result = way.send_before(get(format!("http://{address}/")), &options(), over).await;
    assert_eq!((result.map(drop), connections.load(Ordering::SeqCst)), (Err(unsent), 0));
    let far = NotAfter {
        clock: Arc::new(Ticking(AtomicUsize::new(0))),
        at: BootTime::from_duration(Duration::from_hours(1)),
    };
    way.send_before(get(format!("http://{address}/")), &options(), far).await.expect("an answer");
}

#[tokio::test]
async fn a_connection_that_does_not_come_in_time_ends_the_wait() {
    // Accepts by the backlog, and never speaks TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://{}/", silent.local_addr().expect("an address"));
    let clock = Arc::new(SystemClock);
    let end = NotAfter { at: clock.boot() + Duration::from_millis(200), clock };
    let way = WayOut::plain_default().expect("a way");
    let options = SendOptions { deadline: Duration::from_secs(60), ..options() };
    let error = way.send_before(get(url), &options, end).await.expect_err("silent");
    assert_eq!(error, SendError { kind: SendErrorKind::Timeout, maybe_sent: false });
}
