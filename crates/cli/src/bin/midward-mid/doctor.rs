//! `doctor`: what can be checked without a running MID Server, and whether one runs.

use std::path::Path;

use midward_core::{Failure, Hop};
use midward_mid::admin::{AdminReply, AdminRequest, StatusReport, ask};
use midward_mid::{MidConfig, MidState, StateDir, check_policy, instance_way};
use midward_resolvers::ResolverConfig;
use midward_wire::ResolverHealth;
use serde::Serialize;

use crate::output::{Format, print};

#[derive(Serialize)]
struct Check {
    what: String,
    ok: bool,
    detail: String,
    /// What to do; empty where nothing is wrong.
    action: String,
}

/// Prints every check; fails with the first one that failed, and with what to do about it.
pub(crate) async fn doctor(path: &Path, format: Format) -> Result<(), Failure> {
    let config = MidConfig::load(path)?;
    let mut checks = vec![check("configuration", Ok(path.display().to_string()))];
    checks.push(check("policy", check_policy(&config).map(|()| config.policy.file.display().to_string())));
    // Resolvers without a JAR are the running MID Server's to judge.
    let jars = config.resolvers.iter().filter_map(|(name, resolver)| Some((name, jar(&resolver.kind)?)));
    checks.extend(jars.map(|(name, file)| check(&format!("JAR of {name}"), readable(name, file))));
    checks.push(check("enrollment", enrollment(&config)));
    checks.push(check("way to the instance", instance_way(&config, None).map(|_| "usable".to_owned())));
    match ask(&config.admin_socket(), &AdminRequest::Status).await {
        Ok(AdminReply::Status(status)) => checks.extend(running(&status)),
        Ok(AdminReply::Failed { failure }) | Err(failure) => checks.push(check("MID Server", Err(failure))),
        Ok(_) => checks.push(check("MID Server", Ok("runs".to_owned()))),
    }
    print(&checks, format, |checks| {
        let line =
            |check: &Check| format!("{:<4} {}: {}", if check.ok { "ok" } else { "FAIL" }, check.what, check.detail);
        checks.iter().map(line).collect()
    });
    let failed = checks.iter().filter(|check| !check.ok).count();
    let Some(first) = checks.iter().find(|check| !check.ok) else { return Ok(()) };
    let detail = format!("{failed} of {} checks failed, first {}", checks.len(), first.what);
    Err(Failure::permanent(Hop::Mid, "doctor_found", detail, first.action.clone()))
}

fn check(what: &str, result: Result<String, Failure>) -> Check {
    let what = what.to_owned();
    match result {
        Ok(detail) => Check { what, ok: true, detail, action: String::new() },
        Err(failure) => {
            Check { what, ok: false, detail: format!("{} ({})", failure.detail, failure.code), action: failure.action }
        }
    }
}

fn jar(resolver: &ResolverConfig) -> Option<&Path> {
    match resolver {
        ResolverConfig::Jar(jar) => Some(&jar.process.jar),
        ResolverConfig::CyberArkSdk(sdk) => Some(&sdk.process.jar),
        _ => None,
    }
}

/// The MID Server reads the JAR itself; here is only looked whether it could be.
fn readable(name: &str, file: &Path) -> Result<String, Failure> {
    let shown = file.display().to_string();
    match std::fs::File::open(file) {
        Ok(_) => Ok(shown),
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { "jar_missing" } else { "jar_unreadable" };
            let action =
                format!("Put the JAR there, readable for the MID's user, or correct `jar` of [resolvers.{name}].");
            Err(Failure::permanent(Hop::Resolver, code, format!("{shown}: {error}"), action))
        }
    }
}

fn enrollment(config: &MidConfig) -> Result<String, Failure> {
    let state = StateDir::open(&config.mid.state_dir)?;
    let enrollment = state.enrollment()?.ok_or_else(midward_mid::not_enrolled)?;
    enrollment.pinned_key()?;
    state.key()?;
    Ok(format!("{} at {}", enrollment.name, enrollment.instance_url))
}

/// What a running MID Server says of itself: its link, and its resolvers.
fn running(status: &StatusReport) -> Vec<Check> {
    let mut checks =
        vec![Check { what: "MID Server".to_owned(), ok: true, detail: "runs".to_owned(), action: String::new() }];
    let ok = status.link == MidState::Validated.name();
    let action = if status.link == MidState::Enrolled.name() || status.link == MidState::Invalidated.name() {
        format!("On the instance's side run: midward mid validate {}", status.name)
    } else {
        "Check that the instance runs and that this host reaches its address; the log has more.".to_owned()
    };
    let action = if ok { String::new() } else { action };
    let detail = format!("{}: {}", status.instance_url, status.link);
    checks.push(Check { what: "link to the instance".to_owned(), ok, detail, action });
    for resolver in &status.resolvers {
        let ok = resolver.health == ResolverHealth::Ready;
        let action = format!("Try it: midward-mid resolve CREDENTIAL_ID --resolver {}", resolver.name);
        checks.push(Check {
            what: format!("resolver {}", resolver.name),
            ok,
            detail: resolver.reason.clone().unwrap_or_else(|| "ready".to_owned()),
            action: if ok { String::new() } else { action },
        });
    }
    checks
}
