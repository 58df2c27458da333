//! `midward audit`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use midward_core::{Failure, Hop};
use midward_instance::{AuditLine, verify_audit};
use midward_wire::AuditCheckpoint;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::exit::CliError;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Prints the audit as JSON lines: keys, blocks, checkpoints
    Export {
        /// One line per entry, for other programs to read; it cannot be verified
        #[arg(long)]
        flat: bool,
    },
    /// Checks that nothing was changed, removed or written anew
    Verify {
        /// An export, in place of what the instance says now
        #[arg(long)]
        file: Option<PathBuf>,
        /// audit.jsonl of a MID Server, which keeps the instance's checkpoints
        #[arg(long)]
        mirror: Vec<PathBuf>,
    },
}

/// `client` is asked for only where there is something to ask.
pub(crate) async fn run(
    client: impl Fn() -> Result<Client, CliError>,
    command: AuditCommand,
    as_json: bool,
) -> Result<(), CliError> {
    match command {
        AuditCommand::Export { flat } => {
            for line in fetch(&client()?).await? {
                if flat { say_entries(&line)? } else { output::say(&text(&line)?) }
            }
            Ok(())
        }
        AuditCommand::Verify { file, mirror } => {
            let lines = match file {
                Some(file) => read(&file)?,
                None => fetch(&client()?).await?,
            };
            let mut mirrored = Vec::new();
            for file in mirror {
                mirrored.extend(kept(&file)?);
            }
            let report = verify_audit(&lines, &mirrored).map_err(|fault| {
                let action =
                    "Keep the export and the MID Servers' audit files, and find out who could write to the database.";
                Failure::permanent(Hop::Instance, "audit_not_whole", fault.to_string(), action)
            })?;
            if as_json {
                output::json(&serde_json::to_value(&report).unwrap_or_default());
            } else {
                output::say(&format!(
                    "the audit is whole: {} entries in {} blocks of {} chains, {} checkpoints, {} of them seen by MID \
                     Servers; {} blocks are not signed yet",
                    report.entries, report.blocks, report.chains, report.checkpoints, report.mirrored, report.unsigned
                ));
                if report.outlived > 0 {
                    output::say(&format!(
                        "{} checkpoints of MID Servers are older than all that is left of their chains",
                        report.outlived
                    ));
                }
                if report.shortened > 0 {
                    output::say(&format!(
                        "{} chains begin behind a signed checkpoint: what was before is gone, as after audit.keep_days",
                        report.shortened
                    ));
                }
            }
            Ok(())
        }
    }
}

async fn fetch(client: &Client) -> Result<Vec<AuditLine>, CliError> {
    let mut lines = Vec::new();
    // Checkpoints first: blocks that come meanwhile may be unsigned, but no signed block is missing.
    for path in ["keys", "checkpoints", "blocks"] {
        let path = format!("/api/v1/audit/{path}");
        let mut page = client.api(Method::GET, &path, None).await?;
        loop {
            let items = page.get_mut("items").map(Value::take).unwrap_or_default();
            lines.extend(serde_json::from_value::<Vec<AuditLine>>(items).map_err(|error| {
                let detail = format!("the audit is not one that this version understands: {error}");
                Failure::permanent(Hop::Instance, "not_midward", detail, "Use the instance's own version of `midward`.")
            })?);
            let Some(next) = page.get("next").and_then(Value::as_str) else { break };
            page = client.api(Method::GET, &format!("{path}?limit=500&after={next}"), None).await?;
        }
    }
    Ok(lines)
}

fn text(line: &AuditLine) -> Result<String, CliError> {
    serde_json::to_string(line).map_err(|error| CliError::usage(error.to_string(), "Report it."))
}

fn say_entries(line: &AuditLine) -> Result<(), CliError> {
    let AuditLine::Block { chain, seq, at, entries, .. } = line else { return Ok(()) };
    let entries: Vec<serde_json::Map<String, Value>> = serde_json::from_str(entries).map_err(|_| {
        let detail = format!("block {seq} of chain {chain} holds no entries");
        Failure::permanent(Hop::Instance, "audit_not_whole", detail, "Check it: `midward audit verify`.")
    })?;
    for mut entry in entries {
        entry.insert("at".to_owned(), (*at).into());
        entry.insert("chain".to_owned(), chain.as_str().into());
        entry.insert("block".to_owned(), (*seq).into());
        output::say(&Value::Object(entry).to_string());
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<AuditLine>, CliError> {
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let detail = format!("{}, line {}: {error}", file.display(), number + 1);
            CliError::usage(detail, "Give what `midward audit export` printed, without --flat.")
        })
    };
    content(file)?.lines().enumerate().map(parse).collect()
}

/// Checkpoints in a MID Server's audit.
fn kept(file: &Path) -> Result<Vec<AuditCheckpoint>, CliError> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        checkpoint: Option<AuditCheckpoint>,
    }
    let text = content(file)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let lines = lines.filter(|line| line.kind == "instance_checkpoint");
    let kept: Vec<AuditCheckpoint> = lines.filter_map(|line| line.checkpoint).collect();
    if kept.is_empty() {
        // Nothing would be compared, and that would look like a check.
        let detail = format!("{} holds no checkpoint of an instance", file.display());
        return Err(CliError::usage(detail, "Give audit.jsonl of a MID Server's state folder."));
    }
    Ok(kept)
}

fn content(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file)
        .map_err(|error| CliError::usage(format!("{} cannot be read: {error}", file.display()), "Check the path."))
}
