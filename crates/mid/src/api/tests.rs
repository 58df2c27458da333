use std::net::SocketAddr;

use midward_core::{Secret, SystemClock, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const TOKEN: &str = "secret-token-0123456789";

/// Answers each connection's requests (without bodies) from `answers`, in turn; closes after each `None`.
async fn api<A: AsRef<[u8]> + Send + 'static>(
    answers: Vec<Option<A>>,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        'accept: while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                seen.send(String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned()).expect("a reader");
                let Some(Some(answer)) = answers.next() else { continue 'accept };
                stream.write_all(answer.as_ref()).await.expect("written");
            }
        }
    });
    (address, requests)
}

fn permitted(address: SocketAddr) -> PermittedCall {
    PermittedCall {
        method: http::Method::GET,
        target: format!("http://{address}/x?y=1").parse().expect("a URL"),
        // An instance that would like to read an echoed token past the scrubber.
        headers: HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]),
    }
}

fn caller() -> ApiCaller {
    let way = WayOut::plain_default().expect("a way");
    ApiCaller::new(way, Arc::new(SystemClock), Arc::new(SystemRandom), 1024)
}

async fn call(address: SocketAddr, guard: AddressGuard, timeout: Duration) -> Result<ApiReply, ApiCallError> {
    call_until(SystemClock.boot() + Duration::from_mins(1), address, guard, timeout).await
}

/// With a token that ends then.
async fn call_until(
    expires: BootTime,
    address: SocketAddr,
    guard: AddressGuard,
    timeout: Duration,
) -> Result<ApiReply, ApiCallError> {
    let token = AccessToken::new(Secret::from(TOKEN)).expect("legal");
    let token = CallToken { token, expires, certificate: None, dpop: None };
    let called =
        caller().call(&permitted(address), &guard, Bytes::new(), &token, timeout, Duration::from_mins(1)).await;
    called.map(|called| called.reply)
}

fn loopback() -> AddressGuard {
    AddressGuard::new(["127.0.0.0/8".parse().expect("a network")])
}

#[tokio::test]
async fn the_call_carries_the_token_and_the_reply_does_not() {
    let body = format!("you sent {TOKEN}!");
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: https://evil.example/?{TOKEN}\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\
         Connection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (address, mut requests) = api(vec![Some(answer)]).await;
    let reply = call(address, loopback(), Duration::from_secs(10)).await.expect("a reply");
    let sent = requests.recv().await.expect("a request").to_ascii_lowercase();
    assert!(sent.starts_with("get /x?y=1 http/1.1\r\n"), "{sent}");
    assert!(sent.contains(&format!("\r\nauthorization: bearer {TOKEN}\r\n")), "{sent}");
    assert!(sent.contains("\r\naccept-encoding: identity\r\n") && sent.contains("\r\nuser-agent: midward/"), "{sent}");
    assert!(sent.contains(&format!("\r\nhost: {address}\r\n")), "{sent}");
    assert_eq!(reply.status, 302);
    let stars = "*".repeat(TOKEN.len());
    assert_eq!(reply.body.0, format!("you sent {stars}!").into_bytes());
    let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["location", "set-cookie", "set-cookie", "content-length"]);
    assert_eq!(reply.headers[0].1, format!("https://evil.example/?{stars}"));
}

#[tokio::test]
async fn a_header_beyond_ascii_keeps_its_bytes() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Latin: gr\xfcn\r\nX-Utf: gr\xc3\xbcn\r\nContent-Length: 0\r\n\r\n".as_slice();
    let (address, _requests) = api(vec![Some(answer)]).await;
    let reply = call(address, loopback(), Duration::from_secs(10)).await.expect("a reply");
    let values: Vec<_> = reply.headers.iter().map(|(_, value)| midward_wire::header_bytes(value)).collect();
    assert_eq!(values[..2], [b"gr\xfcn".as_slice(), b"gr\xc3\xbcn"]);
}

#[tokio::test]
async fn a_refused_address_is_a_policy_failure_that_names_no_address() {
    let (address, _requests) = api::<&str>(Vec::new()).await;
    let error = call(address, AddressGuard::default(), Duration::from_secs(10)).await.expect_err("refused");
    assert!(!error.maybe_sent);
    assert_eq!((error.failure.hop, error.failure.code.as_str()), (Hop::Policy, "policy_address"));
    assert!(!error.failure.to_string().contains("127.0.0.1") && !error.failure.to_string().contains("loopback"));
}

#[tokio::test]
async fn a_lost_answer_may_have_been_sent_and_a_refused_connection_was_not() {
    let (address, mut requests) = api::<&str>(vec![None]).await;
    let error = call(address, loopback(), Duration::from_secs(10)).await.expect_err("closed");
    assert!(error.maybe_sent);
    assert_eq!(error.failure.code, "api_unreachable");
    requests.recv().await.expect("one request");
    assert!(requests.try_recv().is_err(), "sent twice");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let nobody = listener.local_addr().expect("an address");
    drop(listener);
    let error = call(nobody, loopback(), Duration::from_secs(10)).await.expect_err("refused");
    assert!(!error.maybe_sent);
    assert_eq!(error.failure.code, "api_unreachable");
}

#[tokio::test]
async fn a_reply_over_the_limit_is_a_failure() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1025\r\n\r\n".to_owned();
    let (address, _requests) = api(vec![Some(answer)]).await;
    let error = call(address, loopback(), Duration::from_secs(10)).await.expect_err("too large");
    assert_eq!((error.failure.code.as_str(), error.maybe_sent), ("api_reply_too_large", true));
}

#[tokio::test]
async fn an_expired_lease_is_never_dialled() {
    let (address, mut requests) = api::<&str>(Vec::new()).await;
    let error = call(address, loopback(), Duration::ZERO).await.expect_err("too late");
    assert_eq!((error.failure.code.as_str(), error.maybe_sent), ("api_timeout", false));
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_token_that_has_ended_is_never_sent() {
    let (address, mut requests) = api::<&str>(Vec::new()).await;
    let error = call_until(SystemClock.boot(), address, loopback(), Duration::from_secs(10)).await.expect_err("ended");
    assert_eq!((error.failure.code.as_str(), error.maybe_sent), ("api_timeout", false));
    assert!(requests.try_recv().is_err());
}
