use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::engine::{call, engine, third_party};
use crate::metrics_listener::MetricsListener;

async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time").expect("read");
    answer
}

#[tokio::test]
async fn the_listener_tells_the_figures_and_nothing_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let third = third_party().await;
    let (engine, _instance, digest) = engine(&third, &folder).await;
    // The first token is refused by the API, the second is taken.
    call(&engine, digest.clone(), "GET", 30_000).await;
    call(&engine, digest, "GET", 30_000).await;
    let engine = Arc::new(engine);
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let listener = MetricsListener::bind(loopback, Arc::clone(&engine), 10).await.expect("bound");
    let address = listener.address();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listener.serve(stop.clone()));

    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for line in [
        "midward_token_fetches_total{result=\"token\"} 2",
        "midward_token_rejections_total 1",
        "midward_token_profiles{state=\"valid\"} 1",
        "midward_token_lookups_total{result=\"cached\"} 1",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line}\nin\n{answer}");
    }
    assert!(answer.contains("credential_id=\"crm-client\""), "{answer}");
    assert!(!answer.contains("s3cret") && !answer.contains("t1") && !answer.contains("t2"), "{answer}");

    for (host, status) in [("127.0.0.1:9464", 200), ("[::1]", 200), ("[::1]:9464", 200), ("x.example", 421), ("", 421)]
    {
        let answer = ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host:?}: {answer}");
    }
    let answer = ask(address, "GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask(address, "DELETE /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(MetricsListener::bind(address, engine, 10).await.expect_err("taken").code, "metrics_listener_failed");
    stop.cancel();
    serving.await.expect("stopped");
}
