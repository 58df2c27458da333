//! What a process used, from `/proc` (proc(5)).

use std::time::Duration;

use anyhow::Context as _;

/// CPU time of a process, user and system, all its threads.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces; fields are counted behind its closing parenthesis: state is field 3.
    let fields = stat.rsplit_once(')').context("no command in stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let per_second = USER_HZ;
    Ok(Duration::from_secs(ticks / per_second)
        + Duration::from_nanos(ticks % per_second * (1_000_000_000 / per_second)))
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches("kB").trim().parse().context("VmRSS")
}

/// Ticks per second in `/proc`: `sysconf(_SC_CLK_TCK)`, which Linux fixes for user space.
const USER_HZ: u64 = 100;
