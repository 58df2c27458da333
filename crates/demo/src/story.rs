//! The steps of the demo.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use midward_core::{BootTime, Clock, SystemClock};
use midward_demo::process::wait_for;
use midward_demo::stack::{APP_ID, Issuer, MID, OBJECT, Programs, SAFE, Setup, Stack};
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use serde_json::Value;

const RESOURCE: &str = "https://crm.demo.example/api";
const CLIENT_ID: &str = "crm-integration";
const SECRET: &str = "demo/secret:with+all=the%odd&ones";
const ROTATED: &str = "demo/secret:rotated+at=3%am&fine";
const TOKEN_LIFETIME: Duration = Duration::from_secs(6);

/// Tells the whole story; stays up at its end unless `once`.
pub(crate) async fn tell(programs: Programs, once: bool) -> anyhow::Result<()> {
    println!(
        "Midward on this machine's loopback: instance, MID Server, resolver JAR, AIM client, vault, authorization\nserver, API. Everything but CyberArk's vault and the third party is the real product.\n"
    );
    let folder = tempfile::Builder::new().prefix("midward-demo-").tempdir()?;
    let started = SystemClock.boot();
    let server = start_authorization_server()?;
    let mut stack = start_stack(programs, &server, folder.path()).await?;
    say_since(
        "Everything is up: the MID Server enrolled with a one-time token and an administrator's consent",
        started,
    );

    first_call(&stack).await.context("first call")?;
    second_call(&stack, &server).await.context("second call")?;
    refresh(&stack, &server).await.context("refresh")?;
    rotation(&stack, &server).await.context("rotation")?;
    hostile_token_url(&stack).await.context("hostile token URL")?;

    println!("\nThat was it. The secret was never on the instance, in an argument, a log or a file of ours.");
    if !once {
        stay_up(&stack)?;
        tokio::signal::ctrl_c().await?;
        println!("\nEnding.");
    }
    if let Some(mid) = stack.mid.take() {
        mid.stop(Duration::from_secs(20)).await?;
    }
    if let Some(instance) = stack.instance.take() {
        instance.stop(Duration::from_secs(20)).await?;
    }
    Ok(())
}

fn start_authorization_server() -> anyhow::Result<AuthorizationServer> {
    let config = AuthorizationServerConfig {
        clients: vec![OAuthClient::new(CLIENT_ID, SECRET)],
        lifetime: TOKEN_LIFETIME,
        ..AuthorizationServerConfig::default()
    };
    Ok(AuthorizationServer::start(config)?)
}

async fn start_stack(
    programs: Programs,
    server: &AuthorizationServer,
    folder: &std::path::Path,
) -> anyhow::Result<Stack> {
    let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
    let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
    let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, SECRET);
    setup.tls = true;
    let mut stack = Stack::prepare(programs, setup, api, folder).await?;
    stack.apply().await?;
    stack.enroll_mid(false).await?;
    stack.spawn_mid()?;
    stack.midward_ok(&["mid", "validate", MID]).await?;
    stack.wait_for_mid().await?;
    Ok(stack)
}

async fn first_call(stack: &Stack) -> anyhow::Result<()> {
    heading("The first call: GET /hello on connection crm");
    let answer = call(stack).await?;
    let steps = answer["trace"].as_array().context("no trace")?;
    println!("  the instance knew only: identifier \"{OBJECT}\", the token URL, the scope \"read\"");
    for step in steps {
        let hop = step["hop"].as_str().unwrap_or_default();
        let what = step["what"].as_str().unwrap_or_default();
        println!("  {:<21} {:<58} {:>9}", in_words(hop), what, millis(step["micros"].as_u64().unwrap_or_default()));
    }
    for hop in ["vault", "authorization_server", "api"] {
        ensure!(steps.iter().any(|step| step["hop"] == hop), "the trace does not name the hop {hop}: {answer}");
    }
    println!("  The vault gave safe {SAFE}, object {OBJECT} to application {APP_ID}; the JAR handed it to the MID,");
    println!("  which sent it once, to the token URL that its own policy file lists, and forgot it.");
    Ok(())
}

async fn second_call(stack: &Stack, server: &AuthorizationServer) -> anyhow::Result<()> {
    heading("The second call");
    let before = server.request_count();
    let answer = call(stack).await?;
    ensure!(server.request_count() == before, "the second call asked for another token");
    let steps = answer["trace"].as_array().context("no trace")?;
    let micros = steps.iter().filter_map(|step| step["micros"].as_u64()).sum();
    println!("  token from the MID's memory: nobody asked the vault or the authorization server; all hops of the MID");
    println!("  together took {}", millis(micros));
    Ok(())
}

