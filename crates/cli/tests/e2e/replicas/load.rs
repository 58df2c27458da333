//! Callers that never rest: each submits or calls, waits for the outcome, and begins again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Response};
use midward_core::{BootTime, Clock as _, SystemClock};
use midward_demo::process::wait_for;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::RECOVERY;
use super::pair::Pair;
use crate::recovery::{Curve, SETTLED, per_second};

/// Callers side by side, each with one request at a time.
pub(super) const CALLERS: [Kind; 8] = [
    Kind::Queued(Method::POST),
    Kind::Queued(Method::POST),
    Kind::Queued(Method::POST),
    Kind::Queued(Method::GET),
    Kind::Queued(Method::GET),
    Kind::Synchronous(Method::POST),
    Kind::Synchronous(Method::POST),
    Kind::Synchronous(Method::GET),
];
/// How often the rate is looked at after a kill.
const SAMPLE: Duration = Duration::from_millis(50);
/// How long the rate before a kill is looked at.
const CALM: Duration = Duration::from_secs(1);
/// Before a caller whose connection broke tries again.
const AGAIN: Duration = Duration::from_millis(10);
/// How long a synchronous caller waits, in milliseconds: what it left behind is over by then.
const WAIT_MS: u64 = 5000;

/// How a caller calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Queued(Method),
    Synchronous(Method),
}

/// One request, as its caller knows it.
#[derive(Debug)]
pub(super) struct Done {
    /// Names it in its path.
    pub(super) key: String,
    pub(super) method: Method,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) enum End {
    /// What the API shows of it.
    Queued { id: String, shown: Value },
    /// The API's own answer to a synchronous call.
    Answered { id: String, body: Bytes },
    /// Midward's answer to a synchronous call.
    Failed { code: String },
    /// The connection broke, and nobody knows.
    Broken,
}

pub(super) type Callers = JoinSet<anyhow::Result<Vec<Done>>>;

/// What the callers share.
pub(super) struct Load {
    url: String,
    call_url: String,
    authorization: String,
    ended: AtomicUsize,
    pub(super) stop: AtomicBool,
}

impl Load {
    pub(super) fn new(pair: &Pair) -> anyhow::Result<Self> {
        let (url, call_url, authorization) = (pair.balancer.url(), pair.calls.url(), pair.stack.authorization()?);
        Ok(Self { url, call_url, authorization, ended: AtomicUsize::new(0), stop: AtomicBool::new(false) })
    }

    /// Waits until so many more requests have ended.
    pub(super) async fn progress(&self, more: usize, callers: &mut Callers) -> anyhow::Result<()> {
        let until = self.ended.load(Ordering::SeqCst) + more;
        let reached =
            wait_for(
                "more outcomes",
                RECOVERY,
                async || Ok((self.ended.load(Ordering::SeqCst) >= until).then_some(())),
            );
        tokio::select! {
            reached = reached => reached,
            Some(ended) = callers.join_next() => bail!("a caller gave up: {:?}", ended?.err()),
        }
    }

    /// Outcomes a second, now.
    pub(super) async fn rate(&self) -> f64 {
        let (before, since) = (self.ended.load(Ordering::SeqCst), SystemClock.boot());
        tokio::time::sleep(CALM).await;
        per_second(self.ended.load(Ordering::SeqCst) - before, SystemClock.boot().saturating_since(since))
    }

    /// What ended since the kill, until the rate is what it was. When that takes longer than `limit`, for long enough to
    /// tell what the rate is without a kill.
    pub(super) async fn recovery(&self, calm: f64, since: BootTime, limit: Option<Duration>) -> Curve {
        let mut curve = Curve::default();
        loop {
            let after = SystemClock.boot().saturating_since(since);
            curve.add(after, self.ended.load(Ordering::SeqCst));
            let is_over = curve.as_good_as(calm).is_some_and(|after| limit.is_none_or(|limit| after <= limit));
            if is_over || after > SETTLED {
                return curve;
            }
            tokio::time::sleep(SAMPLE).await;
        }
    }

