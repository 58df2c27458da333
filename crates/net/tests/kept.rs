//! Which connection a request takes, and how it looks there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use midward_net::{AddressGuard, ProxyConfig, SendError, SendErrorKind, SendOptions, WayConfig, WayOut};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify, mpsc};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LONG: Duration = Duration::from_secs(10);

fn options() -> SendOptions {
    let guard = AddressGuard::new(["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network")));
    SendOptions { deadline: LONG, max_body: 1024, guard }
}

fn get(url: impl AsRef<str>) -> Request<Bytes> {
    Request::get(url.as_ref()).body(Bytes::new()).expect("a request")
}

fn plain() -> WayOut {
    WayOut::plain_default().expect("a way")
}

/// One that fails the test when it does not come.
async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(LONG, event).await.expect("in time")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Reads one request's head; `None` when the other side closed.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Answers all requests of a connection with the same bytes, and tells their heads.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, heads: &mpsc::UnboundedSender<String>) {
    while let Some(head) = head(&mut stream).await {
        heads.send(head).expect("the test waits");
        stream.write_all(OK.as_bytes()).await.expect("written");
    }
}

/// Counts its connections, and tells when it has done with one.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Their numbers, from 0 on.
    ended: mpsc::UnboundedReceiver<usize>,
}

/// `serve` has a connection and its number.
async fn server<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let (ends, ended) = mpsc::unbounded_channel();
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let (serving, ends) = (serve(stream, number), ends.clone());
            tokio::spawn(async move {
                serving.await;
                // The test may have ended.
                let _ = ends.send(number);
            });
        }
    });
    Server { address, accepted, ended }
}

