//! The JAR host: what a call, a start, an idle JVM and many calls at once cost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use midward_core::{BootTime, Clock, MaterialField, SystemClock, SystemRandom};
use midward_demo::stack::Programs;
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig};
use midward_fakes::tls::{Ca, Tls};
use midward_resolvers::{Lookup, Resolver, ResolverContext, build};

use crate::dispatch::{median, millis};
use crate::report::Figure;
use crate::usage::resident_kib;

/// This program becomes the JVM's trampoline when it is started with this word.
pub(crate) const TRAMPOLINE: &str = "--jar-host-exec";
const DEADLINE: Duration = Duration::from_secs(10);
const STARTS: usize = 7;
const CALLS: usize = 5000;
const AT_ONCE: usize = 64;
/// How long a call of the neighbour that hangs may take.
const HANGS: Duration = Duration::from_millis(20);
const VAULT: Duration = Duration::from_millis(100);

pub(crate) async fn measure(programs: &Programs, repository: &Path) -> anyhow::Result<Vec<Figure>> {
    let hosts = Hosts { jar: compile(programs, repository)?, programs, folder: tempfile::tempdir()? };
    let ca = Arc::new(Ca::generate("bench")?);
    let config = AuthorizationServerConfig { tls: Tls::Server(ca), ..AuthorizationServerConfig::default() };
    let server = AuthorizationServer::start(config)?;
    let port = server.url().rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse::<u16>().ok());
    let port = port.context("a server without a port")?;

    let mut starts = Vec::new();
    for number in 0..STARTS {
        let resolver = hosts.resolver(&format!("start-{number}"), "", port)?;
        let started = SystemClock.boot();
        call(&*resolver, "now").await?;
        starts.push(millis(since(started)));
        resolver.shut_down().await;
    }

    let resolver = hosts.resolver("warm", "", port)?;
    call(&*resolver, "now").await?;
    let idle = jvm_mib()?;
    let mut over = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let (took, own) = call(&*resolver, "now").await?;
        over.push(took.saturating_sub(own));
    }
    // The first thousand are the JVM's to warm up.
    let mut over = over.split_off(1000);
    over.sort_unstable();
    let (alone, beside) = neighbour(&hosts, &*resolver, port).await?;

    for _ in 0..20 {
        call(&*resolver, "https").await?;
    }
    let after_https = jvm_mib()?;

    let mut bursts = Vec::new();
    for _ in 0..5 {
        bursts.push(millis(burst(&resolver).await?));
    }
    resolver.shut_down().await;
    Ok(vec![
        Figure::lower("warm JAR call over the JAR's own time, p50", "us", micros(percentile(&over, 50)), 150.0),
        Figure::lower("warm JAR call over the JAR's own time, p99", "us", micros(percentile(&over, 99)), 1000.0),
        Figure::lower("p99 of a call beside a JAR that hangs, over p99 alone", "x", beside / alone, 2.0)
            .beside("alone, us", alone)
            .beside("beside it, us", beside),
        Figure::lower("start of a host to its first answer", "ms", median(starts), 400.0),
        Figure::lower("resident size of an idle host", "MiB", idle, 64.0),
        Figure::lower("resident size after HTTPS calls", "MiB", after_https, 96.0),
        Figure::lower("64 identifiers at once, vault latency 100 ms", "ms", median(bursts), 250.0)
            .beside("the vault alone", millis(VAULT)),
    ])
}

