//! The command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::output::Format;

/// The MID Server: runs beside the vault, connects outward only.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the MID Server does not run, 4 not enrolled, 5 wrong configuration.
#[derive(Debug, Parser)]
#[command(name = "midward-mid", version)]
pub(crate) struct Arguments {
    /// How results are written.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, env = "MIDWARD_MID_OUTPUT")]
    pub(crate) output: Format,
    /// The configuration file.
    #[arg(long, global = true, default_value = "/etc/midward/mid.toml", env = "MIDWARD_MID_CONFIG")]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the MID Server until SIGTERM; SIGHUP reads the policy and the resolvers again.
    Run(RunArguments),
    /// Register with an instance, with a one-time token from `midward mid enroll-token`.
    Enroll(EnrollArguments),
    /// Try a resolver in the running MID Server; values are never shown.
    Resolve(ResolveArguments),
    /// Have the running MID Server read its policy and its resolvers again.
    Reload,
    /// Show or drop the cached tokens of a connection; tokens are never shown.
    Token(TokenArguments),
    /// Check the policy file, or explain a refusal.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print the token engine's figures as Prometheus text; no secret, no token.
    Metrics,
    /// Look at resolver JARs.
    #[command(subcommand)]
    Jar(JarCommand),
    /// Show the running MID Server.
    Status,
    /// Check configuration, files and enrollment.
    Doctor,
    /// Write a shell's completions.
    Completions { shell: clap_complete::Shell },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Most calls at a time; wins over the file.
    #[arg(long, env = "MIDWARD_MID_MAX_CONCURRENT")]
    pub(crate) max_concurrent: Option<u32>,
    /// The policy file; wins over the file.
    #[arg(long, env = "MIDWARD_MID_POLICY_FILE")]
    pub(crate) policy_file: Option<PathBuf>,
    /// The state folder; wins over the file.
    #[arg(long, env = "MIDWARD_MID_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArguments {
    /// File that holds the enrollment token; `-` reads stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Replace an earlier enrollment.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArguments {
    pub(crate) credential_id: String,
    /// Which resolver; absent: the only one, or the one named `default`.
    #[arg(long)]
    pub(crate) resolver: Option<String>,
    /// Host of the connection, for look-ups by address.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// Ask again and again, until Ctrl-C, and print a line whenever the secret's version or the failure changes.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Seconds between two questions.
    #[arg(long, value_name = "SECONDS", requires = "watch", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// Alias of the connection.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) connection: Option<String>,
    /// All connections.
    #[arg(long)]
    pub(crate) all: bool,
    /// Tell why there is a token or not, what to do about a failure, and how long each hop of the last fetch took (the
    /// default).
    #[arg(long)]
    pub(crate) explain: bool,
    /// Drop the tokens, and revoke them where there is an endpoint for it: the next call gets a new one, with a secret
    /// that is read anew.
    #[arg(long, conflicts_with = "explain")]
    pub(crate) flush: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Read the policy file as `run` would.
    Check,
    /// Tell why a call was refused, and the line that would allow it.
    Explain { reference: String },
    /// Print only the rule that would have allowed the refused call.
    Suggest { reference: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JarCommand {
    /// Print the digest of a JAR and its libraries together, for a resolver's `sha256`.
    Hash {
        jar: PathBuf,
        /// Folder of its libraries; `lib/` beside the JAR, if there is one, when absent.
        #[arg(long, value_name = "FOLDER")]
        lib_dir: Option<PathBuf>,
    },
}

/// Writes completions to standard output.
pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Arguments::command(), "midward-mid", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_enrollment_token_is_not_an_argument() {
        assert!(Arguments::try_parse_from(["midward-mid", "enroll", "abc"]).is_err());
    }
}
