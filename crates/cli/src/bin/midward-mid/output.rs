//! What the commands print.

use std::process::ExitCode;

use clap::ValueEnum;
use midward_core::Failure;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Prints a result: as JSON, or the lines that `text` makes of it.
pub(crate) fn print<T: Serialize>(result: &T, format: Format, text: impl FnOnce(&T) -> Vec<String>) {
    let lines = match format {
        Format::Json => vec![serde_json::to_string(result).unwrap_or_default()],
        Format::Text => text(result),
    };
    for line in lines {
        #[expect(clippy::print_stdout, reason = "the command's result")]
        {
            println!("{line}");
        }
    }
}

/// Prints a failure as one line to standard error and tells the exit code.
pub(crate) fn report(failure: &Failure, format: Format) -> ExitCode {
    let line = match format {
        Format::Json => serde_json::to_string(failure).unwrap_or_default(),
        Format::Text => format!("midward-mid: {}", failure.to_string().replace('\n', " ")),
    };
    #[expect(clippy::print_stderr, reason = "the command's failure")]
    {
        eprintln!("{line}");
    }
    ExitCode::from(match failure.code.as_str() {
        "mid_not_running" => 3,
        "not_enrolled" => 4,
        code if code.starts_with("config_") || code == "secret_in_config" || code == "policy_invalid" => 5,
        _ => 1,
    })
}
