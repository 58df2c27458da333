//! `midward backup` of an instance that works, and `midward restore`: what was acknowledged before is there afterwards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use midward_demo::process::wait_for;
use midward_demo::stack::Stack;
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::AuthorizationServerConfig;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{api, asked, keep_addresses, refused};
use crate::support::CLIENT_SECRET;
use crate::support::fake::{FakeChain, edit};

const PATIENCE: Duration = Duration::from_secs(60);
const CALLERS: usize = 4;

/// Callers that submit without a rest; what the instance acknowledged, in order.
struct Load {
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<anyhow::Result<()>>,
}

impl Load {
    fn start(stack: &Stack) -> anyhow::Result<Self> {
        let (acknowledged, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let (url, authorization) = (format!("http://{}/api/v1/requests", stack.api_addr), stack.authorization()?);
            callers.spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let order = json!({"connection": "crm", "method": "POST", "path": format!("/counter?k={caller}-{number}"),
                                       "expires_in_ms": 300_000});
                    let request = http::Request::post(&url).header("authorization", &authorization);
                    let answer = midward_fakes::client::send(request.body(Bytes::from(order.to_string()))?, None).await?;
                    let answer: Value = serde_json::from_slice(answer.body())?;
                    let id = answer["id"].as_str().with_context(|| format!("not accepted: {answer}"))?;
                    acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
                }
                Ok(())
            });
        }
        Ok(Self { acknowledged, stop, callers })
    }

    fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn wait_for(&self, count: usize) -> anyhow::Result<()> {
        let what = "acknowledged requests";
        wait_for(what, PATIENCE, async || Ok((self.acknowledged().len() >= count).then_some(()))).await
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.callers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_restored_and_nothing_acknowledged_before_it_is_lost() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    chain.start().await?;
    let stack = &chain.stack;
    keep_addresses(stack)?;
    stack.api.set_fault(HttpFault::Slow { millis: 5 }, None);
    let load = Load::start(stack)?;
    load.wait_for(60).await?;
    let early = load.acknowledged();
    let mut finished = HashMap::new();
    for id in &early[..20] {
        let (status, shown) = api(stack, "GET", &format!("/api/v1/requests/{id}?wait_ms=20000"), &Value::Null).await?;
        ensure!(status == 200 && shown["state"] == "replied", "{shown}");
        finished.insert(id.clone(), shown);
    }
    let before = load.acknowledged();
    let (copy, config) = (stack.path("copy"), stack.path("instance.toml"));
    let said = stack.midward_ok(&["backup", "--config", &config, &copy]).await?;
    ensure!(said.contains("keep it as safe"), "{said}");
    load.wait_for(load.acknowledged().len() + 20).await?;
    refused(stack, &["backup", "--config", &config, &copy], 8, "backup_failed").await?;
    refused(stack, &["restore", "--config", &config, &copy], 8, "backup_failed").await?;
    load.end().await?;

    // The host is lost; its data is put aside, so that nothing of it can help.
    let stack = &mut chain.stack;
    stack.mid.take().context("a MID Server")?.kill().await?;
    stack.instance.take().context("an instance")?.kill().await?;
    let data = stack.folder.join("instance-data");
    refused(stack, &["restore", "--config", &config, &copy], 8, "backup_failed").await?;
    std::fs::rename(&data, stack.folder.join("lost-data"))?;
    stack.midward_ok(&["restore", "--config", &config, &copy]).await?;
    refused(stack, &["restore", "--config", &config, &copy], 8, "backup_failed").await?;
    stack.start_instance().await?;
    let stack = &chain.stack;
    for (id, shown) in &finished {
        let (status, now) = api(stack, "GET", &format!("/api/v1/requests/{id}"), &Value::Null).await?;
        ensure!(status == 200 && now == *shown, "what was finished is as it was: {shown}, now {now}");
    }
    // The MID knows the instance by its key, and goes on.
    chain.stack.start_mid().await?;
    let stack = &chain.stack;
    for id in &before {
        let shown = wait_for("an outcome", PATIENCE, async || {
            let path = format!("/api/v1/requests/{id}?wait_ms=5000");
            let (status, shown) = api(stack, "GET", &path, &Value::Null).await?;
            ensure!(status == 200, "{id} was acknowledged before the backup and is gone: {shown}");
            Ok((!shown["finished_at"].is_null()).then_some(shown))
        })
        .await?;
        // Its MID started anew meanwhile, so what it held is unknown.
        ensure!(shown["state"] == "replied" || shown["state"] == "unknown", "{shown}");
    }
    ensure!(asked(stack, &["call", "crm", "GET", "/hello"]).await?["status"] == 200, "a call");
    asked(stack, &["audit", "verify"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backed_up_or_restored_is_refused_and_left_alone() -> anyhow::Result<()> {
    let chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let stack = &chain.stack;
    let (nothing, to, missing) = (stack.path("nothing"), stack.path("to"), stack.path("missing.toml"));
    std::fs::create_dir(&nothing)?;
    for args in [
        ["backup", "--data", &nothing, &to],
        ["restore", "--data", &to, &nothing],
        ["restore", "--data", &to, &missing],
    ] {
        let failure = refused(stack, &args, 8, "backup_failed").await?;
        ensure!(failure["detail"].to_string().contains("no instance"), "{failure}");
    }
    ensure!(!stack.folder.join("to").exists() || std::fs::read_dir(&to)?.next().is_none(), "nothing is left behind");
    refused(stack, &["backup", "--config", &missing, &to], 2, "usage").await?;
    let store = "[store]\npath = \"instance-data\"\n";
    edit(
        stack,
        "instance.toml",
        store,
        &format!("{store}[store.postgres]\nurl = \"postgres://nobody@127.0.0.1:1/x\"\n"),
    )?;
    let config = stack.path("instance.toml");
    for args in [["backup", "--config", &config, &to], ["restore", "--config", &config, &to]] {
        let failure = refused(stack, &args, 8, "backup_failed").await?;
        ensure!(failure["action"].to_string().contains("pg_dump"), "{failure}");
    }
    ensure!(stack.midward(&["backup"]).await?.status.code() == Some(2), "a folder is needed");
    Ok(())
}
