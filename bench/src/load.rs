//! Load on a loopback server: callers in a closed loop, or calls at a fixed rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use midward_core::{BootTime, Clock, SystemClock};
use tokio::net::TcpStream;

/// One call, made again and again.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Value of the Authorization header.
    pub(crate) authorization: Option<String>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) calls: usize,
    pub(crate) took: Duration,
    /// Sorted, one per call.
    latencies: Vec<Duration>,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }

    /// The latency that `percent` of all calls did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

/// `callers` callers, each with one connection, call for as long as `span`.
pub(crate) async fn closed_loop(target: &Target, callers: usize, span: Duration) -> anyhow::Result<Measured> {
    let start = SystemClock.boot();
    let end = start + span;
    let mut tasks = Vec::with_capacity(callers);
    for _ in 0..callers {
        let mut caller = Caller::connect(target.clone()).await?;
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(4096);
            // Once at least, however short the span.
            loop {
                latencies.push(caller.call().await?);
                if SystemClock.boot() >= end {
                    break;
                }
            }
            anyhow::Ok(latencies)
        }));
    }
    collect(tasks, start).await
}

/// `rate` calls per second for as long as `span`, each sent at its time whatever became of the others. Latency
/// counts from the time that the call was due.
pub(crate) async fn fixed_rate(target: &Target, rate: u32, span: Duration) -> anyhow::Result<Measured> {
    const CONNECTIONS: u32 = 8;
    let gap = Duration::from_secs(1) / rate;
    let calls = u32::try_from(span.as_nanos() / gap.as_nanos()).context("too many calls")?;
    let mut tasks = Vec::new();
    let mut lanes = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut caller = Caller::connect(target.clone()).await?;
        let (lane, mut dues) = tokio::sync::mpsc::unbounded_channel();
        lanes.push(lane);
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while let Some(due) = dues.recv().await {
                caller.call().await?;
                latencies.push(SystemClock.boot().saturating_since(due));
            }
            anyhow::Ok(latencies)
        }));
    }
    let start = SystemClock.boot();
    // Tokio's timer has a grain of a millisecond, as coarse as what is measured. A thread that sleeps wakes within some
    // microseconds, and takes no processor from what is measured meanwhile.
    std::thread::spawn(move || {
        for (number, lane) in (0..calls).zip(lanes.iter().cycle()) {
            let due = start + gap * number;
            std::thread::sleep(due.saturating_since(SystemClock.boot()));
            // Who has failed says so itself.
            let _ = lane.send(due);
        }
    });
    collect(tasks, start).await
}

async fn collect(
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<Vec<Duration>>>>,
    start: BootTime,
) -> anyhow::Result<Measured> {
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let took = SystemClock.boot().saturating_since(start);
    latencies.sort_unstable();
    Ok(Measured { calls: latencies.len(), took, latencies })
}

struct Caller {
    target: Arc<Target>,
    connection: SendRequest<Empty<Bytes>>,
}

impl Caller {
    async fn connect(target: Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Self { target: Arc::new(target), connection })
    }

    async fn call(&mut self) -> anyhow::Result<Duration> {
        let mut request = Request::get(&self.target.path).header(header::HOST, self.target.address.to_string());
        if let Some(authorization) = &self.target.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let started = SystemClock.boot();
        self.connection.ready().await?;
        let reply = self.connection.send_request(request.body(Empty::new())?).await?;
        let status = reply.status();
        let body = reply.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            bail!("{} answered {status}: {}", self.target.path, String::from_utf8_lossy(&body));
        }
        Ok(SystemClock.boot().saturating_since(started))
    }
}