    /// One caller: what it submitted or called, and how each ended.
    pub(super) async fn run(self: Arc<Self>, caller: usize, kind: Kind) -> anyhow::Result<Vec<Done>> {
        let mut done = Vec::new();
        for number in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let key = format!("{caller}-{number}");
            let (method, end) = match &kind {
                Kind::Queued(method) => {
                    let id = self.submit(method, &key).await?;
                    (method, End::Queued { shown: self.outcome(&id).await?, id })
                }
                Kind::Synchronous(method) => (method, self.call(method, &key).await?),
            };
            match end {
                End::Queued { .. } | End::Answered { .. } => drop(self.ended.fetch_add(1, Ordering::SeqCst)),
                End::Failed { .. } | End::Broken => tokio::time::sleep(AGAIN).await,
            }
            done.push(Done { key, method: method.clone(), end });
        }
        Ok(done)
    }

    /// Submits until it is accepted, each time under the same key.
    async fn submit(&self, method: &Method, key: &str) -> anyhow::Result<String> {
        let order = json!({"connection": "crm", "method": method.as_str(), "path": path(method, key),
                           "idempotency_key": key, "expires_in_ms": 120_000});
        let submitted = async {
            loop {
                if let Some((status, answer)) = self.api("POST", "/api/v1/requests", &order).await {
                    ensure!(matches!(status, 200 | 202 | 503), "{status} {answer}");
                    if let Some(id) = answer["id"].as_str().filter(|_| status != 503) {
                        return Ok(id.to_owned());
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(RECOVERY * 2, submitted).await.with_context(|| format!("{key} was not accepted"))?
    }

    pub(super) async fn outcome(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/requests/{id}?wait_ms=5000");
        let ended = async {
            loop {
                if let Some((status, shown)) = self.api("GET", &path, &Value::Null).await {
                    ensure!(matches!(status, 200 | 503), "{id} was accepted and is gone: {status} {shown}");
                    if status == 200 && !shown["finished_at"].is_null() {
                        return Ok(shown);
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(RECOVERY * 3, ended).await.with_context(|| format!("{id} did not end"))?
    }

    /// Calls once.
    async fn call(&self, method: &Method, key: &str) -> anyhow::Result<End> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}/api/v1/connections/crm/call{}", self.call_url, path(method, key)))
            .header("authorization", &self.authorization)
            .header("midward-wait-ms", WAIT_MS)
            .body(Bytes::new())?;
        let Some(answer) = sent(request).await else { return Ok(End::Broken) };
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if header("proxy-status").starts_with("midward; received-status=") {
            ensure!(answer.status() == 200, "{key}: {answer:?}");
            return Ok(End::Answered { id: header("midward-request-id").to_owned(), body: answer.into_body() });
        }
        let problem: Value = serde_json::from_slice(answer.body()).with_context(|| format!("{key}: {answer:?}"))?;
        ensure!(matches!(answer.status().as_u16(), 502..=504), "{key}: {} {problem}", answer.status());
        Ok(End::Failed { code: problem["code"].as_str().context("a code")?.to_owned() })
    }

    /// An answer of the API; `None` when the connection broke, as it does when a program is killed.
    pub(super) async fn api(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", &self.authorization)
            .body(Bytes::from(body.to_string()))
            .ok()?;
        let answer = sent(request).await?;
        Some((answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or_default()))
    }
}

async fn sent(request: http::Request<Bytes>) -> Option<Response<Bytes>> {
    tokio::time::timeout(RECOVERY, midward_fakes::client::send(request, None)).await.ok()?.ok()
}

/// An answer to POST numbers its execution, one to GET tells the key.
fn path(method: &Method, key: &str) -> String {
    let what = if method == Method::POST { "counter" } else { "echo" };
    format!("/{what}?k={key}")
}
