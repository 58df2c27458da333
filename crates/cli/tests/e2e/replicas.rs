//! Two instances on one PostgreSQL behind a TCP balancer, a MID Server that changes between them, and callers that never
//! rest, while instances, MID Server and PostgreSQL are killed at random: nothing that was accepted is lost, nothing
//! ends twice, and nothing that may not be repeated is executed twice.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use midward_core::{BootTime, Clock as _, Random as _, SeededRandom, SystemClock};
use midward_demo::process::{Daemon, wait_for};
use midward_demo::stack::{Issuer, Setup, Stack};
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::balancer::Balancer;
use midward_fakes::postgres::Postgres;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::recovery::{Curve, Recovery, SETTLED, per_second, report};
use crate::support::{CLIENT_ID, CLIENT_SECRET, RESOURCE, programs};

/// Kills, unless `MIDWARD_KILLS` says how many.
const KILLS: usize = 40;
/// Callers side by side, each with one request at a time.
const CALLERS: usize = 8;
/// Requests that have to end after each kill, before the next one.
const PROGRESS: usize = 5;
/// Each how many kills it is measured how soon the rate is back: that takes its time, and is a figure, not a fault.
const MEASURED: usize = 20;
/// As that, in `make soak`, where `MIDWARD_RECOVERY_MS` says how long it may take.
const MEASURED_IN_SOAK: usize = 10;
/// How often it is looked at after one.
const SAMPLE: Duration = Duration::from_millis(50);
/// How long the rate before a kill is looked at.
const CALM: Duration = Duration::from_secs(1);
/// How long that may take.
const RECOVERY: Duration = Duration::from_secs(30);
/// Before a caller whose connection broke tries again.
const AGAIN: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_killed_at_random_lose_nothing_and_do_nothing_twice() -> anyhow::Result<()> {
    let kills = number("MIDWARD_KILLS")?.map_or(Ok(KILLS), usize::try_from)?;
    let seed = number("MIDWARD_SEED")?.unwrap_or(1);
    let random = SeededRandom::new(seed);
    let mut pair = Pair::start().await?;
    let load = Arc::new(Load::new(&pair)?);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(Arc::clone(&load).run(caller));
    }
    load.progress(PROGRESS, &mut callers).await?;
    let limit = number("MIDWARD_RECOVERY_MS")?.map(Duration::from_millis);
    let every = if limit.is_some() { MEASURED_IN_SOAK } else { MEASURED };
    let mut recoveries = Vec::new();
    for number in 0..kills {
        let mut draw = [0; 1];
        random.fill(&mut draw);
        let victim = draw[0] % 10;
        let context = || format!("kill {number} of seed {seed}: {victim}");
        let measured = number % every == every - 1;
        let calm = if measured { load.rate().await } else { 0.0 };
        let since = SystemClock.boot();
        match victim {
            0..=2 => pair.kill_instance(0).await,
            3..=5 => pair.kill_instance(1).await,
            6 | 7 => pair.kill_mid().await,
            _ => pair.kill_postgres().await,
        }
        .with_context(context)?;
        load.progress(PROGRESS, &mut callers).await.with_context(context)?;
        if measured {
            let what =
                ["an instance", "the MID Server", "PostgreSQL"][usize::from(victim > 5) + usize::from(victim > 7)];
            recoveries.push(Recovery::of(what, calm, &load.recovery(calm, since, limit).await));
        }
    }
    report(&mut recoveries, limit)?;
    load.stop.store(true, Ordering::SeqCst);
    let mut ended = HashMap::new();
    while let Some(done) = callers.join_next().await {
        for (id, request) in done?? {
            ensure!(ended.insert(id.clone(), request).is_none(), "{id} was given to two requests");
        }
    }
    check(&pair, &load, &ended).await
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    std::env::var(variable).ok().map(|text| text.parse().context("a number")).transpose()
}

