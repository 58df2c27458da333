//! What is queued, how it failed, lists in pages, and how the commands exit.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::wait_for;
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::AuthorizationServerConfig;
use serde_json::{Value, json};

use super::{api, asked, key_file, refused};
use crate::support::CLIENT_SECRET;
use crate::support::fake::{FakeChain, edit};

const PATIENCE: Duration = Duration::from_secs(60);
/// More than are on the first page, and on the second one.
const MANY_DEAD: usize = 610;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_driven_again() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let retry = "    credential: crm-oauth\n    retry: {statuses: [503], attempts: 2, backoff_ms: 50}\n";
    edit(&chain.stack, "connections.yaml", "    credential: crm-oauth\n", retry)?;
    chain.start().await?;
    let stack = &chain.stack;
    ensure!(asked(stack, &["get", "dead-letters"]).await? == json!([]), "none yet");
    stack.api.set_fault(HttpFault::Respond { status: 503, headers: Vec::new(), body: "busy".to_owned() }, None);
    let output = stack.midward(&["call", "crm", "POST", "/counter", "--queued"]).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && output.stdout == b"busy\n", "{said}");
    let id = said.lines().find_map(|line| line.strip_prefix("midward: queued as ")).context("an id")?.to_owned();
    let dead = asked(stack, &["get", "dead-letters"]).await?;
    ensure!(dead[0]["id"] == json!(id) && dead[0]["attempts"] == 2, "{dead}");
    ensure!(asked(stack, &["get", "dead-letters", &id]).await?["dead"] == true, "by its name");
    let (caller, auditor) = (key_file(stack, "caller").await?, key_file(stack, "auditor").await?);
    refused(stack, &["redrive", &id, "--key-file", &auditor], 9, "not_allowed").await?;
    // What is not one's own is not there.
    refused(stack, &["redrive", &id, "--key-file", &caller], 2, "unknown_request").await?;
    stack.api.clear_faults();
    ensure!(stack.midward_ok(&["redrive", &id]).await? == format!("request {id} is queued again\n"), "it says so");
    wait_for("its answer", PATIENCE, async || {
        let shown = asked(stack, &["get", "requests", &id]).await?;
        Ok((shown["state"] == "replied" && shown["status"] == 200).then_some(()))
    })
    .await?;
    ensure!(stack.api.counter() == 1, "once");
    ensure!(asked(stack, &["get", "dead-letters"]).await? == json!([]), "none any more");
    refused(stack, &["redrive", &id], 2, "not_a_dead_letter").await?;
    // However many pages they have.
    stack.api.set_fault(HttpFault::Respond { status: 503, headers: Vec::new(), body: "busy".to_owned() }, None);
    let mut ids = Vec::new();
    for number in 0..MANY_DEAD {
        let order = json!({"connection": "crm", "method": "POST", "path": format!("/counter?n={number}")});
        let (status, answer) = api(stack, "POST", "/api/v1/requests", &order).await?;
        ensure!(status == 202, "{answer}");
        ids.push(answer["id"].as_str().context("an id")?.to_owned());
    }
    let dead = wait_for("all of them", PATIENCE, async || {
        let dead = asked(stack, &["get", "dead-letters"]).await?;
        let dead = dead.as_array().context("a list")?.clone();
        Ok((dead.len() >= MANY_DEAD).then_some(dead))
    })
    .await?;
    let mut listed: Vec<&str> = dead.iter().filter_map(|it| it["id"].as_str()).collect();
    ensure!(listed.is_sorted_by(|newer, older| newer > older), "the newest first");
    listed.sort_unstable();
    ids.sort_unstable();
    ensure!(listed == ids, "{} of {MANY_DEAD}", listed.len());
    stack.api.clear_faults();
    for unknown in ["nobody", "../requests", "a/b"] {
        refused(stack, &["redrive", unknown], 2, "unknown_request").await?;
        refused(stack, &["cancel", unknown], 2, "unknown_request").await?;
    }
    refused(stack, &["cancel", &id], 2, "too_late_to_cancel").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_whole_however_many_pages_they_have() -> anyhow::Result<()> {
    const MANY: usize = 1020;
    let chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let stack = &chain.stack;
    let mut document = stack.connections_yaml();
    for number in 0..MANY {
        let base = stack.api.url();
        write!(document, "  - alias: more-{number:04}\n    base_url: {base}/api\n    credential: crm-oauth\n")?;
    }
    stack.write("connections.yaml", &document)?;
    let applied = stack.apply().await?;
    ensure!(applied.lines().count() == MANY + 4, "{applied}");
    let listed = asked(stack, &["get", "connections"]).await?;
    let aliases: Vec<&str> =
        listed.as_array().context("a list")?.iter().filter_map(|it| it["alias"].as_str()).collect();
    ensure!(aliases.len() == MANY + 1 && aliases.is_sorted(), "{} of them", aliases.len());
    let table = stack.midward_ok(&["get", "connections"]).await?;
    ensure!(table.lines().count() == MANY + 2 && table.starts_with("ALIAS"), "a head, and a line for each");
    // Of requests the newest hundred.
    let mut last = String::new();
    for number in 0..130 {
        let order = json!({"connection": "crm", "method": "GET", "path": format!("/hello?n={number}")});
        let (status, answer) = api(stack, "POST", "/api/v1/requests", &order).await?;
        ensure!(status == 202, "{answer}");
        answer["id"].as_str().context("an id")?.clone_into(&mut last);
    }
    let listed = asked(stack, &["get", "requests"]).await?;
    let listed = listed.as_array().context("a list")?;
    ensure!(listed.len() == 100 && listed.iter().any(|it| it["id"] == json!(last)), "{} of them", listed.len());
    ensure!(listed.iter().all(|it| it["path"] != "/hello?n=0"), "the oldest are left out");
    let failure = refused(stack, &["call", "crm", "GET", "/hello"], 4, "no_mid").await?;
    ensure!(failure["persistence"] == "transient" && failure["request_id"].is_string(), "{failure}");
    // Nobody serves it, so it can be cancelled, once.
    ensure!(stack.midward_ok(&["cancel", &last]).await?.contains("it is not sent"), "it says so");
    ensure!(asked(stack, &["get", "requests", &last]).await?["failure"]["code"] == "cancelled", "and it is so");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exit_code_means_what_the_manual_says() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let more = "  - alias: forbidden\n    base_url: https://elsewhere.example\n    credential: crm-oauth\n";
    let document = chain.stack.connections_yaml() + more;
    chain.stack.write("connections.yaml", &document)?;
    chain.start().await?;
    let stack = &chain.stack;
    let caller = key_file(stack, "caller").await?;
    let missing = stack.path("missing");
    ensure!(asked(stack, &["call", "crm", "GET", "/hello"]).await?["status"] == 200, "0");
    for args in [&["call", "crm", "GET", "/status/404"][..], &["call", "crm", "GET", "/status/404", "--queued"]] {
        let output = stack.midward(&[args, &["--output", "json"]].concat()).await?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(1) && answer["status"] == 404, "{answer}");
    }
    for args in [
        &["apply", "-f", &missing][..],
        &["call", "crm", "GE T", "/hello"],
        &["call", "crm", "GET", "/hello", "-H", "nothing"],
        &["get", "connections", "--key-file", &missing],
    ] {
        refused(stack, args, 2, "usage").await?;
    }
    refused(stack, &["get", "connections", "nobody"], 2, "unknown_connection").await?;
    refused(stack, &["call", "nobody/../crm", "GET", "/hello"], 2, "path_refused").await?;
    refused(stack, &["call", "forbidden", "GET", "/hello"], 3, "policy_api_origin").await?;
    refused(stack, &["get", "connections", "--url", "http://127.0.0.1:1"], 8, "instance_unreachable").await?;
    refused(stack, &["get", "connections", "--key-file", &caller], 9, "not_allowed").await?;
    refused(stack, &["call", "crm", "GET", "/hello", "--key-file", &caller], 9, "not_allowed").await?;
    ensure!(stack.midward(&["get", "nothing-of-the-kind"]).await?.status.code() == Some(2), "clap's own");
    Ok(())
}
