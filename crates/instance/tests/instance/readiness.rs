//! `/readyz` turns false when the database is away, and when the instance stops; `/healthz` only when the process is gone.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_fakes::postgres::Postgres;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scenarios::support::{Instance, Place, ScriptedMid};
use crate::scenarios::with_document;

/// Longer than the instance waits for a database that does not answer.
const WITHIN: Duration = Duration::from_secs(15);

async fn status(instance: &Instance, path: &str) -> u16 {
    let answer = instance.api_as(&instance.key, Method::GET, path, &Value::Null);
    tokio::time::timeout(WITHIN, answer).await.expect("an answer in time").0
}

async fn until(instance: &Instance, wanted: u16) {
    let wait = async {
        while status(instance, "/readyz").await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(WITHIN, wait).await.is_ok(), "never {wanted}");
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
async fn an_instance_that_stops_is_not_ready_and_ends_what_it_has() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    // A call runs, and a probe has begun to ask.
    let mut caller = TcpStream::connect(instance.started.call_addr).await.expect("connected");
    let head = format!(
        "GET /api/v1/connections/crm/call/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        instance.key
    );
    caller.write_all(head.as_bytes()).await.expect("written");
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(leases.len(), 1);
    let api_addr = instance.started.api_addr;
    let mut probe = TcpStream::connect(api_addr).await.expect("connected");
    probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n").await.expect("written");
    // The report is under way before the end begins: its body waits for the last byte.
    let mut report = TcpStream::connect(api_addr).await.expect("connected");
    let (body, last) = report_message(&mid, &leases[0].request_id);
    report.write_all(&body).await.expect("written");
    let mut go_on = [0; 25];
    tokio::time::timeout(WITHIN, report.read_exact(&mut go_on)).await.expect("in time").expect("read");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&instance, "/readyz").await, 200);

    let stopped = tokio::spawn(instance.stop());
    refused(api_addr).await;
    probe.write_all(b"\r\n").await.ok();
    let told = answer(&mut probe).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 503 "), "{told}");
    report.write_all(&last).await.expect("written");
    assert!(answer(&mut report).await.contains("accepted"));
    assert!(answer(&mut caller).await.starts_with("HTTP/1.1 201 "));
    tokio::time::timeout(Duration::from_secs(30), stopped).await.expect("in time").expect("a clean end");
}

/// A MID's report of one outcome, without its last byte, and that byte.
fn report_message(mid: &ScriptedMid, id: &str) -> (Vec<u8>, Vec<u8>) {
    let body = serde_json::json!({"version": 1, "incarnation": mid.incarnation, "outcomes": [{
        "request_id": id, "epoch": 1,
        "outcome": {"kind": "replied", "reply": {"status": 201, "headers": [], "body": ""}}, "trace": []}]})
    .to_string();
    let mut message = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}",
        midward_wire::paths::OUTCOMES,
        mid.token,
        body.len()
    )
    .into_bytes();
    let last = message.split_off(message.len() - 1);
    (message, last)
}

/// Until nobody listens any more.
async fn refused(address: SocketAddr) {
    let wait = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(WITHIN, wait).await.is_ok(), "it still listens");
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
