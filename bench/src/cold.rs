//! The first token through the JAR, beside the sum of its hops measured alone: the JAR's own answer in a plain JVM (with
//! the AIM client that it starts), the token request, and the call with a warm token.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use midward_core::{BootTime, Clock, SystemClock};
use midward_demo::stack::{APP_ID, OBJECT, Programs, SAFE};

use crate::dispatch::{median, millis};
use crate::jar_alone::JarAlone;
use crate::load::closed_loop;
use crate::report::Figure;
use crate::stack::Bench;

const ROUNDS: usize = 15;

pub(crate) async fn measure(programs: &Programs, repository: &Path) -> anyhow::Result<Vec<Figure>> {
    let bench = Bench::start(programs).await?;
    let through = bench.through()?;
    // The JVM is warm; what is cold is the token.
    closed_loop(&through, 1, Duration::from_millis(500)).await?;
    let mut resolver = JarAlone::start(&bench, programs, &repository.join("bench/java/JarAlone.java"))?;
    let (mut cold, mut alone, mut jar, mut client, mut warm) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // As many answers as the other JVM gave: a JVM gets faster with each.
    for _ in 0..ROUNDS {
        ask(&bench, "--flush").await?;
        closed_loop(&through, 1, Duration::from_nanos(1)).await?;
        resolver.resolve()?;
    }
    for _ in 0..ROUNDS {
        client.push(millis(aim_client_alone(&bench, programs)?));
        let resolved = resolver.resolve()?;
        jar.push(millis(resolved));
        let token = token_request_alone(&bench).await?;
        // One call after a command, as the cold one: a call in a row of calls finds everything awake.
        ask(&bench, "--explain").await?;
        let warm_call = closed_loop(&through, 1, Duration::from_nanos(1)).await?.percentile(50);
        warm.push(millis(warm_call));
        alone.push(millis(resolved + token + warm_call));
        ask(&bench, "--flush").await?;
        let before = bench.server.request_count();
        cold.push(millis(closed_loop(&through, 1, Duration::from_nanos(1)).await?.percentile(50)));
        ensure!(bench.server.request_count() == before + 1, "a cold call asked for no token");
    }
    let (cold, alone) = (median(cold), median(alone));
    Ok(vec![
        Figure::lower("cold call over the sum of its hops alone", "ratio", cold / alone, 1.2),
        Figure::lower("cold call, JAR and token request", "ms", cold, alone * 1.2)
            .beside("hops alone", alone)
            .beside("JAR alone", median(jar))
            .beside("call with a warm token", median(warm))
            .beside("AIM client alone, started from Rust", median(client)),
    ])
}

/// The AIM client's command line, started as the JAR starts it.
fn aim_client_alone(bench: &Bench, programs: &Programs) -> anyhow::Result<Duration> {
    let started = SystemClock.boot();
    let output = Command::new(&programs.clipasswordsdk)
        .args(["GetPassword", "-p", &format!("AppDescs.AppID={APP_ID}")])
        .args(["-p", &format!("Query=Safe={SAFE};Folder=root;Object={OBJECT}")])
        .args(["-p", &format!("ConnectionParms.Port={}", bench.stack.vault.port())])
        .args(["-o", "PassProps.UserName,Password", "-d", "|"])
        .output()?;
    ensure!(output.status.success(), "the AIM client failed");
    Ok(since(started))
}

/// The token request on a connection of its own, as the MID sends it.
async fn token_request_alone(bench: &Bench) -> anyhow::Result<Duration> {
    let started = SystemClock.boot();
    let status = bench.token_request_alone().await.context("token request")?;
    ensure!(status == 200, "the token endpoint answered {status}");
    Ok(since(started))
}

/// Has the running MID say something of all its tokens (`--explain`), or drop them (`--flush`).
async fn ask(bench: &Bench, what: &str) -> anyhow::Result<()> {
    let config = bench.stack.path("mid.toml");
    let output = bench.stack.mid_command(&["token", "--all", what, "--config", &config]).await?;
    ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn since(started: BootTime) -> Duration {
    SystemClock.boot().saturating_since(started)
}
