//! `doctor`: what can be checked without a running MID Server, and whether one runs.

use std::path::Path;

use midward_core::{Failure, Hop};
use midward_mid::admin::{AdminReply, AdminRequest, ask};
use midward_mid::{MidConfig, StateDir, check_policy, instance_way};
use serde::Serialize;

use crate::output::{Format, print};

#[derive(Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    detail: String,
}

/// Prints every check; fails when one failed.
pub(crate) async fn doctor(path: &Path, format: Format) -> Result<(), Failure> {
    let config = MidConfig::load(path)?;
    let mut checks = vec![check("configuration", Ok(path.display().to_string()))];
    checks.push(check("policy", check_policy(&config).map(|()| config.policy.file.display().to_string())));
    checks.push(check("enrollment", enrollment(&config)));
    checks.push(check("way to the instance", instance_way(&config, None).map(|_| "usable".to_owned())));
    checks.push(check("MID Server", running(&config).await));
    let failed = checks.iter().filter(|check| !check.ok).count();
    print(&checks, format, |checks| {
        let line =
            |check: &Check| format!("{:<4} {}: {}", if check.ok { "ok" } else { "FAIL" }, check.what, check.detail);
        checks.iter().map(line).collect()
    });
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::permanent(Hop::Mid, "doctor_found", format!("{failed} checks failed"), "Mend them one by one."))
}

fn check(what: &'static str, result: Result<String, Failure>) -> Check {
    match result {
        Ok(detail) => Check { what, ok: true, detail },
        Err(failure) => Check { what, ok: false, detail: failure.to_string() },
    }
}

fn enrollment(config: &MidConfig) -> Result<String, Failure> {
    let state = StateDir::open(&config.mid.state_dir)?;
    let enrollment = state.enrollment()?.ok_or_else(midward_mid::not_enrolled)?;
    enrollment.pinned_key()?;
    state.key()?;
    Ok(format!("{} at {}", enrollment.name, enrollment.instance_url))
}

async fn running(config: &MidConfig) -> Result<String, Failure> {
    match ask(&config.admin_socket(), &AdminRequest::Status).await? {
        AdminReply::Status(status) => Ok(format!("runs, link {}", status.link)),
        AdminReply::Failed { failure } => Err(failure),
        _ => Ok("runs".to_owned()),
    }
}
