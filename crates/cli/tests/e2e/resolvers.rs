//! Resolvers of a running MID Server: changed while calls run, led to by rules, kept for a while, and watched.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::wait_for;
use midward_demo::stack::{APP_ID, MID, OBJECT, SAFE, Stack};
use midward_fakes::authorization_server::AuthorizationServerConfig;
use midward_fakes::vault::{Account, VaultFault};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::fake::{FakeChain, ask_mid, call, edit};
use crate::support::{CLIENT_ID, CLIENT_SECRET};

const LIMIT: Duration = Duration::from_secs(60);

async fn start(adjust: impl FnOnce(&Stack) -> anyhow::Result<()>) -> anyhow::Result<FakeChain> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    adjust(&chain.stack)?;
    chain.start().await?;
    Ok(chain)
}

/// Another section over the same vault.
fn sdk(stack: &Stack, name: &str, more: &str) -> String {
    format!(
        "\n[resolvers.{name}]\nkind = \"cyberark_sdk\"\njar = \"{}\"\napp_id = \"{APP_ID}\"\nsafe = \"{SAFE}\"\nport = {}\n{more}\n",
        stack.programs.fake_sdk().display(),
        stack.vault.port()
    )
}

fn append(stack: &Stack, name: &str, more: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(stack.folder.join(name))?;
    stack.write(name, &(text + more))
}

/// How often a resolver's JVM got ready, by the MID Server's log.
fn starts(stack: &Stack, resolver: &str) -> anyhow::Result<usize> {
    let log = std::fs::read_to_string(stack.folder.join("logs/mid.log"))?;
    // Without the colours that a terminal would get.
    let plain = |line: &str| {
        line.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect::<String>()
    };
    let named = format!("resolver={resolver} ");
    Ok(log.lines().map(plain).filter(|line| line.contains("resolver ready") && line.contains(&named)).count())
}

/// The names of the resolvers that the instance knows of.
async fn advertised(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let mids: Value = serde_json::from_str(&stack.midward_ok(&["get", "mids", "--output", "json"]).await?)?;
    let text = mids.to_string();
    ensure!(text.contains(MID), "{text}");
    let list = mids.pointer("/items/0/resolvers").or_else(|| mids.pointer("/0/resolvers")).context("resolvers")?;
    let names = list.as_array().into_iter().flatten().filter_map(|status| status["name"].as_str().map(str::to_owned));
    Ok(names.collect())
}

