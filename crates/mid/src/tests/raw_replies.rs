//! A token endpoint that answers with bytes that are no good HTTP, or no good answer, over a raw socket and through the
//! whole engine: a typed failure without a word of the server's, the secret sent once, no connection used twice, and a
//! token without anybody's help once the server is in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use midward_net::WayOut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::token_endpoint::{REQUEST_END, clock, handle};

/// Answers each request on a connection with the bytes that are current, and closes when told so.
struct Endpoint {
    address: SocketAddr,
    answer: tokio::sync::watch::Sender<(Vec<u8>, bool)>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(answer: Vec<u8>, close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (answer, current) = tokio::sync::watch::channel((answer, close));
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepted, counted) = (Arc::clone(&connections), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let ((answer, close), counted) = (current.borrow().clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        seen.push(byte);
                        if seen.ends_with(REQUEST_END) {
                            seen.clear();
                            counted.fetch_add(1, Ordering::SeqCst);
                            if stream.write_all(&answer).await.is_err() || close {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, answer, connections, requests }
    }
}

fn with_length(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const GOOD: &str = r#"{"access_token":"t1","token_type":"Bearer","expires_in":300}"#;

#[tokio::test]
async fn whatever_the_token_endpoint_answers_the_failure_is_typed_and_heals() {
    let elsewhere = Endpoint::start(with_length("200 OK", "", GOOD), false).await;
    let chunked = |rest: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{rest}").into_bytes();
    let cases: Vec<(&str, Vec<u8>, bool, &str)> = vec![
        (
            "truncated",
            b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"hunter2\"".to_vec(),
            true,
            "token_reply_invalid",
        ),
        ("bad chunk", chunked("zz\r\nhunter2"), true, "token_reply_invalid"),
        ("truncated chunk", chunked("5\r\nab"), true, "token_reply_invalid"),
        (
            "length twice",
            {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {0}\r\nContent-Length: {0}\r\n\r\n", GOOD.len());
                (head + GOOD).into_bytes()
            },
            true,
            "token_reply_invalid",
        ),
        ("no HTTP", b"SSH-2.0-hunter2\r\n\r\n".to_vec(), true, "token_reply_invalid"),
        ("compressed", with_length("200 OK", "Content-Encoding: gzip\r\n", GOOD), false, "token_reply_invalid"),
        ("64 KiB and one", with_length("200 OK", "", &"x".repeat(65_537)), false, "token_reply_invalid"),
        ("10 MB", chunked(&format!("A00000\r\n{}", "x".repeat(200_000))), false, "token_reply_invalid"),
        (
            "another protocol",
            b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(),
            false,
            "token_reply_invalid",
        ),
        ("no answer", Vec::new(), true, "token_endpoint_unreachable"),
        (
            "a redirect",
            {
                let location = format!("Location: http://{}/token\r\n", elsewhere.address);
                with_length("307 Temporary Redirect", &location, "")
            },
            false,
            "token_endpoint_redirects",
        ),
        (
            "a web page",
            with_length("200 OK", "Content-Type: text/html\r\n", "<html>hunter2</html>"),
            false,
            "token_reply_invalid",
        ),
        ("nothing", with_length("200 OK", "", ""), false, "token_reply_invalid"),
        ("a proxy's page", with_length("502 Bad Gateway", "", "hunter2"), false, "token_endpoint_unavailable"),
        ("a rest", with_length("429 Wait", "Retry-After: 1\r\n", "{}"), false, "rate_limited"),
    ];
    for (name, answer, close, code) in cases {
        let endpoint = Endpoint::start(answer, close).await;
        let clock = clock();
        let way = WayOut::plain_default().expect("a way");
        let handle = handle(&format!("http://{}/token", endpoint.address), way, &clock);
        let failure = handle.token(Duration::from_secs(20)).await.map(drop).expect_err(name);
        assert_eq!(failure.code, code, "{name}: {failure}");
        assert!(!failure.to_string().contains("hunter2"), "{name}: {failure}");
        assert_eq!(endpoint.requests.load(Ordering::SeqCst), 1, "{name}: the secret was sent again");

        endpoint.answer.send_replace((with_length("200 OK", "", GOOD), false));
        clock.advance(Duration::from_secs(10));
        let granted = handle.token(Duration::from_secs(20)).await.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(granted.token().expose(), "t1");
        let (connections, requests) = (&endpoint.connections, &endpoint.requests);
        assert_eq!((connections.load(Ordering::SeqCst), requests.load(Ordering::SeqCst)), (2, 2), "{name}");
    }
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0, "a redirect was followed");
}
