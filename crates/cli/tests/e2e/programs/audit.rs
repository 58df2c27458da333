//! `midward audit`: an export, a check of it, and what a hand in the database leaves behind.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::wait_for;
use midward_fakes::authorization_server::AuthorizationServerConfig;
use midward_fakes::postgres::Postgres;
use serde_json::Value;

use super::{asked, keep_addresses, key_file, refused};
use crate::support::CLIENT_SECRET;
use crate::support::fake::{FakeChain, edit};

const PATIENCE: Duration = Duration::from_secs(60);

struct Audited {
    // Programs first.
    chain: FakeChain,
    database: String,
    postgres: Arc<Postgres>,
}

impl Audited {
    /// A chain on PostgreSQL that made a call, with a checkpoint each second, of which its MID has kept some.
    async fn start() -> anyhow::Result<Self> {
        let postgres = Arc::new(tokio::task::spawn_blocking(Postgres::start_without_fsync).await??);
        let database = postgres.new_database()?;
        let url = database.clone();
        let config = AuthorizationServerConfig::default();
        let mut chain = FakeChain::prepare_with(config, CLIENT_SECRET, |setup| setup.postgres = Some(url)).await?;
        let stack = &mut chain.stack;
        keep_addresses(stack)?;
        edit(stack, "instance.toml", "[store]", "[audit]\ncheckpoint_seconds = 1\n\n[store]")?;
        stack.instance.take().context("an instance")?.stop(PATIENCE).await?;
        stack.start_instance().await?;
        stack.apply().await?;
        stack.enroll_mid(true).await?;
        let audited = Self { chain, database, postgres };
        // The MID looks when it has its link, and a minute later: there is something to see by then.
        audited.wait_for_checkpoint("enroll_token_made").await?;
        let mut audited = audited;
        audited.chain.stack.start_mid().await?;
        let stack = &audited.chain.stack;
        ensure!(asked(stack, &["call", "crm", "GET", "/hello"]).await?["status"] == 200, "a call");
        wait_for("a mirrored checkpoint", PATIENCE, async || Ok(audited.kept().ok().filter(|kept| !kept.is_empty())))
            .await?;
        audited.wait_for_checkpoint("\\\"ended\\\"").await?;
        Ok(audited)
    }

    /// Waits until what an entry says is signed.
    async fn wait_for_checkpoint(&self, entry: &str) -> anyhow::Result<()> {
        let stack = &self.chain.stack;
        wait_for("a checkpoint", PATIENCE, async || {
            let text = stack.midward_ok(&["audit", "export"]).await?;
            let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let block = text.lines().zip(&lines).find(|(text, line)| line["line"] == "block" && text.contains(entry));
            let Some((_, block)) = block else { return Ok(None) };
            let signed = lines.iter().any(|line| {
                line["line"] == "checkpoint"
                    && line["chain"] == block["chain"]
                    && line["seq"].as_i64() >= block["seq"].as_i64()
            });
            Ok(signed.then_some(()))
        })
        .await
    }

    fn mirror(&self) -> String {
        self.chain.stack.path("mid-state/audit.jsonl")
    }