impl Server {
    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn serve_ok(mut stream: TcpStream, _: usize) {
    while head(&mut stream).await.is_some() {
        stream.write_all(OK.as_bytes()).await.expect("written");
    }
}

/// Until no more tasks are alive than that.
async fn until_tasks(most: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    soon(async {
        while metrics.num_alive_tasks() > most {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// In no time, but for the timers. Nothing may be under way: its deadlines would come first.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

fn ok(result: Result<Response<Bytes>, SendError>) {
    assert_eq!(result.expect("an answer").body(), "ok");
}

#[tokio::test]
async fn one_connection_takes_requests_of_all_kinds_and_ways_share_none() {
    let mut server = server(|mut stream, _| async move {
        while let Some(head) = head(&mut stream).await {
            if head.starts_with("POST") {
                let mut body = [0; 5];
                stream.read_exact(&mut body).await.expect("a body");
                assert_eq!(&body, b"hello");
            }
            let answer = if head.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
            } else if head.starts_with("DELETE") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
            };
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    })
    .await;
    let way = plain();
    for _ in 0..3 {
        let post = Request::post(server.url()).body(Bytes::from_static(b"hello")).expect("a request");
        ok(way.send(post, &options()).await);
        ok(way.send(get(server.url()), &options()).await);
        for method in [http::Method::HEAD, http::Method::DELETE] {
            let request = Request::builder().method(method).uri(server.url()).body(Bytes::new()).expect("a request");
            assert_eq!(way.send(request, &options()).await.expect("an answer").body(), "");
        }
    }
    assert_eq!(server.accepted(), 1);
    ok(plain().send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 2);
    // The second way is gone, and its connection with it.
    assert_eq!(soon(server.ended.recv()).await, Some(1));
    ok(way.send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 2);
    drop(way);
    assert_eq!(soon(server.ended.recv()).await, Some(0));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_taken() {
    let close = Arc::new(Notify::new());
    let told = Arc::clone(&close);
    let server = server(move |mut stream, number| {
        let told = Arc::clone(&told);
        async move {
            head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.expect("written");
            if number == 0 {
                told.notified().await;
            } else {
                serve_ok(stream, number).await;
            }
        }
    })
    .await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let way = plain();
    ok(way.send(get(server.url()), &options()).await);
    close.notify_one();
    // Gone: the server's task, and the one that drove the connection. The pool's own stays.
    until_tasks(tasks + 1).await;
    ok(way.send(get(server.url()), &options()).await);
    ok(way.send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsent_is_said_only_of_what_the_server_never_saw() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    // Keeps the connection by its headers, and closes it after each second answer: the client finds out at any moment.
    let server = server(move |mut stream, _| {
        let log = Arc::clone(&log);
        async move {
            for _ in 0..2 {
                let Some(head) = head(&mut stream).await else { return };
                log.lock().expect("no panic").push(head.split(' ').nth(1).expect("a path").to_owned());
                stream.write_all(OK.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    let way = plain();
    let mut unsent = Vec::new();
    let mut answered = Vec::new();
    for number in 0..400 {
        match way.send(get(format!("{}{number}", server.url())), &options()).await {
            Ok(_) => answered.push(format!("/{number}")),
            Err(SendError { kind: SendErrorKind::Closed, maybe_sent }) => {
                unsent.extend((!maybe_sent).then(|| format!("/{number}")));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    let seen = seen.lock().expect("no panic");
    for path in &answered {
        assert_eq!(seen.iter().filter(|one| *one == path).count(), 1, "{path}");
    }
    for path in &unsent {
        assert!(!seen.contains(path), "{path}");
    }
    assert!(answered.len() >= 200, "{}", answered.len());
}

#[tokio::test]
async fn what_was_not_read_to_its_end_is_closed() {
    const PART: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\npart";
    let mut server = server(|mut stream, number| async move {
        head(&mut stream).await;
        if number < 4 {
            stream.write_all(PART.as_bytes()).await.expect("written");
            assert_eq!(head(&mut stream).await, None, "asked again");
        } else {
            stream.write_all(OK.as_bytes()).await.expect("written");
            serve_ok(stream, number).await;
        }
    })
    .await;
    let way = plain();
    let large = way.send(get(server.url()), &options()).await.expect_err("too large");
    assert_eq!(large, SendError { kind: SendErrorKind::BodyTooLarge { limit: 1024 }, maybe_sent: true });
    assert_eq!(soon(server.ended.recv()).await, Some(0));

    let roomy = SendOptions { max_body: 4096, ..options() };
    let hasty = SendOptions { deadline: Duration::from_millis(50), ..roomy.clone() };
    let late = way.send(get(server.url()), &hasty).await.expect_err("too late");
    assert_eq!(late, SendError { kind: SendErrorKind::Timeout, maybe_sent: true });
    assert_eq!(soon(server.ended.recv()).await, Some(1));

    // Given up by who asked.
    let (other, url) = (way.clone(), server.url());
    let asked = tokio::spawn(async move { other.send(get(url), &roomy).await.map(drop) });
    soon(async {
        while server.accepted() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    asked.abort();
    assert!(asked.await.expect_err("given up").is_cancelled());
    assert_eq!(soon(server.ended.recv()).await, Some(2));

    let short = SendOptions { max_body: 3, ..options() };
    way.send(get(server.url()), &short).await.expect_err("too large");
    assert_eq!(soon(server.ended.recv()).await, Some(3));
    ok(way.send(get(server.url()), &options()).await);
    ok(way.send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_asked_for_is_nobodys() {
    let server = server(|mut stream, _| async move {
        while head(&mut stream).await.is_some() {
            let both = format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen");
            stream.write_all(both.as_bytes()).await.expect("written");
        }
    })
    .await;
    let way = plain();
    for _ in 0..200 {
        ok(way.send(get(server.url()), &options()).await);
    }
    assert_eq!(server.accepted(), 200);
}

#[tokio::test]
async fn what_still_sends_an_answered_request_holds_nobody_up() {
    const LARGE: usize = 64 << 20;
    let (go, received) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (told, count) = (Arc::clone(&go), Arc::clone(&received));
    let mut server = server(move |mut stream, number| {
        let (told, count) = (Arc::clone(&told), Arc::clone(&count));
        async move {
            head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.expect("written");
            if number > 0 {
                return serve_ok(stream, number).await;
            }
            // The body is too large for the sockets' buffers, and is not read yet.
            told.notified().await;
            let mut body = Vec::new();
            // Whether the client's end is orderly does not matter.
            let _ = stream.read_to_end(&mut body).await;
            count.store(body.len(), Ordering::SeqCst);
        }
    })
    .await;
    let way = plain();
    let large = Request::post(server.url()).body(Bytes::from(vec![0; LARGE])).expect("a request");
    ok(way.send(large, &options()).await);
    ok(way.send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 2);
    go.notify_one();
    assert_eq!(soon(server.ended.recv()).await, Some(0));
    assert!(received.load(Ordering::SeqCst) < LARGE, "it was closed before the body was sent");
}

#[tokio::test]
async fn idle_connections_are_closed_after_thirty_seconds() {
    let mut server = server(serve_ok).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let way = plain();
    ok(way.send(get(server.url()), &options()).await);
    // Each use counts anew.
    for _ in 0..3 {
        pass(Duration::from_secs(20)).await;
        ok(way.send(get(server.url()), &options()).await);
    }
    assert_eq!(server.accepted(), 1);
    pass(Duration::from_secs(29)).await;
    assert!(server.ended.try_recv().is_err());
    pass(Duration::from_secs(3)).await;
    assert_eq!(soon(server.ended.recv()).await, Some(0));
    // Nothing is left that runs, and the next one begins anew.
    until_tasks(tasks).await;
    ok(way.send(get(server.url()), &options()).await);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_takes_the_connections_of_the_one_before() {
    const MANY: usize = 64;
    let together = Arc::new(Barrier::new(MANY));
    let server = server(move |mut stream, _| {
        let together = Arc::clone(&together);
        async move {
            while head(&mut stream).await.is_some() {
                // None is answered before all are there.
                together.wait().await;
                stream.write_all(OK.as_bytes()).await.expect("written");
            }
        }
    })
    .await;
    let way = plain();
    for _ in 0..3 {
        let mut burst = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            let (way, url) = (way.clone(), server.url());
            burst.spawn(async move { way.send(get(url), &options()).await });
        }
        while let Some(answer) = soon(burst.join_next()).await {
            ok(answer.expect("no panic"));
        }
    }
    assert_eq!(server.accepted(), MANY);
}

/// The lines of a head, without case: the first one, and `host`'s values.
fn look(head: &str) -> (String, Vec<String>) {
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().expect("a line").to_owned();
    let pairs = lines.filter_map(|line| line.split_once(':'));
    (first, pairs.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, v)| v.trim().to_owned()).collect())
}

#[tokio::test]
async fn a_direct_request_has_a_path_and_the_host_of_its_url() {
    let (heads, mut told) = mpsc::unbounded_channel();
    let server = server(move |stream, _| {
        let heads = heads.clone();
        async move { answer(stream, &heads).await }
    })
    .await;
    let (way, address) = (plain(), server.address);
    for (url, line) in [
        (format!("http://{address}"), "GET / HTTP/1.1"),
        (format!("http://{address}/a/b?c=d"), "GET /a/b?c=d HTTP/1.1"),
        (format!("http://{address}?c=d"), "GET /?c=d HTTP/1.1"),
        (format!("http://user:secret@{address}/x"), "GET /x HTTP/1.1"),
    ] {
        ok(way.send(get(&url), &options()).await);
        let head = told.recv().await.expect("a head");
        assert_eq!(look(&head), (line.to_owned(), vec![address.to_string()]), "{url}");
        assert!(!head.contains("secret"), "{head}");
    }
    let own = Request::get(server.url()).header("host", "own.example").body(Bytes::new()).expect("a request");
    ok(way.send(own, &options()).await);
    assert_eq!(look(&told.recv().await.expect("a head")).1, ["own.example"]);
    // A user is nothing that a connection depends on.
    assert_eq!(server.accepted(), 1);
}

/// Takes each request for `inside`; a tunnel leads to `target`, whatever it was asked for.
async fn proxy(target: SocketAddr, heads: mpsc::UnboundedSender<String>) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    heads.send(head.clone()).expect("the test waits");
                    if head.starts_with("CONNECT ") {
                        let mut upstream = TcpStream::connect(target).await.expect("connected");
                        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                        return;
                    }
                    stream.write_all(OK.as_bytes()).await.expect("written");
                }
            });
        }
    });
    address
}

/// A TLS server for `inside.example`, and its certificate.
async fn tls_server(heads: mpsc::UnboundedSender<String>) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["inside.example".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heads) = (acceptor.clone(), heads.clone());
            tokio::spawn(async move { answer(acceptor.accept(stream).await.expect("TLS"), &heads).await });
        }
    });
    (address, cert.pem())
}

#[tokio::test]
async fn a_proxy_gets_whole_urls_and_a_tunnel_gets_paths() {
    let dir = tempfile::tempdir().expect("a directory");
    let (heads, mut told) = mpsc::unbounded_channel();
    let (inner_heads, mut inner_told) = mpsc::unbounded_channel();
    let (target, pem) = tls_server(inner_heads).await;
    std::fs::write(dir.path().join("ca.pem"), pem).expect("written");
    let proxy =
        ProxyConfig { url: format!("http://{}", proxy(target, heads).await), username: None, password_file: None };
    let config = WayConfig { ca_file: Some("ca.pem".into()), proxy: Some(proxy), ..WayConfig::default() };
    let way = WayOut::new(&config, dir.path()).expect("a way");
    for (url, line, host) in [
        ("http://inside.example/a?b", "GET http://inside.example/a?b HTTP/1.1", "inside.example"),
        ("http://inside.example", "GET http://inside.example/ HTTP/1.1", "inside.example"),
        ("http://inside.example:80/", "GET http://inside.example:80/ HTTP/1.1", "inside.example"),
        ("http://u:secret@inside.example:81/", "GET http://inside.example:81/ HTTP/1.1", "inside.example:81"),
    ] {
        ok(way.send(get(url), &options()).await);
        let head = told.recv().await.expect("a head");
        assert_eq!(look(&head), (line.to_owned(), vec![host.to_owned()]), "{url}");
        assert!(!head.contains("secret"), "{head}");
    }
    for (url, tunnel, host) in [
        ("https://inside.example/a?b", Some("inside.example:443"), "inside.example"),
        // Over the tunnel that is there.
        ("https://inside.example/a?b", None, "inside.example"),
        ("https://u:secret@inside.example:444/a?b", Some("inside.example:444"), "inside.example:444"),
    ] {
        ok(way.send(get(url), &options()).await);
        let asked = told.try_recv().ok().map(|head| look(&head).0);
        assert_eq!(asked, tunnel.map(|authority| format!("CONNECT {authority} HTTP/1.1")), "{url}");
        let inner = inner_told.recv().await.expect("a head");
        assert_eq!(look(&inner), ("GET /a?b HTTP/1.1".to_owned(), vec![host.to_owned()]), "{url}");
    }
}
