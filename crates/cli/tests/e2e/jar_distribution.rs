//! A resolver JAR from the instance: stored there, fetched by its digest, loaded in a real JVM, and the call goes through it.
//! Other bytes under that digest, from a hostile instance or on the MID's own disk, are not loaded.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::{tail, wait_for};
use midward_demo::stack::{Issuer, OBJECT, Setup, Stack};
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::fake::{call, edit};
use crate::support::{CLIENT_ID, CLIENT_SECRET, RESOURCE, jar, programs};

/// The beginning of every JAR, as base64, and the same with one bit changed.
const HONEST: &[u8; 5] = b"UEsDB";
const HOSTILE: &[u8; 5] = b"UEsDC";

#[tokio::test]
async fn a_jar_comes_by_its_digest_and_nothing_else_is_loaded() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let way = Way::open().await?;
    let config = AuthorizationServerConfig {
        clients: vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET)],
        ..AuthorizationServerConfig::default()
    };
    let server = AuthorizationServer::start(config)?;
    let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
    let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
    let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, CLIENT_SECRET);
    setup.public_url = Some(format!("http://{}", way.addr));
    let mut stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
    way.lead_to(stack.api_addr);

    let customer = jar::compile(folder.path(), "com.snc.discovery.CredentialResolver", jar::LEGACY_RESOLVER, None)?;
    let output = stack.mid_command(&["jar", "hash", &customer.to_string_lossy()]).await?;
    let digest = String::from_utf8(output.stdout)?.split_whitespace().next().context("a digest")?.to_owned();
    let sample = format!("jar = \"{}\"", stack.programs.sample_jar().display());
    edit(&stack, "mid.toml", &sample, &format!("from_instance = \"customer\"\nsha256 = \"{digest}\""))?;
    let environment = "[resolvers.cyberark.environment_values]";
    edit(&stack, "mid.toml", environment, &format!("{environment}\nAIM_PORT = \"{}\"", stack.vault.port()))?;
    edit(&stack, "policy.toml", "version = 1\n", &format!("version = 1\njars = [\"{digest}\"]\n"))?;
    edit(
        &stack,
        "connections.yaml",
        "version: 1\n",
        "version: 1\njars:\n  - name: customer\n    file: customer.jar\n",
    )?;
    stack.apply().await?;
    // Only the instance has it now.
    std::fs::remove_file(&customer)?;
    let kept = folder.path().join("mid-state/jars-from-instance").join(&digest).join("resolver.jar");

    way.hostile.store(true, Ordering::SeqCst);
    stack.enroll_mid(true).await?;
    stack.start_mid().await?;
    wait_for("a refusal of other bytes", Duration::from_secs(30), async || {
        let log = std::fs::read_to_string(folder.path().join("logs/mid.log"))?;
        Ok(log.contains("does not have its digest").then_some(()))
    })
    .await?;
    ensure!(way.changed.load(Ordering::SeqCst) && !kept.exists(), "other bytes were kept");
    ensure!(resolve(&stack).await?.contains("jar_missing"), "a resolver without its JAR");
    ensure!(stack.vault.request_count() == 0, "the vault was asked");

    // The next attempt of a new process comes at once.
    way.hostile.store(false, Ordering::SeqCst);
    stack.mid.take().context("a MID Server")?.stop(Duration::from_secs(40)).await?;
    stack.start_mid().await?;
    let came = wait_for("the JAR", Duration::from_secs(60), async || Ok(kept.exists().then_some(()))).await;
    came.with_context(|| tail(&folder.path().join("logs/mid.log"), 20))?;
    wait_for("a call through it", Duration::from_secs(60), async || {
        Ok(call(&stack, &["crm", "GET", "/hello"]).await?.is_ok_and(|status| status == 200).then_some(()))
    })
    .await?;
    let asked = stack.vault.requests();
    ensure!(
        asked.last().and_then(|request| request.fields.value("client")) == Some("cli"),
        "not by the customer's JAR"
    );

    // Changed on the MID's own disk.
    let honest = std::fs::read(&kept)?;
    let mut changed = honest.clone();
    *changed.last_mut().context("a JAR")? ^= 1;
    replace(&kept, &changed)?;
    let before = stack.vault.request_count();
    ensure!(resolve(&stack).await?.contains("jar_pin_mismatch"), "a changed JAR");
    ensure!(stack.vault.request_count() == before, "a changed JAR asked the vault");
    replace(&kept, &honest)?;
    ensure!(resolve(&stack).await?.contains("client_secret"), "the right JAR again");

    // Taken off the policy's list.
    edit(&stack, "policy.toml", &format!("jars = [\"{digest}\"]\n"), "")?;
    let pid = stack.mid.as_ref().and_then(midward_demo::process::Daemon::pid).context("a MID Server")?;
    ensure!(Command::new("kill").args(["-HUP", &pid.to_string()]).status()?.success(), "no signal");
    wait_for("the end of the JAR", Duration::from_secs(30), async || Ok((!kept.exists()).then_some(()))).await?;
    ensure!(resolve(&stack).await?.contains("jar_missing"), "a JAR that is not allowed");
    Ok(())
}

