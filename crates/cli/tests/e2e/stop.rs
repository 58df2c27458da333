//! An instance that is asked to stop (SIGTERM) while a caller waits for an API.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use midward_demo::process::wait_for;
use midward_fakes::HttpFault;
use serde_json::Value;

use crate::kill::{api, start};

#[tokio::test]
async fn a_call_that_runs_when_its_instance_is_stopped_gets_the_apis_answer() -> anyhow::Result<()> {
    let mut chain = start().await?;
    chain.stack.api.clear_faults();
    chain.stack.api.set_fault(HttpFault::Slow { millis: 3000 }, Some(1));
    let call = http::Request::builder()
        .method("POST")
        .uri(format!("http://{}/api/v1/connections/crm/call/counter", chain.stack.call_addr))
        .header("authorization", chain.stack.authorization()?)
        .body(Bytes::new())?;
    let caller = tokio::spawn(midward_fakes::client::send(call, None));
    wait_for("a MID Server that has the call", Duration::from_secs(30), async || {
        let (status, listed) = api(&chain, "GET", "/api/v1/requests?state=leased", &Value::Null).await?;
        ensure!(status == 200, "{listed}");
        // A call that has just been answered may be among them.
        let mut items = listed["items"].as_array().into_iter().flatten();
        Ok(items.any(|item| item["path"] == "/counter").then_some(()))
    })
    .await?;
    ensure!(chain.stack.api.counter() == 0, "the API has answered already");
    let instance = chain.stack.instance.take().context("an instance")?;
    let (ended, answer) = tokio::join!(instance.stop(Duration::from_secs(30)), caller);
    let answer = answer??;
    ensure!(answer.status() == 200, "{answer:?}");
    ensure!(chain.stack.api.counter() == 1, "it ran once");
    ensure!(ended?.code() == Some(0), "it did not stop well");
    Ok(())
}