    /// The checkpoints that the MID has kept.
    fn kept(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.mirror())?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(lines.into_iter().filter(|line| line["kind"] == "instance_checkpoint").collect())
    }

    async fn sql(&self, sql: String) -> anyhow::Result<String> {
        let (postgres, database) = (Arc::clone(&self.postgres), self.database.clone());
        Ok(tokio::task::spawn_blocking(move || postgres.sql(&database, &sql)).await??)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_is_exported_and_verified_and_a_hand_in_the_database_is_found() -> anyhow::Result<()> {
    let mut audited = Audited::start().await?;
    let stack = &audited.chain.stack;
    let export = stack.path("export.jsonl");
    let text = stack.midward_ok(&["audit", "export"]).await?;
    stack.write("export.jsonl", &text)?;
    let flat = stack.midward_ok(&["audit", "export", "--flat"]).await?;
    let entries: Vec<Value> = flat.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for what in ["started", "applied", "mid_enrolled", "accepted", "ended"] {
        ensure!(entries.iter().any(|entry| entry["what"] == what && entry["at"].is_i64()), "{what} in {flat}");
    }
    let mirror = audited.mirror();
    for source in [&["--file", &export][..], &[]] {
        let report = asked(stack, &[&["audit", "verify", "--mirror", &mirror], source].concat()).await?;
        ensure!(report["mirrored"].as_u64() == Some(audited.kept()?.len() as u64), "{report}");
        ensure!(report["entries"].as_u64() >= Some(entries.len() as u64), "{report}");
    }
    ensure!(stack.midward_ok(&["audit", "verify"]).await?.starts_with("the audit is whole"), "for people");

    // Blocks of a chain that the MID has seen signed.
    let kept = audited.kept()?;
    let seen = kept.iter().map(|line| &line["checkpoint"]).find(|seen| seen["seq"].as_i64() >= Some(2));
    let seen = seen.context("a checkpoint with blocks before it")?;
    let chain = seen["chain"].as_str().context("a chain")?.to_owned();
    let at = format!("chain = '{chain}' AND seq = {}", seen["seq"]);
    audited.sql("CREATE TABLE kept_blocks AS SELECT * FROM audit_blocks".to_owned()).await?;
    let changed =
        format!("UPDATE audit_blocks SET entries = replace(entries, '}}', ',\"x\":1}}') WHERE {at} RETURNING seq");
    let changed: i64 = audited.sql(changed).await?.parse().context("one block is changed")?;
    ensure!(seen["seq"] == changed, "and it is that one");
    let found = refused(stack, &["audit", "verify"], 8, "audit_not_whole").await?;
    ensure!(found["detail"].to_string().contains(&chain), "{found}");
    audited.sql(format!("DELETE FROM audit_blocks WHERE {at}")).await?;
    refused(stack, &["audit", "verify"], 8, "audit_not_whole").await?;
    audited.sql(format!("INSERT INTO audit_blocks SELECT * FROM kept_blocks WHERE {at}")).await?;
    asked(stack, &["audit", "verify", "--mirror", &mirror]).await?;
    // A beginning that is gone up to a checkpoint looks as if it had been removed by age: that is told.
    ensure!(asked(stack, &["audit", "verify"]).await?["shortened"] == 0, "all begin with their first block");
    let first = format!("chain = '{chain}' AND seq < {}", seen["seq"]);
    audited.sql(format!("DELETE FROM audit_blocks WHERE {first}")).await?;
    let output = stack.midward(&["audit", "verify", "--output", "json"]).await?;
    let shortened = serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|report| report["shortened"] == 1);
    ensure!(shortened || output.status.code() == Some(8), "{output:?}");
    audited.sql(format!("INSERT INTO audit_blocks SELECT * FROM kept_blocks WHERE {first}")).await?;

    // The tail cut off, checkpoints and all, while nobody looks: only who has seen it knows.
    let stack = &mut audited.chain.stack;
    stack.mid.take().context("a MID Server")?.stop(PATIENCE).await?;
    stack.instance.take().context("an instance")?.stop(PATIENCE).await?;
    let tail = format!("chain = '{chain}' AND seq >= {}", seen["seq"]);
    audited.sql(format!("DELETE FROM audit_blocks WHERE {tail}")).await?;
    audited.sql(format!("DELETE FROM audit_checkpoints WHERE {tail}")).await?;
    audited.chain.stack.start_instance().await?;
    let stack = &audited.chain.stack;
    asked(stack, &["audit", "verify"]).await?;
    let found = refused(stack, &["audit", "verify", "--mirror", &mirror], 8, "audit_not_whole").await?;
    ensure!(found["detail"].to_string().contains("MID Server has seen"), "{found}");
    asked(stack, &["audit", "verify", "--file", &export, "--mirror", &mirror]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_the_audits_commands_is_named() -> anyhow::Result<()> {
    let chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let stack = &chain.stack;
    stack.apply().await?;
    let (caller, auditor) = (key_file(stack, "caller").await?, key_file(stack, "auditor").await?);
    stack.write("flat.jsonl", &stack.midward_ok(&["audit", "export", "--flat"]).await?)?;
    stack.write("wrong-key", "mwk_wrong")?;
    let (flat, missing, policy) = (stack.path("flat.jsonl"), stack.path("missing"), stack.path("policy.toml"));
    let wrong = stack.path("wrong-key");
    let verify = |file: &str| -> Vec<String> { ["audit", "verify", "--file", file].map(str::to_owned).to_vec() };
    for file in [&flat, &missing, &policy] {
        let args = verify(file);
        refused(stack, &args.iter().map(String::as_str).collect::<Vec<_>>(), 2, "usage").await?;
    }
    for mirror in [&missing, &policy] {
        // A mirror with nothing in it would look like a check.
        refused(stack, &["audit", "verify", "--mirror", mirror], 2, "usage").await?;
    }
    for command in ["export", "verify"] {
        refused(stack, &["audit", command, "--key-file", &missing], 2, "usage").await?;
        refused(stack, &["audit", command, "--key-file", &wrong], 9, "unauthorized").await?;
        refused(stack, &["audit", command, "--key-file", &caller], 9, "not_allowed").await?;
        refused(stack, &["audit", command, "--url", "http://127.0.0.1:1"], 8, "instance_unreachable").await?;
        stack.midward_ok(&["audit", command, "--key-file", &auditor]).await?;
    }
    Ok(())
}
