//! `/readyz` turns false when the database is away, and when the instance stops; `/healthz` only when the process is gone.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_fakes::postgres::Postgres;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scenarios::support::{Instance, Place, ScriptedMid, eventually};
use crate::scenarios::with_document;

/// Longer than the instance waits for a database that does not answer.
const WITHIN: Duration = Duration::from_secs(15);

async fn status(instance: &Instance, path: &str) -> u16 {
    let answer = instance.api_as(&instance.key, Method::GET, path, &Value::Null);
    tokio::time::timeout(WITHIN, answer).await.expect("an answer in time").0
}

async fn until(instance: &Instance, wanted: u16) {
    let what = format!("/readyz says {wanted}");
    eventually(&what, async || status(instance, "/readyz").await, |status| *status == wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_its_database_is_alive_and_not_ready() {
    let server = Postgres::start_without_fsync().expect("a server");
    let place = Place::postgres(&server.new_database().expect("a database"));
    let instance = Instance::start(&place, None).await;
    assert_eq!((status(&instance, "/readyz").await, status(&instance, "/healthz").await), (200, 200));
    server.crash().expect("killed");
    until(&instance, 503).await;
    assert_eq!(status(&instance, "/healthz").await, 200);
    server.resume().expect("started");
    until(&instance, 200).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_takes_nothing_new_and_listens_until_its_calls_have_ended() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let mut caller = call(&instance).await;
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(leases.len(), 1);
    let (status, queued) = instance.post("/api/v1/requests", &order()).await;
    assert_eq!(status, 202, "{queued}");
    let path = format!("/api/v1/requests/{}", queued["id"].as_str().expect("an id"));
    let mut reader = ask(&instance, instance.started.api_addr, &format!("{path}?wait_ms=60000")).await;
    let api_addr = instance.started.api_addr;

    instance.ask_to_stop();
    closes_connections(&instance).await;
    let told = answer(&mut reader).await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains(r#""state":"queued""#), "{told}");
    let (status, refused) = instance.post("/api/v1/requests", &order()).await;
    assert_eq!((status, &refused["code"], &refused["persistence"]), (503, &json!("stopping"), &json!("transient")));
    let mut late = call(&instance).await;
    let told = answer(&mut late).await.to_lowercase();
    assert!(told.starts_with("http/1.1 503 ") && told.contains("\r\nretry-after: 2\r\n"), "{told}");
    assert!(told.contains(r#""code":"stopping""#) && told.contains(r#""request_id":""#), "{told}");
    assert!(mid.poll(&instance, 60_000, true).await.is_empty(), "there is something, and it is not given out");
    assert_eq!(mid.report(&instance, &leases[0].request_id, 1, "done").await, "accepted");
    assert!(answer(&mut caller).await.starts_with("HTTP/1.1 201 "));
    refused_at(api_addr).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_never_came_learns_what_is_known_of_it() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let mut taken = call(&instance).await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    let mut waits = call(&instance).await;
    let look = async || instance.get("/api/v1/requests").await.1["items"].as_array().map(Vec::len);
    eventually("the second call is there", look, |count| *count == Some(2)).await;
    instance.ask_to_stop();
    let told = answer(&mut waits).await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains(r#""code":"stopping""#), "{told}");
    // The MID Server has the other one, and does not report.
    let told = answer(&mut taken).await;
    assert!(told.starts_with("HTTP/1.1 504 ") && told.contains(r#""code":"wait_over""#), "{told}");
    assert!(told.contains(r#""request_id":""#) && told.contains("the instance stopped"), "{told}");
    let key = instance.key.clone();
    instance.stop().await;
    let instance = Instance::start(&place, Some(key)).await;
    let (_, listed) = instance.get("/api/v1/requests").await;
    // Newest first.
    assert_eq!(listed["items"][0]["state"], "failed", "it was never sent, and will not be: {listed}");
    assert!(listed["items"][1]["finished_at"].is_null(), "its outcome may still come: {listed}");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn balancers_learn_first_that_an_instance_stops() {
    let mut place = Place::sqlite();
    place.leave_seconds = 5;
    let instance = with_document(&place).await;
    instance.ask_to_stop();
    until(&instance, 503).await;
    assert_eq!(instance.post("/api/v1/requests", &order()).await.0, 202, "all else goes on");
    refused_at(instance.started.api_addr).await;
    instance.stop().await;
}

fn order() -> Value {
    json!({"connection": "crm", "method": "GET", "path": "/x"})
}

/// A synchronous call whose answer is not read yet.
async fn call(instance: &Instance) -> TcpStream {
    ask(instance, instance.started.call_addr, "/api/v1/connections/crm/call/x").await
}

async fn ask(instance: &Instance, address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", instance.key);
    stream.write_all(head.as_bytes()).await.expect("written");
    stream
}

/// Until the instance says that it is not ready, and takes connections for one request only.
async fn closes_connections(instance: &Instance) {
    let look = async || {
        let mut probe = TcpStream::connect(instance.started.api_addr).await.expect("it listens");
        probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
        let mut head = [0; 1024];
        let read = probe.read(&mut head).await.expect("an answer");
        String::from_utf8_lossy(&head[..read]).to_lowercase()
    };
    let closes = |head: &String| head.starts_with("http/1.1 503 ") && head.contains("connection: close");
    eventually("it closes connections", look, closes).await;
}

/// Until nobody listens any more.
async fn refused_at(address: SocketAddr) {
    let look = async || TcpStream::connect(address).await.is_ok();
    eventually("nobody listens", look, |listens| !listens).await;
}

/// All that comes until the connection is closed.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(WITHIN, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    // Reset: it was closed with our bytes unread.
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&Bytes::from(bytes)).into_owned()
}
