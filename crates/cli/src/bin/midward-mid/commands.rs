//! One function per command.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use midward_core::{Failure, Hop};
use midward_mid::admin::{AdminReply, AdminRequest, FlushedToken, TokenReport, ask};
use midward_mid::{AuditEntry, InstanceWay, MidConfig, StateDir, instance_way};
use serde_json::json;

use crate::args::{EnrollArguments, PolicyCommand, ResolveArguments, RunArguments, TokenArguments};
use crate::logging;
use crate::output::{Format, print};
use crate::watch;

/// Longest enrollment token, in bytes.
const MAX_ENROLL_TOKEN: u64 = 256 * 1024;

pub(crate) async fn run(path: &Path, arguments: &RunArguments) -> Result<(), Failure> {
    midward_mid::harden()?;
    let load = {
        let (path, arguments) = (path.to_owned(), arguments.clone());
        move || configuration(&path, &arguments)
    };
    let config = load()?;
    logging::start(config.log.format, config.log.filter.as_deref());
    let (mid, reload) = midward_mid::build_mid(&config, load).await?;
    // It logs what came of it.
    midward_mid::run(mid, move || drop(reload.reload())).await
}

/// The file, with the flags over it.
fn configuration(path: &Path, arguments: &RunArguments) -> Result<MidConfig, Failure> {
    let mut config = MidConfig::load(path)?;
    if let Some(max_concurrent) = arguments.max_concurrent {
        config.mid.max_concurrent = max_concurrent;
    }
    if let Some(file) = &arguments.policy_file {
        config.policy.file.clone_from(file);
    }
    if let Some(folder) = &arguments.state_dir {
        config.mid.state_dir.clone_from(folder);
    }
    config.log.format = arguments.log_format.unwrap_or(config.log.format);
    config.check()?;
    Ok(config)
}

pub(crate) async fn enroll(path: &Path, arguments: &EnrollArguments, format: Format) -> Result<(), Failure> {
    let config = MidConfig::load(path)?;
    let token = midward_mid::decode_token(&read_token(&arguments.token_file)?)?;
    let state = StateDir::open(&config.mid.state_dir)?;
    if state.enrollment()?.is_some() && !arguments.replace {
        return Err(failure(
            "already_enrolled",
            "this MID Server is enrolled already",
            "Give --replace to enroll it anew.",
        ));
    }
    let way = instance_way(&config, token.ca_pem.as_deref())?;
    let reply = midward_mid::enroll(&token, &config.mid.name, &state, &InstanceWay::new(way)).await?;
    print(&reply, format, |reply| {
        let next = match reply.state {
            midward_mid::MidState::Enrolled => format!(
                "Start it (midward-mid run); an administrator lets it in by: midward mid validate {}",
                reply.name
            ),
            _ => "It may start: midward-mid run".to_owned(),
        };
        vec![format!("{} is enrolled as {} ({}). {next}", reply.name, reply.mid_id, reply.state.name())]
    });
    Ok(())
}

pub(crate) async fn resolve(path: &Path, arguments: ResolveArguments, format: Format) -> Result<(), Failure> {
    let ResolveArguments { credential_id, resolver, address, watch, interval } = arguments;
    let request = AdminRequest::Resolve { credential_id, resolver, address };
    if watch {
        let socket = MidConfig::load(path)?.admin_socket();
        return watch::watch(&socket, &request, Duration::from_secs(interval), format).await;
    }
    let reply = ask_mid(path, &request).await?;
    let AdminReply::Resolved(report) = reply else { return Err(unexpected()) };
    print(&report, format, |report| {
        let mut lines = vec![format!("{} returned, with fingerprint {}:", report.resolver, report.fingerprint)];
        lines.extend(report.fields.iter().map(|field| format!("  {:<14} {} bytes", field.field, field.length)));
        if report.changing {
            lines.push("  the vault is changing this secret right now".to_owned());
        }
        lines.extend(report.trace.0.iter().map(|hop| format!("  {:>9} us  {}: {}", hop.micros, hop.hop, hop.what)));
        lines
    });
    Ok(())
}

pub(crate) async fn reload(path: &Path, format: Format) -> Result<(), Failure> {
    let reply = ask_mid(path, &AdminRequest::Reload).await?;
    let AdminReply::Reloaded { added, changed, removed, unchanged } = reply else { return Err(unexpected()) };
    let report = json!({ "added": added, "changed": changed, "removed": removed, "unchanged": unchanged });
    print(&report, format, |_| {
        let mut lines = vec!["policy and resolvers were read again".to_owned()];
        for (word, names) in [("added", added), ("changed", changed), ("removed", removed), ("unchanged", unchanged)] {
            lines.extend((!names.is_empty()).then(|| format!("  {word:<9} {}", names.join(", "))));
        }
        lines
    });
    Ok(())
}

pub(crate) async fn token(path: &Path, arguments: TokenArguments, format: Format) -> Result<(), Failure> {
    let connection = arguments.connection;
    if arguments.flush {
        let AdminReply::Flushed { count, tokens } = ask_mid(path, &AdminRequest::Flush { connection }).await? else {
            return Err(unexpected());
        };
        print(&json!({ "flushed": count, "tokens": tokens }), format, |_| {
            let head = format!("{count} tokens dropped");
            std::iter::once(head).chain(tokens.iter().flat_map(flushed_lines)).collect()
        });
        return Ok(());
    }
    let AdminReply::Tokens { tokens } = ask_mid(path, &AdminRequest::Tokens { connection }).await? else {
        return Err(unexpected());
    };
    print(&tokens, format, |tokens| {
        if tokens.is_empty() {
            return vec!["no token is cached".to_owned()];
        }
        tokens.iter().flat_map(token_lines).collect()
    });
    Ok(())
}

