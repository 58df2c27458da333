//! `resolve --watch`: asks the running MID Server again and again, and tells what changed. Never a value.

use std::path::Path;
use std::time::Duration;

use midward_core::{Clock as _, Failure, SystemClock};
use midward_mid::admin::{AdminReply, AdminRequest, ResolveReport, ask};
use serde::Serialize;

use crate::commands::unexpected;
use crate::output::{Format, print};

/// One line: what is true from now on.
#[derive(Serialize)]
struct Change<'a> {
    /// Since the command began.
    elapsed_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a ResolveReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
}

/// What a change is seen by.
#[derive(PartialEq, Eq)]
enum Seen {
    /// Its resolver, its fingerprint, and whether the vault is changing it.
    Secret(String, String, bool),
    /// Its code: the rest holds times and counts.
    Failure(String),
}

/// Until Ctrl-C. That no MID Server answers is a failure as any other: one that is started again is seen.
pub(crate) async fn watch(
    socket: &Path,
    request: &AdminRequest,
    interval: Duration,
    format: Format,
) -> Result<(), Failure> {
    let began = SystemClock.boot();
    let mut seen = None;
    let mut ticks = tokio::time::interval(interval);
    // After a slow answer the next question waits its whole time.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let answer = async {
            ticks.tick().await;
            match ask(socket, request).await {
                Ok(AdminReply::Resolved(report)) => Ok(report),
                Ok(AdminReply::Failed { failure }) | Err(failure) => Err(failure),
                Ok(_) => Err(unexpected()),
            }
        };
        let answer = tokio::select! {
            _ = &mut interrupted => return Ok(()),
            answer = answer => answer,
        };
        let now = Some(Seen::of(&answer));
        if now != seen {
            seen = now;
            let elapsed = SystemClock.boot().saturating_since(began);
            let change = Change {
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                secret: answer.as_ref().ok(),
                failure: answer.as_ref().err(),
            };
            print(&change, format, |_| vec![line(elapsed, &answer)]);
        }
    }
}

impl Seen {
    fn of(answer: &Result<ResolveReport, Failure>) -> Self {
        match answer {
            Ok(report) => Self::Secret(report.resolver.clone(), report.fingerprint.clone(), report.changing),
            Err(failure) => Self::Failure(failure.code.clone()),
        }
    }
}

fn line(elapsed: Duration, answer: &Result<ResolveReport, Failure>) -> String {
    let text = match answer {
        Ok(report) => {
            let fields = report.fields.iter().map(|field| format!("{} {} bytes", field.field, field.length));
            let fields = fields.collect::<Vec<_>>().join(", ");
            let changing = if report.changing { "; the vault is changing it right now" } else { "" };
            format!("{} returned fingerprint {}: {fields}{changing}", report.resolver, report.fingerprint)
        }
        Err(failure) => failure.to_string().replace('\n', " "),
    };
    format!("{:>6} s  {text}", elapsed.as_secs())
}
