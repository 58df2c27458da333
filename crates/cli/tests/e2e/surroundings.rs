//! What is around the programs fails: the disk under the database, another program that holds it, file descriptors.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_demo::process::{tail, wait_for};
use midward_fakes::HttpFault;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::kill::{api, check, ended, keep_address, start, stored, submit, wait_until_under_way};
use crate::support::Chain;
use crate::support::disk::{Disk, FakeDisk};

#[tokio::test]
async fn a_full_disk_lets_no_request_be_acknowledged_and_stops_the_instance() -> anyhow::Result<()> {
    fails(Disk::Full).await
}

#[tokio::test]
async fn a_disk_that_became_read_only_lets_no_request_be_acknowledged() -> anyhow::Result<()> {
    fails(Disk::ReadOnly).await
}

#[tokio::test]
async fn a_disk_that_loses_writes_lets_no_request_be_acknowledged() -> anyhow::Result<()> {
    fails(Disk::LosesWrites).await
}

#[tokio::test]
async fn an_idle_instance_learns_of_its_disk_from_the_heartbeats() -> anyhow::Result<()> {
    let mut chain = start().await?;
    let disk = FakeDisk::new(chain.folder.path())?;
    restart(&mut chain, &disk).await?;
    disk.set(Disk::LosesWrites)?;
    ends_and_says_why(&mut chain).await
}

#[tokio::test]
async fn an_instance_without_file_descriptors_sheds_and_recovers() -> anyhow::Result<()> {
    let chain = start().await?;
    chain.stack.api.clear_faults();
    let pid = chain.stack.instance.as_ref().and_then(midward_demo::process::Daemon::pid).context("an instance")?;
    let limit = limit_files(pid, 4)?;
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(TcpStream::connect(chain.stack.api_addr).await?);
    }
    let log = chain.stack.folder.join("logs/instance.log");
    wait_for("a connection that is not accepted", Duration::from_secs(30), async || {
        Ok(std::fs::read_to_string(&log)?.contains("a connection was not accepted").then_some(()))
    })
    .await?;
    drop(held);
    let answered = chain.call(&["crm", "GET", "/hello"]).await?;
    ensure!(answered["status"] == 200, "{answered}");
    restore_files(pid, limit)
}

#[tokio::test]
async fn a_mid_server_without_file_descriptors_says_so_and_recovers() -> anyhow::Result<()> {
    let chain = start().await?;
    chain.stack.api.clear_faults();
    let pid = chain.stack.mid.as_ref().and_then(midward_demo::process::Daemon::pid).context("a MID Server")?;
    // The token is dropped, so the next call needs connections that are not there yet.
    let flushed =
        chain.stack.mid_command(&["token", "crm", "--flush", "--config", &chain.stack.path("mid.toml")]).await?;
    ensure!(flushed.status.success(), "{}", String::from_utf8_lossy(&flushed.stderr));
    let limit = limit_files(pid, 0)?;
    let (_, line) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    ensure!(line.contains("file descriptors") || line.contains("open files"), "{line}");
    restore_files(pid, limit)?;
    wait_for("a good call", Duration::from_secs(60), async || {
        let output = chain.stack.midward(&["call", "crm", "GET", "/hello"]).await?;
        Ok(output.status.success().then_some(()))
    })
    .await
}

/// Lets a process open `more` files than it has open; returns what was allowed before.
fn limit_files(pid: u32, more: usize) -> anyhow::Result<Rlimit> {
    let open: HashSet<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let current = (0..).filter(|number| !open.contains(number)).nth(more);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let hard = limits.lines().find(|line| line.starts_with("Max open files"));
    let hard = hard.and_then(|line| line.split_whitespace().nth(4)).context("a limit")?.parse().ok();
    let process = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
    Ok(prlimit(Some(process), Resource::Nofile, Rlimit { current, maximum: hard })?)
}

fn restore_files(pid: u32, limit: Rlimit) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
    prlimit(Some(pid), Resource::Nofile, limit)?;
    Ok(())
}

/// The disk fails under load: nothing is acknowledged from then on, a call that runs gets its answer, the instance says
/// so and ends; what was acknowledged before is there when the disk works again.
async fn fails(how: Disk) -> anyhow::Result<()> {
    let mut chain = start().await?;
    let disk = FakeDisk::new(chain.folder.path())?;
    restart(&mut chain, &disk).await?;
    let accepted = submit(&chain, 60)?.await?;
    ensure!(accepted.len() == 60, "the disk works: {}", accepted.len());
    wait_until_under_way(&chain).await?;
    // It runs when the disk fails.
    chain.stack.api.set_fault(HttpFault::Slow { millis: 500 }, None);
    let running = synchronous(&chain)?;
    let running = tokio::spawn(async move { midward_fakes::client::send(running, None).await });
    wait_for("a call that runs", Duration::from_secs(30), async || {
        let (_, listed) = api(&chain, "GET", "/api/v1/requests?state=leased", &Value::Null).await?;
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().any(|item| item["path"] == "/hello").then_some(()))
    })
    .await?;
    disk.set(how)?;
    let late = submit(&chain, 20)?.await?;
    ensure!(late.is_empty(), "{} requests were acknowledged on a disk that fails", late.len());
    let answer = running.await??;
    let log = chain.stack.folder.join("logs/instance.log");
    let told = String::from_utf8_lossy(answer.body());
    ensure!(answer.status() == 200, "the call that ran: {told}; {}", tail(&log, 40));

    ends_and_says_why(&mut chain).await?;
    chain.stack.api.clear_faults();
    disk.set(Disk::Works)?;
    chain.stack.start_instance().await?;
    let stored = stored(&chain).await?;
    ensure!(accepted.is_subset(&stored), "an acknowledged request is gone");
    let ended = ended(&chain, &stored).await?;
    check(&chain, &ended)
}

async fn ends_and_says_why(chain: &mut Chain) -> anyhow::Result<()> {
    let instance = chain.stack.instance.take().context("an instance")?;
    let status = instance.ended(Duration::from_secs(60)).await?;
    ensure!(!status.success(), "it ended as if all were well");
    let last = tail(&chain.stack.folder.join("logs/instance.log"), 5);
    ensure!(last.contains("the disk under") && last.contains("failed"), "{last}");
    Ok(())
}

/// The instance again, on `disk`.
async fn restart(chain: &mut Chain, disk: &FakeDisk) -> anyhow::Result<()> {
    let instance = chain.stack.instance.take().context("an instance")?;
    ensure!(instance.stop(Duration::from_secs(30)).await?.success(), "it did not stop well");
    chain.stack.setup.environment = disk.environment();
    keep_address(chain)?;
    chain.stack.start_instance().await?;
    chain.stack.wait_for_mid().await
}

fn synchronous(chain: &Chain) -> anyhow::Result<http::Request<bytes::Bytes>> {
    Ok(http::Request::builder()
        .method("GET")
        .uri(format!("http://{}/api/v1/connections/crm/call/hello", chain.stack.call_addr))
        .header("authorization", chain.stack.authorization()?)
        .body(bytes::Bytes::new())?)
}
