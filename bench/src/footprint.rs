//! What the MID Server costs its host.

use std::time::Duration;

use anyhow::Context as _;
use midward_core::{Clock, SystemClock};
use midward_demo::process::wait_for;
use midward_demo::stack::Programs;

use crate::dispatch::{median, millis};
use crate::load::closed_loop;
use crate::report::Figure;
use crate::stack::Bench;
use crate::usage::resident_kib;

const STARTS: usize = 5;

pub(crate) async fn measure(programs: &Programs) -> anyhow::Result<Vec<Figure>> {
    let mut bench = Bench::start(programs).await?;
    let through = bench.through()?;
    closed_loop(&through, 64, Duration::from_secs(3)).await?;
    let pid = bench.stack.mid.as_ref().and_then(midward_demo::process::Daemon::pid).context("no MID Server")?;
    #[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^52 KiB")]
    let resident = resident_kib(pid)? as f64 / 1024.0;

    let mut starts = Vec::new();
    for _ in 0..STARTS {
        if let Some(mid) = bench.stack.mid.take() {
            mid.stop(Duration::from_secs(30)).await?;
        }
        let request = bench.submit().await?;
        let started = SystemClock.boot();
        bench.stack.spawn_mid()?;
        wait_for("the first lease", Duration::from_secs(10), async || {
            Ok((bench.request_state(&request).await? != "queued").then_some(()))
        })
        .await?;
        starts.push(millis(SystemClock.boot().saturating_since(started)));
    }
    Ok(vec![
        Figure::lower("resident memory of the MID after load, without JVM", "MiB", resident, 20.0),
        Figure::lower("start to first lease", "ms", median(starts), 200.0),
    ])
}