async fn until_advertised(stack: &Stack, names: &[&str]) -> anyhow::Result<()> {
    wait_for("the heartbeat with the new resolvers", LIMIT, async || {
        Ok((advertised(stack).await? == names).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_reload_swaps_what_changed_and_ends_no_call() -> anyhow::Result<()> {
    let chain = start(|_| Ok(())).await?;
    let stack = &chain.stack;
    for resolver in ["cyberark", "cyberark-sdk"] {
        ask_mid(stack, &["resolve", OBJECT, "--resolver", resolver]).await?;
        ensure!(starts(stack, resolver)? == 1, "{resolver}");
    }

    // A look-up that runs while its resolver is replaced ends on the old one.
    stack.vault.set_fault_for(OBJECT, VaultFault::Slow { millis: 1500 }, Some(1));
    let before = stack.vault.request_count();
    let config = stack.path("mid.toml");
    let mut running = Command::new(&stack.programs.midward_mid);
    running.args(["resolve", OBJECT, "--resolver", "cyberark-sdk", "--config", &config, "--output", "json"]);
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    // The fault is taken when the request was read; it is recorded when it is answered.
    wait_for("the question at the vault", LIMIT, async || Ok(stack.vault.is_busy().then_some(()))).await?;
    edit(
        stack,
        "mid.toml",
        "[resolvers.cyberark-sdk]\n",
        "[resolvers.cyberark-sdk]\nlimits = { max_concurrent = 8 }\n",
    )?;
    append(stack, "mid.toml", &sdk(stack, "added", ""))?;
    let changes = ask_mid(stack, &["reload"]).await?;
    let expected = json!({ "added": ["added"], "changed": ["cyberark-sdk"], "removed": [], "unchanged": ["cyberark"] });
    assert_eq!(changes, expected);
    ensure!(stack.vault.request_count() == before, "the look-up still runs");
    let ended = tokio::time::timeout(LIMIT, running.wait_with_output()).await??;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

    until_advertised(stack, &["added", "cyberark", "cyberark-sdk"]).await?;
    for resolver in ["added", "cyberark", "cyberark-sdk"] {
        ask_mid(stack, &["resolve", OBJECT, "--resolver", resolver]).await?;
    }
    let counted = [starts(stack, "added")?, starts(stack, "cyberark")?, starts(stack, "cyberark-sdk")?];
    assert_eq!(counted, [1, 1, 2], "who did not change keeps its JVM");

    // What cannot be read changes nothing and says why.
    edit(stack, "mid.toml", "[resolvers.added]\nkind", "[resolvers.added]\nkid")?;
    let refused = stack.mid_command(&["status", "--config", &config]).await?;
    assert_eq!(refused.status.code(), Some(5), "commands read the same file");
    edit(stack, "mid.toml", "[resolvers.added]\nkid", "[resolvers.added]\nkind")?;
    let text = std::fs::read_to_string(stack.folder.join("policy.toml"))?;
    stack.write("policy.toml", "version = 7\n")?;
    let refused = stack.mid_command(&["reload", "--config", &config]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(5) && said.contains("policy_invalid"), "{said}");
    stack.write("policy.toml", &text)?;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));

    // The signal does the same.
    let text = std::fs::read_to_string(stack.folder.join("mid.toml"))?;
    let (rest, _) = text.split_once("\n[resolvers.added]").context("the added section")?;
    stack.write("mid.toml", rest)?;
    let pid = stack.mid.as_ref().and_then(midward_demo::process::Daemon::pid).context("it runs")?;
    ensure!(std::process::Command::new("kill").args(["-HUP", &pid.to_string()]).status()?.success(), "kill");
    until_advertised(stack, &["cyberark", "cyberark-sdk"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_serving_resolver_says_what_its_control_group_lacks() -> anyhow::Result<()> {
    let without = |stack: &Stack| append(stack, "mid.toml", &sdk(stack, "without", "cgroup = \"off\""));
    let chain = start(without).await?;
    let stack = &chain.stack;
    for resolver in ["cyberark", "without"] {
        ask_mid(stack, &["resolve", OBJECT, "--resolver", resolver]).await?;
    }
    let status = ask_mid(stack, &["status"]).await?;
    let told = |name: &str| {
        let all = status["resolvers"].as_array().into_iter().flatten();
        let one = all.into_iter().find(|resolver| resolver["name"] == name).context("no such resolver")?;
        ensure!(one["health"] == "ready", "{one}");
        Ok(one["reason"].as_str().map(str::to_owned))
    };
    assert_eq!(told("without")?, None, "nothing that it should have is missing");
    let log = std::fs::read_to_string(stack.folder.join("logs/mid.log"))?;
    let config = stack.path("mid.toml");
    let doctor = stack.mid_command(&["doctor", "--config", &config]).await?;
    let doctor = String::from_utf8(doctor.stdout)?;
    match told("cyberark")? {
        Some(lack) => {
            ensure!(lack.contains("control group") && log.contains(&lack), "{lack}: {log}");
            ensure!(doctor.contains(&format!("ok   resolver cyberark: {lack}")), "{doctor}");
        }
        None => ensure!(!log.contains("control group") && doctor.contains("ok   resolver cyberark: ready"), "{log}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_credential_without_a_resolver_goes_by_the_default_route() -> anyhow::Result<()> {
    let chain = start(|stack| {
        let route = "\n[resolvers.default]\nkind = \"route\"\n[[resolvers.default.rules]]\nprefix = \"nowhere/\"\nto = [\"dead\"]\n\
                     [[resolvers.default.rules]]\npattern = \"crm-*\"\nto = [\"dead\", \"cyberark-sdk\"]\n";
        // Nobody listens on port 1.
        let dead = sdk(stack, "dead", "").replace(&format!("port = {}", stack.vault.port()), "port = 1");
        append(stack, "mid.toml", &(dead + route))?;
        let rule = stack.policy_rule("crm-default", OBJECT, "default", &stack.setup.issuer.token_url, &stack.api.url());
        append(stack, "policy.toml", &rule)?;
        edit(stack, "connections.yaml", "    resolver: cyberark\n", "")
    })
    .await?;
    let stack = &chain.stack;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let found = ask_mid(stack, &["resolve", OBJECT]).await?;
    let steps: Vec<&str> =
        found["trace"].as_array().into_iter().flatten().filter_map(|hop| hop["what"].as_str()).collect();
    ensure!(steps.contains(&"dead failed (vault_unreachable)"), "{steps:?}");
    ensure!(steps.contains(&"rule 2 of default led to cyberark-sdk"), "{steps:?}");
    let config = stack.path("mid.toml");
    let none = stack.mid_command(&["resolve", "other", "--config", &config]).await?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(said.contains("route_missing"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_kept_secret_is_read_anew_once_the_server_refuses_it() -> anyhow::Result<()> {
    let chain = start(|stack| append(stack, "mid.toml", "[resolvers.cyberark-sdk.cache]\nttl_seconds = 300\n")).await?;
    let stack = &chain.stack;
    edit(stack, "connections.yaml", "resolver: cyberark\n", "resolver: cyberark-sdk\n")?;
    stack.apply().await?;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let asked = stack.vault.request_count();

    // Rotated, and the server takes both for a while: the next token still comes of the secret that is kept.
    stack.vault.set_password(SAFE, OBJECT, "the new secret");
    chain.server.set_client_secret(CLIENT_ID, "the new secret", true);
    let reloaded = ask_mid(stack, &["reload"]).await?;
    assert_eq!(reloaded["unchanged"].as_array().map(Vec::len), Some(2));
    let minted = chain.server.request_count();
    assert_eq!(call(stack, &["crm", "GET", "/status/401"]).await?, Ok(401), "a refused token is replaced once");
    assert_eq!((chain.server.request_count(), stack.vault.request_count()), (minted + 1, asked));

    // The server takes the new one only: what is kept is refused, passed by and replaced.
    chain.server.set_client_secret(CLIENT_ID, "the new secret", false);
    assert_eq!(call(stack, &["crm", "GET", "/status/401"]).await?, Ok(401));
    assert_eq!((chain.server.request_count(), stack.vault.request_count()), (minted + 3, asked + 1));
    assert_eq!(call(stack, &["crm", "GET", "/status/401"]).await?, Ok(401));
    assert_eq!((chain.server.request_count(), stack.vault.request_count()), (minted + 4, asked + 1));

    // An operator's flush drops the secret too.
    ask_mid(stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    assert_eq!(stack.vault.request_count(), asked + 2);
    Ok(())
}

#[tokio::test]
async fn a_watch_tells_of_rotations_and_failures_and_of_no_value() -> anyhow::Result<()> {
    const CANARY: &str = "c4n4ry-rotated-secret";
    let chain = start(|_| Ok(())).await?;
    let stack = &chain.stack;
    stack.vault.add_account(Account::new(SAFE, "watched", CLIENT_ID, CLIENT_SECRET));
    let mut watch = Watch::start(stack, &["resolve", "watched", "--resolver", "cyberark-sdk"])?;
    let first = watch.line().await?;
    let print = |line: &Value| line["secret"]["fingerprint"].as_str().map(str::to_owned);
    let length = |line: &Value| line["secret"]["fields"][1]["length"].as_u64();
    ensure!(print(&first).is_some() && length(&first) == Some(CLIENT_SECRET.len() as u64), "{first}");

    stack.vault.set_password(SAFE, "watched", CANARY);
    let rotated = watch.line().await?;
    ensure!(print(&rotated).is_some() && print(&rotated) != print(&first), "{rotated}");
    ensure!(length(&rotated) == Some(CANARY.len() as u64), "{rotated}");

    stack.vault.set_change_in_process(SAFE, "watched", true);
    assert_eq!(watch.line().await?["secret"]["changing"], true);
    stack.vault.set_change_in_process(SAFE, "watched", false);
    assert_eq!(watch.line().await?["secret"]["changing"], false);

    stack.vault.set_fault_for("watched", VaultFault::Denied, None);
    let denied = watch.line().await?;
    assert_eq!(denied["failure"]["code"], "vault_denied", "{denied}");
    stack.vault.clear_faults();
    stack.vault.set_password(SAFE, "watched", CLIENT_SECRET);
    let back = watch.line().await?;
    assert_eq!(print(&back), print(&first), "the same secret has the same fingerprint");
    ensure!(!watch.seen.contains(CANARY) && !watch.seen.contains(CLIENT_SECRET), "a value was shown");
    watch.interrupt().await
}

/// `midward-mid ... --watch`, every second, as JSON lines.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: String,
}

impl Watch {
    fn start(stack: &Stack, args: &[&str]) -> anyhow::Result<Self> {
        let config = stack.path("mid.toml");
        let mut command = Command::new(&stack.programs.midward_mid);
        command.args(args).args(["--watch", "--interval", "1", "--config", &config, "--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        Ok(Self { child, lines, seen: String::new() })
    }

    async fn line(&mut self) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.context("no line in time")??;
        let line = line.context("it ended")?;
        self.seen += &line;
        Ok(serde_json::from_str(&line)?)
    }

    /// Ctrl-C, which ends it well.
    async fn interrupt(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().context("it runs")?;
        ensure!(std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status()?.success(), "kill");
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}