async fn refresh(stack: &Stack, server: &AuthorizationServer) -> anyhow::Result<()> {
    heading("A refresh");
    let before = server.request_count();
    let calls = calls_until(stack, || server.request_count() > before).await?;
    println!(
        "  tokens live {} s here; the MID fetched the next one in the background, before the old one ended;",
        TOKEN_LIFETIME.as_secs()
    );
    println!("  {calls} calls meanwhile, all answered");
    Ok(())
}

async fn rotation(stack: &Stack, server: &AuthorizationServer) -> anyhow::Result<()> {
    heading("A rotated secret");
    ensure!(server.set_client_secret(CLIENT_ID, ROTATED, false), "the authorization server does not know {CLIENT_ID}");
    ensure!(stack.vault.set_password(SAFE, OBJECT, ROTATED), "the vault does not know {SAFE}/{OBJECT}");
    let before = server.request_count();
    let calls = calls_until(stack, || server.request_count() > before).await?;
    call(stack).await?;
    println!("  changed in the vault and at the authorization server; the next token was made with the new secret,");
    println!("  without a restart; {calls} calls meanwhile, all answered");
    Ok(())
}

async fn hostile_token_url(stack: &Stack) -> anyhow::Result<()> {
    heading("A hostile instance");
    let thief = AuthorizationServer::start(AuthorizationServerConfig::default())?;
    let honest = stack.connections_yaml();
    let hostile = honest.replace(&stack.setup.issuer.token_url, &thief.token_url());
    stack.write("connections.yaml", &hostile)?;
    stack.apply().await?;
    let output = stack.midward(&["call", "crm", "GET", "/hello"]).await?;
    let line = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(!output.status.success() && line.contains("policy"), "the call was not refused: {line}");
    ensure!(thief.request_count() == 0, "the thief was asked for a token");
    println!("  somebody who controls the instance points the token URL at a server of his own:");
    println!("  {line}");
    println!("  exit code {}; the thief's server saw 0 requests", output.status.code().unwrap_or(-1));
    let reference = line.split_once("policy explain ").and_then(|(_, rest)| rest.split_whitespace().next());
    let reference = reference.context("the refusal names no reference")?;
    let config = stack.path("mid.toml");
    let explained = stack.mid_command(&["policy", "explain", reference, "--config", &config]).await?;
    ensure!(explained.status.success(), "policy explain: {}", String::from_utf8_lossy(&explained.stderr));
    println!("  only on the MID's own host, its owner reads why, and what to add if he wants it:");
    for line in String::from_utf8_lossy(&explained.stdout).lines() {
        println!("    {line}");
    }
    stack.write("connections.yaml", &honest)?;
    stack.apply().await?;
    call(stack).await.context("after the honest configuration came back")?;
    println!("  the honest configuration again: calls go on");
    Ok(())
}

fn stay_up(stack: &Stack) -> anyhow::Result<()> {
    let midward = stack.programs.midward.display();
    let mid = stack.programs.midward_mid.display();
    let (folder, config) = (stack.folder.display(), stack.path("mid.toml"));
    println!("\nIt stays up until Ctrl-C. In another terminal:\n");
    println!("  export MIDWARD_URL=https://{} MIDWARD_CALL_URL=https://{}", stack.api_addr, stack.call_addr);
    println!("  export MIDWARD_KEY_FILE={folder}/admin-key MIDWARD_CA_FILE={folder}/instance-data/ca.pem");
    println!("  {midward} call crm GET /hello --trace");
    println!("  {midward} get connections");
    println!("  {midward} get mids");
    println!("  {mid} resolve {OBJECT} --resolver cyberark --config {config}");
    println!("  {mid} token crm --explain --config {config}");
    println!("  less {folder}/logs/mid.log\n");
    std::io::Write::flush(&mut std::io::stdout())?;
    Ok(())
}

/// One call, which must be answered with 200.
async fn call(stack: &Stack) -> anyhow::Result<Value> {
    let text = stack.midward_ok(&["call", "crm", "GET", "/hello", "--output", "json", "--trace"]).await?;
    let answer: Value = serde_json::from_str(&text)?;
    if answer["status"] != 200 {
        bail!("the API answered {}: {text}", answer["status"]);
    }
    Ok(answer)
}

/// Calls until `done`; every call must be answered with 200.
async fn calls_until(stack: &Stack, done: impl Fn() -> bool) -> anyhow::Result<u32> {
    let mut calls = 0;
    wait_for("the next token", Duration::from_secs(20), async || {
        call(stack).await?;
        calls += 1;
        Ok(done().then_some(()))
    })
    .await?;
    Ok(calls)
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn say_since(text: &str, started: BootTime) {
    let took = SystemClock.boot().saturating_since(started);
    println!("  {text} ({})", millis(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

fn in_words(hop: &str) -> &str {
    match hop {
        "mid" => "MID Server",
        "authorization_server" => "authorization server",
        "api" => "API",
        other => other,
    }
}
