//! More connections, and more bodies at once, than there is room for.

use std::net::SocketAddr;
use std::time::Duration;

use midward_wire::paths;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scenarios::support::{Instance, Place, ScriptedMid, eventually};
use crate::scenarios::with_document;

/// Of what happens at once.
const WITHIN: Duration = Duration::from_secs(20);

/// Sends a message on a connection, and reads what comes; empty: it was closed.
async fn ask(stream: &mut TcpStream, message: &str) -> String {
    let talk = async {
        let mut answer = vec![0; 16 * 1024];
        let sent = stream.write_all(message.as_bytes()).await;
        let read = if sent.is_ok() { stream.read(&mut answer).await.unwrap_or(0) } else { 0 };
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    tokio::time::timeout(WITHIN, talk).await.expect("neither an answer nor an end")
}

/// What comes to a request on a connection of its own.
async fn asked(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    ask(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

fn is(status: u16) -> impl Fn(&String) -> bool {
    move |told| told.starts_with(&format!("HTTP/1.1 {status} "))
}

/// Opens connections until one is told that there are too many; returns the others, and what that one was told.
async fn crowd(address: SocketAddr, most: usize) -> (Vec<TcpStream>, String) {
    let mut held = Vec::new();
    for _ in 0..=most {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let told = ask(&mut stream, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
        if !told.starts_with("HTTP/1.1 404 ") {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(WITHIN, stream.read_to_end(&mut rest)).await.expect("it stays open");
            assert!(read.is_err() || rest.is_empty(), "closed after its answer");
            return (held, told);
        }
        held.push(stream);
    }
    panic!("there was no end to it");
}

fn is_busy(told: &str) -> bool {
    told.starts_with("HTTP/1.1 503 ") && told.contains(r#""code":"busy""#) && told.contains("retry-after: 1\r\n")
}

fn heartbeat(mid: &ScriptedMid) -> String {
    let beat =
        json!({"version": 1, "incarnation": mid.incarnation, "program_version": "0", "capacity": 8, "running": 0,
        "draining": false, "resolvers": []})
        .to_string();
    let (path, token) = (paths::HEARTBEAT, &mid.token);
    let length = beat.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{beat}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_above_the_limit_are_told_so_and_never_shut_mids_out() {
    let mut place = Place::sqlite();
    place.limits.connections = 20;
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    let (api, calls) = (instance.started.api_addr, instance.started.call_addr);
    let (held, told) = crowd(api, 20).await;
    assert!(is_busy(&told) && held.len() <= 18, "{} {told}", held.len());

    // A tenth is kept for MIDs.
    let mut mids = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(api).await.expect("connected");
        for _ in 0..2 {
            let told = ask(&mut stream, &heartbeat(&mid)).await;
            assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        }
        mids.push(stream);
    }
    let told = ask(&mut TcpStream::connect(api).await.expect("connected"), &heartbeat(&mid)).await;
    assert!(is_busy(&told), "there are no more at all: {told}");
    drop(mids);
    let told = eventually("a probe is answered", async || asked(api, "/healthz").await, is(200)).await;
    assert!(told.to_lowercase().contains("connection: close"), "{told}");

    let (held_calls, told) = crowd(calls, 20).await;
    assert!(is_busy(&told) && held_calls.len() <= 20, "{} {told}", held_calls.len());
    drop((held, held_calls));
    for address in [api, calls] {
        eventually("there is room again", async || asked(address, "/nothing").await, is(404)).await;
    }
    instance.stop().await;
}

/// A request without the last byte of its body.
async fn unfinished(instance: &Instance, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(instance.started.api_addr).await.expect("connected");
    let (key, length) = (&instance.key, body.len());
    let head = format!(
        "POST /api/v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(&body.as_bytes()[..length - 1]).await.expect("written");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_much_together_are_refused() {
    let mut place = Place::sqlite();
    place.limits.bodies_in_memory_bytes = 100 * 1024;
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    let order = json!({"connection": "crm", "method": "POST", "path": "/x", "body": "x".repeat(60_000)});
    let text = order.to_string();
    let mut first = unfinished(&instance, &text).await;
    let look = async || {
        let (status, answer) = instance.post("/api/v1/requests", &order).await;
        // This one came first, and that one may have been refused.
        if status != 503 && first.try_read(&mut [0; 1]).is_ok() {
            first = unfinished(&instance, &text).await;
        }
        (status, answer)
    };
    let (_, answer) = eventually("it is too much", look, |(status, _)| *status == 503).await;
    assert_eq!((&answer["code"], &answer["persistence"]), (&json!("busy"), &json!("transient")));
    let call = instance.call(http::Method::POST, "crm/call/x").header("midward-wait-ms", "60000");
    let answer = instance.send(call.body("x".repeat(60_000).into()).expect("a request")).await;
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(answer.status() == 503 && text.contains(r#""code":"busy""#), "{text}");
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200, "MIDs have their own");

    first.write_all(b"}").await.expect("written");
    let mut told = Vec::new();
    tokio::time::timeout(WITHIN, first.read_to_end(&mut told)).await.expect("in time").expect("an answer");
    let told = String::from_utf8_lossy(&told);
    assert!(told.starts_with("HTTP/1.1 202 "), "{told}");
    assert_eq!(instance.post("/api/v1/requests", &order).await.0, 202, "there is room again");
    instance.stop().await;
}