struct Pair {
    // Programs first, their folder last.
    stack: Stack,
    second: Option<Daemon>,
    addresses: [SocketAddr; 2],
    balancer: Balancer,
    postgres: Arc<Postgres>,
    _server: AuthorizationServer,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let postgres = Arc::new(tokio::task::spawn_blocking(Postgres::start_without_fsync).await??);
        let balancer = Balancer::start()?;
        let clients = vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET)];
        let server = AuthorizationServer::start(AuthorizationServerConfig { clients, ..Default::default() })?;
        let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, CLIENT_SECRET);
        setup.public_url = Some(balancer.url());
        setup.postgres = Some(postgres.new_database()?);
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        let own = "path = \"instance-data\"\n";
        let second = "path = \"second-data\"\nkeys = \"instance-data\"\n";
        stack.write("second.toml", &stack.instance_toml().replace(own, second))?;
        let first = stack.api_addr;
        let addresses = [first, first];
        let mut pair = Self { stack, second: None, addresses, balancer, postgres, _server: server, _folder: folder };
        pair.start_second().await?;
        pair.stack.apply().await?;
        pair.stack.enroll_mid(true).await?;
        pair.stack.start_mid().await?;
        // Slow enough for kills to hit calls that are under way.
        pair.stack.api.set_fault(HttpFault::Slow { millis: 20 }, None);
        Ok(pair)
    }

    async fn start_second(&mut self) -> anyhow::Result<()> {
        let folder = &self.stack.folder;
        let ready = folder.join("second-data/listen.json");
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let config = folder.join("second.toml");
        let args = [OsStr::new("instance"), OsStr::new("--config"), config.as_os_str()];
        let log = folder.join("logs/second.log");
        let mut daemon = Daemon::start("the second instance", &self.stack.programs.midward, args, &[], &log)?;
        let listening: Value = wait_for("the second instance's start", RECOVERY, async || {
            daemon.check()?;
            let Ok(text) = std::fs::read(&ready) else { return Ok(None) };
            Ok(serde_json::from_slice(&text).ok())
        })
        .await?;
        self.second = Some(daemon);
        self.addresses = [self.stack.api_addr, listening["api_addr"].as_str().context("an address")?.parse()?];
        self.balancer.set_targets(&self.addresses);
        Ok(())
    }

    async fn kill_instance(&mut self, which: usize) -> anyhow::Result<()> {
        if which == 0 {
            self.stack.instance.take().context("an instance")?.kill().await?;
            self.balancer.set_targets(&self.addresses[1..]);
            self.stack.start_instance().await?;
            self.addresses[0] = self.stack.api_addr;
            self.balancer.set_targets(&self.addresses);
            return Ok(());
        }
        self.second.take().context("a second instance")?.kill().await?;
        self.balancer.set_targets(&self.addresses[..1]);
        self.start_second().await
    }

    async fn kill_mid(&mut self) -> anyhow::Result<()> {
        self.stack.mid.take().context("a MID Server")?.kill().await?;
        self.stack.spawn_mid()
    }

    async fn kill_postgres(&self) -> anyhow::Result<()> {
        let postgres = Arc::clone(&self.postgres);
        tokio::task::spawn_blocking(move || postgres.crash().and_then(|()| postgres.resume())).await??;
        Ok(())
    }
}

/// Callers that submit, wait for the outcome, and begin again.
struct Load {
    url: String,
    authorization: String,
    ended: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    fn new(pair: &Pair) -> anyhow::Result<Self> {
        let (url, authorization) = (pair.balancer.url(), pair.stack.authorization()?);
        Ok(Self { url, authorization, ended: AtomicUsize::new(0), stop: AtomicBool::new(false) })
    }

