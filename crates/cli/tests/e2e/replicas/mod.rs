//! Two instances on one PostgreSQL behind a TCP balancer, a MID Server that changes between them, and callers that never
//! rest, while instances, MID Server and PostgreSQL are killed at random: nothing that was accepted is lost, nothing
//! ends twice, and nothing that may not be repeated is executed twice. What is called is queued or synchronous, and may
//! be repeated (GET) or not (POST).

mod check;
mod load;
mod pair;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use midward_core::{Clock as _, Random as _, SeededRandom, SystemClock};
use tokio::task::JoinSet;

use self::load::{CALLERS, Load};
use self::pair::Pair;
use crate::recovery::{Recovery, report};

/// Kills, unless `MIDWARD_KILLS` says how many.
const KILLS: usize = 40;
/// Requests that have to end after each kill, before the next one.
const PROGRESS: usize = 5;
/// Each how many kills it is measured how soon the rate is back: that takes its time, and is a figure, not a fault.
const MEASURED: usize = 20;
/// As that, in `make soak`, where `MIDWARD_RECOVERY_MS` says how long it may take.
const MEASURED_IN_SOAK: usize = 10;
/// How long all that is waited for may take.
const RECOVERY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_killed_at_random_lose_nothing_and_do_nothing_twice() -> anyhow::Result<()> {
    let kills = number("MIDWARD_KILLS")?.map_or(Ok(KILLS), usize::try_from)?;
    let seed = number("MIDWARD_SEED")?.unwrap_or(1);
    let random = SeededRandom::new(seed);
    let mut pair = Pair::start().await?;
    let load = Arc::new(Load::new(&pair)?);
    let mut callers = JoinSet::new();
    for (caller, kind) in CALLERS.into_iter().enumerate() {
        callers.spawn(Arc::clone(&load).run(caller, kind));
    }
    load.progress(PROGRESS, &mut callers).await?;
    let limit = number("MIDWARD_RECOVERY_MS")?.map(Duration::from_millis);
    let every = if limit.is_some() { MEASURED_IN_SOAK } else { MEASURED };
    let mut recoveries = Vec::new();
    for number in 0..kills {
        let mut draw = [0; 1];
        random.fill(&mut draw);
        let victim = draw[0] % 10;
        let context = || format!("kill {number} of seed {seed}: {victim}");
        let measured = number % every == every - 1;
        let calm = if measured { load.rate().await } else { 0.0 };
        let since = SystemClock.boot();
        match victim {
            0..=2 => pair.kill_instance(0).await,
            3..=5 => pair.kill_instance(1).await,
            6 | 7 => pair.kill_mid().await,
            _ => pair.kill_postgres().await,
        }
        .with_context(context)?;
        load.progress(PROGRESS, &mut callers).await.with_context(context)?;
        if measured {
            let what =
                ["an instance", "the MID Server", "PostgreSQL"][usize::from(victim > 5) + usize::from(victim > 7)];
            recoveries.push(Recovery::of(what, calm, &load.recovery(calm, since, limit).await));
        }
    }
    report(&mut recoveries, limit)?;
    load.stop.store(true, Ordering::SeqCst);
    let mut done = Vec::new();
    while let Some(ended) = callers.join_next().await {
        done.extend(ended??);
    }
    check::all(&pair, &load, &done, kills).await
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    std::env::var(variable).ok().map(|text| text.parse().context("a number")).transpose()
}
