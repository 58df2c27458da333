//! Programs that die without a word (SIGKILL) in the middle of work: every accepted request ends exactly once, nothing
//! is executed twice, and what nobody can know is reported as unknown.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::support::{Chain, Options};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use midward_demo::process::wait_for;
use midward_fakes::HttpFault;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How many calls the MID Server makes at once.
const AT_ONCE: usize = 4;
/// How many calls were made when a program is killed.
const WHEN: u64 = 20;

#[tokio::test]
async fn a_killed_mid_server_executes_nothing_twice() -> anyhow::Result<()> {
    let mut chain = start().await?;
    let accepted = submit(&chain, 100)?;
    wait_until_under_way(&chain).await?;
    let mid = chain.stack.mid.take().context("a MID Server")?;
    mid.kill().await?;
    let accepted = accepted.await?;
    ensure!(accepted.len() == 100, "the instance lives: {}", accepted.len());
    ensure!(chain.stack.api.counter() < 100, "nothing was left to do");
    chain.stack.start_mid().await?;
    let ended = ended(&chain, &accepted).await?;
    check(&chain, &ended)?;
    let unknown = ended.values().filter(|request| request["state"] == "unknown").count();
    ensure!(unknown <= 4 * AT_ONCE, "no more than it held: {unknown}");
    Ok(())
}

#[tokio::test]
async fn a_killed_instance_loses_nothing_that_it_accepted() -> anyhow::Result<()> {
    let mut chain = start().await?;
    let first = submit(&chain, 100)?;
    wait_until_under_way(&chain).await?;
    // These are on their way into the database when it happens.
    let second = submit(&chain, 100)?;
    let instance = chain.stack.instance.take().context("an instance")?;
    instance.kill().await?;
    let mut accepted = first.await?;
    accepted.extend(second.await?);
    ensure!(accepted.len() >= usize::try_from(WHEN)?, "{}", accepted.len());
    keep_address(&chain)?;
    chain.stack.start_instance().await?;
    // Requests may be stored whose caller never heard of it.
    let stored = stored(&chain).await?;
    for id in &accepted {
        ensure!(stored.contains(id), "request {id} was accepted and is gone");
    }
    let ended = ended(&chain, &stored).await?;
    check(&chain, &ended)?;
    // The MID Server lived on, so it knows of everything that it did.
    let unknown: Vec<_> = ended.values().filter(|request| request["state"] != "replied").collect();
    ensure!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

/// The requests of [`submit`] that the instance knows of.
pub(crate) async fn stored(chain: &Chain) -> anyhow::Result<HashSet<String>> {
    let (status, listed) = api(chain, "GET", "/api/v1/requests?limit=500", &Value::Null).await?;
    ensure!(status == 200, "{listed}");
    let items = listed["items"].as_array().into_iter().flatten();
    let counters = items.filter(|item| item["path"] == "/counter");
    Ok(counters.filter_map(|item| item["id"].as_str()).map(Into::into).collect())
}

/// The chain with a slow API, and a token in the cache.
pub(crate) async fn start() -> anyhow::Result<Chain> {
    let mut chain = Chain::prepare(Options::default()).await?;
    let mid = chain.stack.mid_toml();
    chain.stack.write("mid.toml", &mid.replace("[mid]\n", &format!("[mid]\nmax_concurrent = {AT_ONCE}\n")))?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    ensure!(chain.call(&["crm", "GET", "/hello"]).await?["status"] == 200, "no call at all");
    chain.stack.api.set_fault(HttpFault::Slow { millis: 20 }, None);
    Ok(chain)
}

/// Submits requests side by side; the future gives those that were accepted.
pub(crate) fn submit(
    chain: &Chain,
    count: usize,
) -> anyhow::Result<impl Future<Output = anyhow::Result<HashSet<String>>> + use<>> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let order = json!({"connection": "crm", "method": "POST", "path": "/counter", "expires_in_ms": 120_000});
        let request = request(chain, "POST", "/api/v1/requests", &order)?;
        tasks.spawn(async move {
            let answer = midward_fakes::client::send(request, None).await.ok()?;
            let body: Value = serde_json::from_slice(answer.body()).ok()?;
            (answer.status() == 202).then(|| body["id"].as_str().map(str::to_owned))?
        });
    }
    Ok(async move {
        let mut accepted = HashSet::new();
        while let Some(ended) = tasks.join_next().await {
            if let Some(id) = ended? {
                ensure!(accepted.insert(id), "one identifier for two requests");
            }
        }
        Ok(accepted)
    })
}

/// The instance starts again where the MID Server looks for it.
pub(crate) fn keep_address(chain: &Chain) -> anyhow::Result<()> {
    let stack = &chain.stack;
    let same = format!("listen = \"{}\"\ncall_listen = \"{}\"", stack.api_addr, stack.call_addr);
    let any = "listen = \"127.0.0.1:0\"\ncall_listen = \"127.0.0.1:0\"";
    stack.write("instance.toml", &stack.instance_toml().replace(any, &same))
}

pub(crate) async fn wait_until_under_way(chain: &Chain) -> anyhow::Result<()> {
    wait_for("the first calls", Duration::from_secs(30), async || Ok((chain.stack.api.counter() >= WHEN).then_some(())))
        .await
}

/// How each request ended.
pub(crate) async fn ended(chain: &Chain, ids: &HashSet<String>) -> anyhow::Result<HashMap<String, Value>> {
    let mut all = HashMap::new();
    for id in ids {
        let shown = wait_for("an outcome", Duration::from_secs(90), async || {
            let (status, shown) =
                api(chain, "GET", &format!("/api/v1/requests/{id}?wait_ms=5000"), &Value::Null).await?;
            ensure!(status == 200, "{shown}");
            Ok((!shown["finished_at"].is_null()).then_some(shown))
        })
        .await?;
        all.insert(id.clone(), shown);
    }
    Ok(all)
}

/// Nothing was executed twice, and what was executed is told as `replied` or, when nobody can know, as `unknown`.
pub(crate) fn check(chain: &Chain, ended: &HashMap<String, Value>) -> anyhow::Result<()> {
    let mut numbers = HashSet::new();
    let mut unknown = 0;
    for (id, request) in ended {
        match request["state"].as_str() {
            Some("replied") => {
                ensure!(request["status"] == 200, "{request}");
                let body = STANDARD.decode(request["body_base64"].as_str().context("a body")?)?;
                let body: Value = serde_json::from_slice(&body)?;
                let number = body["count"].as_u64().context("a number")?;
                ensure!(numbers.insert(number), "{id}: execution {number} answered two requests");
            }
            Some("unknown") => {
                ensure!(request["failure"]["code"].is_string(), "{request}");
                unknown += 1;
            }
            state => anyhow::bail!("{id} ended as {state:?}: {request}"),
        }
    }
    let executed = usize::try_from(chain.stack.api.counter())?;
    let replied = numbers.len();
    ensure!(
        executed >= replied && executed <= replied + unknown,
        "{executed} executed, {replied} replied, {unknown} unknown"
    );
    Ok(())
}

pub(crate) async fn api(chain: &Chain, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let answer = midward_fakes::client::send(request(chain, method, path, body)?, None).await?;
    Ok((answer.status().as_u16(), serde_json::from_slice(answer.body())?))
}

fn request(chain: &Chain, method: &str, path: &str, body: &Value) -> anyhow::Result<http::Request<Bytes>> {
    Ok(http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", chain.stack.api_addr))
        .header("authorization", chain.stack.authorization()?)
        .body(Bytes::from(body.to_string()))?)
}