    /// Waits until so many more requests have ended.
    async fn progress(
        &self,
        more: usize,
        callers: &mut JoinSet<anyhow::Result<Vec<(String, Value)>>>,
    ) -> anyhow::Result<()> {
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
    async fn rate(&self) -> f64 {
        let (before, since) = (self.ended.load(Ordering::SeqCst), SystemClock.boot());
        tokio::time::sleep(CALM).await;
        per_second(self.ended.load(Ordering::SeqCst) - before, SystemClock.boot().saturating_since(since))
    }

    /// What ended since the kill, until the rate is what it was. When that takes longer than `limit`, for long enough to
    /// tell what the rate is without a kill.
    async fn recovery(&self, calm: f64, since: BootTime, limit: Option<Duration>) -> Curve {
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

    /// One caller: what it submitted, and how each ended.
    async fn run(self: Arc<Self>, caller: usize) -> anyhow::Result<Vec<(String, Value)>> {
        let mut ended = Vec::new();
        for number in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let id = self.submit(&format!("{caller}-{number}")).await?;
            let request = self.outcome(&id).await?;
            ended.push((id, request));
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        Ok(ended)
    }

    /// Submits until it is accepted, each time under the same key.
    async fn submit(&self, key: &str) -> anyhow::Result<String> {
        let order = json!({"connection": "crm", "method": "POST", "path": format!("/counter?k={key}"),
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

    async fn outcome(&self, id: &str) -> anyhow::Result<Value> {
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

    /// An answer; `None` when the connection broke, as it does when a program is killed.
    async fn api(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", &self.authorization)
            .body(Bytes::from(body.to_string()))
            .ok()?;
        let answer = tokio::time::timeout(RECOVERY, midward_fakes::client::send(request, None)).await.ok()?.ok()?;
        Some((answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or_default()))
    }
}

async fn check(pair: &Pair, load: &Load, ended: &HashMap<String, Value>) -> anyhow::Result<()> {
    // Executions by the request's own key.
    let mut executed: HashMap<String, usize> = HashMap::new();
    for call in pair.stack.api.executed() {
        if let Some((_, key)) = call.path.split_once("?k=") {
            *executed.entry(key.to_owned()).or_default() += 1;
        }
    }
    if let Some((key, times)) = executed.iter().find(|(_, times)| **times > 1) {
        bail!("{key} was executed {times} times");
    }
    let mut answers = HashSet::new();
    let mut unknown = 0;
    for (id, first) in ended {
        let now = load.outcome(id).await?;
        let key = now["path"].as_str().and_then(|path| path.split_once("?k=")).context("a key")?.1;
        match (first["state"].as_str(), now["state"].as_str()) {
            (Some("replied"), Some("replied")) => {
                ensure!(first["body_base64"] == now["body_base64"], "{id} ended twice: {first}, {now}");
            }
            // The MID's own word may replace it later.
            (Some("unknown"), Some("unknown" | "replied")) => {}
            states => bail!("{id} ended as {states:?}: {first}, {now}"),
        }
        if now["state"] == "replied" {
            ensure!(now["status"] == 200, "{now}");
            ensure!(executed.contains_key(key), "{id} was answered and not executed");
            ensure!(answers.insert(now["body_base64"].clone()), "{id}: one execution answered two requests");
        } else {
            unknown += 1;
        }
    }
    // Requests are accepted under their keys: none is there that no caller knows of.
    let mut listed = 0;
    let mut before = String::new();
    loop {
        let page = load.api("GET", &format!("/api/v1/requests?limit=500{before}"), &Value::Null).await;
        let items = page.context("an answer")?.1["items"].as_array().cloned().context("a list")?;
        let Some(last) = items.last() else { break };
        before = format!("&before={}", last["id"].as_str().context("an id")?);
        for item in &items {
            ensure!(ended.contains_key(item["id"].as_str().context("an id")?), "nobody submitted {item}");
        }
        listed += items.len();
    }
    ensure!(listed == ended.len(), "{listed} stored, {} accepted", ended.len());
    ensure!(unknown * 4 <= ended.len(), "{unknown} of {} unknown", ended.len());
    Ok(())
}
