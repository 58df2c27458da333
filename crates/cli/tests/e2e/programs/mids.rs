//! `midward mid`: what an administrator says of a MID holds at once, in the programs themselves.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::{Daemon, wait_for};
use midward_demo::stack::{MID, Stack};
use midward_fakes::authorization_server::AuthorizationServerConfig;
use midward_fakes::cutter::{Cutter, Lose};
use serde_json::Value;

use super::{asked, key_file, refused};
use crate::support::CLIENT_SECRET;
use crate::support::fake::FakeChain;

const PATIENCE: Duration = Duration::from_secs(90);

async fn works(stack: &Stack) -> anyhow::Result<()> {
    wait_for("a call", PATIENCE, async || {
        let output = stack.midward(&["call", "crm", "GET", "/hello", "--output", "json"]).await?;
        Ok(output.status.success().then_some(()))
    })
    .await
}

async fn mid(stack: &Stack) -> anyhow::Result<Value> {
    asked(stack, &["get", "mids", MID]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mid_does_what_its_administrator_says() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(false).await?;
    chain.stack.spawn_mid()?;
    let stack = &chain.stack;
    let no_call = async |says: &str| {
        let failure = refused(stack, &["call", "crm", "GET", "/hello"], 4, "no_mid").await?;
        ensure!(failure["detail"].to_string().contains(says), "{says}: {failure}");
        anyhow::Ok(())
    };
    no_call("waits to be validated").await?;
    for action in ["pause", "resume", "drain"] {
        refused(stack, &["mid", action, MID], 2, "wrong_state").await?;
    }
    for (action, state, says) in [
        ("validate", "validated", ""),
        ("pause", "paused", "is paused"),
        ("resume", "validated", ""),
        ("drain", "validated", "is draining"),
        ("resume", "validated", ""),
        ("invalidate", "invalidated", "is invalidated"),
        ("validate", "validated", ""),
    ] {
        ensure!(stack.midward_ok(&["mid", action, MID]).await? == format!("MID {MID} is {state}\n"), "{action}");
        ensure!(mid(stack).await?["state"] == state, "{action}");
        if says.is_empty() { works(stack).await? } else { no_call(says).await? }
    }
    for action in ["validate", "invalidate", "pause", "resume", "drain", "rekey"] {
        for name in ["nobody", "a/b", "..", "%2e", "ä?#"] {
            refused(stack, &["mid", action, name], 2, "unknown_mid").await?;
        }
    }
    let (caller, operator) = (key_file(stack, "caller").await?, key_file(stack, "operator").await?);
    for (action, key) in [("pause", &caller), ("rekey", &operator), ("validate", &operator)] {
        refused(stack, &["mid", action, MID, "--key-file", key], 9, "not_allowed").await?;
    }
    ensure!(stack.midward(&["mid", "pause"]).await?.status.code() == Some(2), "a name is needed");
    works(stack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mid_gets_a_new_key_and_an_enrollment_whose_answer_got_lost_is_done_again() -> anyhow::Result<()> {
    let cutter = Cutter::unconnected()?;
    let url = cutter.url();
    let config = AuthorizationServerConfig::default();
    let mut chain = FakeChain::prepare_with(config, CLIENT_SECRET, |setup| setup.public_url = Some(url)).await?;
    let stack = &chain.stack;
    cutter.set_target(stack.api_addr);
    stack.apply().await?;
    let (token, config) = (stack.path("token"), stack.path("mid.toml"));
    stack.midward_ok(&["mid", "enroll-token", MID, "--prevalidated", "--output-file", &token]).await?;
    let enroll = async |more: &[&str], token: &str| {
        let args = [&["enroll", "--config", &config, "--token-file", token][..], more].concat();
        let output = stack.mid_command(&args).await?;
        anyhow::Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    for lose in [Lose::Request, Lose::Answer] {
        // It is tried again once by itself, which heals one lost message.
        cutter.cut_often("POST /mid/v1/enroll", "POST /mid/v1/enroll", lose, 2);
        let (is_done, said) = enroll(&[], &token).await?;
        ensure!(!is_done && said.contains("instance_unreachable"), "{lose:?}, {} cut: {said}", cutter.cuts());
        ensure!(said.contains("again with the same token"), "{said}");
    }
    ensure!(cutter.cuts() == 4, "all were cut");
    let (is_done, said) = enroll(&[], &token).await?;
    ensure!(is_done, "{said}");
    let left = || -> anyhow::Result<Vec<_>> {
        let names = std::fs::read_dir(stack.folder.join("mid-state"))?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
        Ok(names.into_iter().filter(|name| name.to_string_lossy().starts_with("enroll-")).collect())
    };
    ensure!(left()?.iter().all(|name| !name.to_string_lossy().ends_with(".p8")), "no key is left: {:?}", left()?);
    let mids = asked(stack, &["get", "mids"]).await?;
    ensure!(mids.as_array().map(Vec::len) == Some(1), "one registration: {mids}");
    // The token is spent for any other key.
    let (is_done, said) = enroll(&["--replace"], &token).await?;
    ensure!(!is_done && said.contains("enroll_refused"), "{said}");
    chain.stack.start_mid().await?;
    let stack = &chain.stack;
    works(stack).await?;

    let before = mid(stack).await?;
    let rekey = stack.path("rekey");
    stack.midward_ok(&["mid", "rekey", MID, "--output-file", &rekey]).await?;
    ensure!(std::fs::metadata(&rekey)?.permissions().mode() & 0o777 == 0o600, "its owner's only");
    refused(stack, &["mid", "rekey", MID, "--output-file", &rekey], 2, "usage").await?;
    works(stack).await?;
    let enroll = async |token: &str| {
        let args = ["enroll", "--replace", "--config", &config, "--token-file", token];
        let output = stack.mid_command(&args).await?;
        anyhow::Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    cutter.cut("POST /mid/v1/enroll", "POST /mid/v1/enroll", Lose::Answer);
    let (is_done, said) = enroll(&rekey).await?;
    ensure!(is_done && cutter.cuts() == 5, "the lost answer is given again: {said}");
    // The key before is good for nothing now, so the MID that runs with it gets no work; a restart heals it.
    refused(stack, &["call", "crm", "GET", "/hello", "--wait-ms", "20000"], 4, "no_mid").await?;
    chain.stack.mid.take().context("a MID Server")?.kill().await?;
    chain.stack.start_mid().await?;
    works(&chain.stack).await?;
    let after = mid(&chain.stack).await?;
    ensure!((&before["id"], &before["created_at"]) == (&after["id"], &after["created_at"]), "the same MID");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mid_that_was_cloned_by_its_state_folder_is_named_and_the_work_goes_on() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    chain.start().await?;
    let stack = &chain.stack;
    works(stack).await?;
    let copy = stack.folder.join("copied-state");
    std::fs::create_dir(&copy)?;
    for entry in std::fs::read_dir(stack.folder.join("mid-state"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
    }
    stack.write("copy.toml", &stack.mid_toml().replace("mid-state", "copied-state"))?;
    let config = stack.folder.join("copy.toml");
    let args = [std::ffi::OsStr::new("run"), std::ffi::OsStr::new("--config"), config.as_os_str()];
    let log = stack.folder.join("logs/copy.log");
    let newer = Daemon::start("the copy", &stack.programs.midward_mid, args, &[], &log)?;
    let cloned = async |is: bool| {
        wait_for("what the instance says of it", PATIENCE, async || {
            Ok((mid(stack).await?["cloned"] == is).then_some(()))
        })
        .await
    };
    cloned(true).await?;
    let output = stack.midward(&["doctor"]).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(4) && said.contains("(mid_cloned)"), "{said}");
    // The newer one has the word, the older one says why it has not, and callers notice nothing.
    for _ in 0..20 {
        let output = stack.midward(&["call", "crm", "POST", "/counter"]).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(stack.api.counter() == 20, "each once");
    let said = |name: &str| std::fs::read_to_string(stack.folder.join("logs").join(name)).unwrap_or_default();
    wait_for("the older one's word", PATIENCE, async || {
        Ok(said("mid.log").contains("another program runs with this MID Server's key").then_some(()))
    })
    .await?;
    wait_for("the newer one's word", PATIENCE, async || Ok(said("copy.log").contains("another program").then_some(())))
        .await?;
    // Without the newer one, the older one works again by itself.
    newer.kill().await?;
    works(stack).await
}