/// p99 of a call alone, and while each call of a JAR next door hangs until its process is ended and started again; in us,
/// in turns.
async fn neighbour(hosts: &Hosts<'_>, resolver: &dyn Resolver, port: u16) -> anyhow::Result<(f64, f64)> {
    const TURNS: usize = 8;
    const EACH: usize = 2000;
    let hanging = hosts.resolver("hanging", "", port)?;
    call(&*hanging, "now").await?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let neighbour = (turn % 2 == 1).then(|| {
            let hanging = Arc::clone(&hanging);
            tokio::spawn(async move {
                loop {
                    let lookup = Lookup { credential_id: "sleep:60000".to_owned(), address: None, fresh: false };
                    // It fails each time: that is what it is for.
                    let _ = hanging.resolve(&lookup, HANGS).await;
                }
            })
        });
        let took = if neighbour.is_some() { &mut beside } else { &mut alone };
        for _ in 0..EACH {
            took.push(call(resolver, "now").await?.0);
        }
        if let Some(neighbour) = neighbour {
            neighbour.abort();
        }
    }
    hanging.shut_down().await;
    alone.sort_unstable();
    beside.sort_unstable();
    Ok((micros(percentile(&alone, 99)), micros(percentile(&beside, 99))))
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

struct Hosts<'a> {
    programs: &'a Programs,
    jar: PathBuf,
    folder: tempfile::TempDir,
}

impl Hosts<'_> {
    fn resolver(&self, name: &str, more: &str, port: u16) -> anyhow::Result<Arc<dyn Resolver>> {
        let jar = self.jar.display();
        let config = toml::from_str(&format!(
            "kind = 'jar'\njar = '{jar}'\nclass = 'bench.BenchResolver'\nconnect = ['127.0.0.1:{port}']\n\
             parameters = {{ 'ext.cred.url' = 'https://127.0.0.1:{port}/' }}\n{more}"
        ))?;
        let context = ResolverContext {
            mid_name: "bench".to_owned(),
            jar_host_dir: self.programs.jars.clone(),
            state_dir: self.folder.path().to_owned(),
            trampoline: vec![std::env::current_exe()?.into(), TRAMPOLINE.into()],
            java: "/usr/bin/java".into(),
            vaults: midward_net::WayOut::plain_default()?,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        Ok(build(name, &config, &context))
    }
}

fn compile(programs: &Programs, repository: &Path) -> anyhow::Result<PathBuf> {
    let status = Command::new(repository.join("jar-host/build.sh"))
        .arg(&programs.jars)
        .arg("jar")
        .arg(repository.join("bench/java/resolver"))
        .arg("bench-resolver")
        .status()?;
    ensure!(status.success(), "the benchmark's resolver does not compile");
    Ok(programs.jars.join("bench-resolver.jar"))
}

/// How long one call took, and how much of that was the JAR's own.
async fn call(resolver: &dyn Resolver, id: &str) -> anyhow::Result<(Duration, Duration)> {
    let lookup = Lookup { credential_id: id.to_owned(), address: None, fresh: false };
    let started = SystemClock.boot();
    let resolution = resolver.resolve(&lookup, DEADLINE).await.map_err(|error| anyhow!("{error}"))?;
    let took = since(started);
    let own = resolution.material.field(MaterialField::ClientId).and_then(|value| value.expose_str());
    let own = own.and_then(|nanos| nanos.parse().ok()).context("the JAR told no time")?;
    Ok((took, Duration::from_nanos(own)))
}

async fn burst(resolver: &Arc<dyn Resolver>) -> anyhow::Result<Duration> {
    let id = format!("sleep:{}", VAULT.as_millis());
    let started = SystemClock.boot();
    let calls: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (resolver, id) = (Arc::clone(resolver), id.clone());
            tokio::spawn(async move { call(&*resolver, &id).await })
        })
        .collect();
    for call in calls {
        call.await??;
    }
    Ok(since(started))
}

/// Resident size of the one JVM that this process has now.
fn jvm_mib() -> anyhow::Result<f64> {
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // proc(5): the command in parentheses, the state, the parent.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((command, rest)) = stat.rsplit_once(')') else { continue };
        let mut rest = rest.split_whitespace();
        if command.ends_with("(java") && rest.next() != Some("Z") && rest.next() == Some(own.as_str()) {
            #[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^52 KiB")]
            return Ok(resident_kib(pid)? as f64 / 1024.0);
        }
    }
    Err(anyhow!("no JVM runs"))
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn since(started: BootTime) -> Duration {
    SystemClock.boot().saturating_since(started)
}