pub(crate) async fn policy(path: &Path, command: PolicyCommand, format: Format) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check => {
            let config = MidConfig::load(path)?;
            midward_mid::check_policy(&config)?;
            let file = config.policy.file.display().to_string();
            print(&json!({ "policy": file, "ok": true }), format, |_| vec![format!("{file} is in order")]);
        }
        PolicyCommand::Explain { reference } => {
            let refusal = refusal(path, reference).await?;
            print(&refusal, format, |refusal| match refusal {
                AuditEntry::Refusal { request_id, connection, code, explanation, .. } => {
                    let head = format!("request {request_id} for connection {connection} was refused ({code}):");
                    std::iter::once(head).chain(explanation.lines().map(str::to_owned)).collect()
                }
                AuditEntry::Call { .. } | AuditEntry::LeaseRefused { .. } | AuditEntry::InstanceCheckpoint { .. } => {
                    Vec::new()
                }
            });
        }
        PolicyCommand::Suggest { reference } => {
            if let AuditEntry::Refusal { suggestion, .. } = refusal(path, reference).await? {
                print(&json!({ "suggestion": suggestion }), format, |_| vec![suggestion.clone()]);
            }
        }
    }
    Ok(())
}

pub(crate) async fn status(path: &Path, format: Format) -> Result<(), Failure> {
    let AdminReply::Status(status) = ask_mid(path, &AdminRequest::Status).await? else { return Err(unexpected()) };
    print(&status, format, |status| {
        let draining = if status.draining { ", draining" } else { "" };
        let mut lines = vec![
            format!("{} ({}), version {}{draining}", status.name, status.mid_id, status.program_version),
            format!("instance  {}: {}", status.instance_url, status.link),
            format!("calls     {} of {} running", status.running, status.capacity),
        ];
        lines.extend(status.resolvers.iter().map(|resolver| {
            let reason = resolver.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            format!("resolver  {} ({}) {:?}{reason}", resolver.name, resolver.kind, resolver.health)
        }));
        lines
    });
    Ok(())
}

pub(crate) async fn metrics(path: &Path, format: Format) -> Result<(), Failure> {
    let AdminReply::Metrics { text } = ask_mid(path, &AdminRequest::Metrics).await? else { return Err(unexpected()) };
    print(&json!({ "metrics": text }), format, |_| text.lines().map(str::to_owned).collect());
    Ok(())
}

async fn refusal(path: &Path, reference: String) -> Result<AuditEntry, Failure> {
    match ask_mid(path, &AdminRequest::PolicyExplain { reference }).await? {
        AdminReply::Refusal { refusal } => Ok(refusal),
        _ => Err(unexpected()),
    }
}

async fn ask_mid(path: &Path, request: &AdminRequest) -> Result<AdminReply, Failure> {
    let config = MidConfig::load(path)?;
    match ask(&config.admin_socket(), request).await? {
        AdminReply::Failed { failure } => Err(failure),
        reply => Ok(reply),
    }
}

fn token_lines(token: &TokenReport) -> Vec<String> {
    let scopes = if token.scopes.is_empty() { "none".to_owned() } else { token.scopes.join(" ") };
    let mut lines = vec![
        format!("{} by {} from {}", token.credential_id, token.resolver, token.token_url),
        format!("  used by  {}", token.connections.join(", ")),
        format!("  profile  {}", token.profile),
        format!("  grant    {}", token.grant),
        format!("  scopes   {scopes}"),
        format!("  state    {}: {}", token.state, token.explanation),
    ];
    if !token.granted_scopes.is_empty() && token.granted_scopes != token.scopes {
        lines.push(format!("  granted  {}", token.granted_scopes.join(" ")));
    }
    lines.extend(token.action.iter().map(|action| format!("  to do    {action}")));
    let millis = |micros: u64| format!("{}.{:03} ms", micros / 1000, micros % 1000);
    let steps = token.steps.0.iter();
    lines.extend(steps.map(|step| format!("  step     {}: {} ({})", step.hop, step.what, millis(step.micros))));
    lines
}

fn flushed_lines(token: &FlushedToken) -> [String; 2] {
    let scopes = if token.scopes.is_empty() { String::new() } else { format!(" for {}", token.scopes.join(" ")) };
    let users = if token.connections.is_empty() { "no connection".to_owned() } else { token.connections.join(", ") };
    [
        format!("{} from {}{scopes} (used by {users})", token.credential_id, token.token_url),
        format!("  {}", token.explanation),
    ]
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_ENROLL_TOKEN).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_ENROLL_TOKEN).read_to_string(&mut text))
    };
    read.map_err(|error| {
        failure(
            "enroll_token_not_read",
            format!("the enrollment token cannot be read from {}: {error}", path.display()),
            "Name a readable file, or `-` for stdin.",
        )
    })?;
    Ok(text)
}

pub(crate) fn unexpected() -> Failure {
    failure("admin_answer_unexpected", "the MID Server gave another answer", "Use programs of the same version.")
}

fn failure(code: &str, detail: impl Into<String>, action: &str) -> Failure {
    Failure::permanent(Hop::Mid, code, detail, action)
}