/// What `midward-mid resolve` says, on either stream.
async fn resolve(stack: &Stack) -> anyhow::Result<String> {
    let config = stack.path("mid.toml");
    let output = stack.mid_command(&["resolve", OBJECT, "--resolver", "cyberark", "--config", &config]).await?;
    let text = [output.stdout, output.stderr].concat();
    ensure!(!String::from_utf8_lossy(&text).contains(CLIENT_SECRET), "the secret was shown");
    Ok(String::from_utf8(text)?)
}

/// As a whole, so that nobody reads a part of it.
fn replace(file: &PathBuf, content: &[u8]) -> anyhow::Result<()> {
    let new = file.with_extension("other");
    std::fs::write(&new, content)?;
    Ok(std::fs::rename(new, file)?)
}

/// What stands between the MID Server and the instance: it changes JARs when it is told to.
struct Way {
    addr: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    hostile: Arc<AtomicBool>,
    changed: Arc<AtomicBool>,
    _task: tokio::task::JoinSet<()>,
}

impl Way {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (target, hostile, changed) = (Arc::<Mutex<Option<SocketAddr>>>::default(), Arc::default(), Arc::default());
        let mut task = tokio::task::JoinSet::new();
        let parts = (Arc::clone(&target), Arc::clone(&hostile), Arc::clone(&changed));
        task.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((inner, _)) = listener.accept().await {
                let (target, hostile, changed) = parts.clone();
                let target = *target.lock().expect("unpoisoned");
                let Some(target) = target else { continue };
                connections.spawn(async move {
                    // How a connection ends is for its two ends to see.
                    let _ = pass(inner, target, &hostile, &changed).await;
                });
            }
        });
        Ok(Self { addr, target, hostile, changed, _task: task })
    }

    fn lead_to(&self, addr: SocketAddr) {
        *self.target.lock().expect("unpoisoned") = Some(addr);
    }
}

async fn pass(inner: TcpStream, target: SocketAddr, hostile: &AtomicBool, changed: &AtomicBool) -> std::io::Result<()> {
    let outer = TcpStream::connect(target).await?;
    let ((mut from_mid, mut to_mid), (mut from_instance, mut to_instance)) = (inner.into_split(), outer.into_split());
    let there = async {
        tokio::io::copy(&mut from_mid, &mut to_instance).await?;
        to_instance.shutdown().await
    };
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_instance.read(&mut buffer).await?;
            if read == 0 {
                return to_mid.shutdown().await;
            }
            let part = &mut buffer[..read];
            let start = part.windows(HONEST.len()).position(|window| window == HONEST);
            if let Some(start) = start.filter(|_| hostile.load(Ordering::SeqCst)) {
                part[start..start + HOSTILE.len()].copy_from_slice(HOSTILE);
                changed.store(true, Ordering::SeqCst);
            }
            to_mid.write_all(part).await?;
        }
    };
    tokio::try_join!(there, back).map(drop)
}
