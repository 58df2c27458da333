//! `midward`: the instance, and the commands that speak to one.

mod api_clients;
mod audit;
mod backup;
mod client;
mod commands;
mod exit;
mod import;
mod instance;
mod jars;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use client::{Client, ClientSettings};
use exit::{CliError, EXIT_CODES};

#[derive(Debug, Parser)]
#[command(name = "midward", version, about = "Calls APIs behind firewalls with secrets that stay in the vault", after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    client: ClientSettings,
    /// How to print
    #[arg(long, global = true, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs an instance
    Instance(instance::InstanceArgs),
    /// Copies the data of an instance on SQLite, which may run, into a new folder
    Backup {
        #[command(flatten)]
        data: backup::DataArgs,
        /// The new folder
        to: PathBuf,
    },
    /// Puts a backup where an instance will look for its data
    Restore {
        #[command(flatten)]
        data: backup::DataArgs,
        /// The folder of the backup
        from: PathBuf,
    },
    /// Applies a document of connections, credentials and OAuth entities
    Apply {
        /// YAML or JSON; `-` for stdin
        #[arg(short = 'f', long)]
        file: PathBuf,
        /// Only prints what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Prints records
    Get { kind: commands::Kind, name: Option<String> },
    /// Ends a queued request that no MID has or may have sent
    Cancel { id: String },
    /// Queues a dead letter again with all its attempts
    Redrive { id: String },
    /// Calls an API through a connection
    Call(commands::CallArgs),
    /// MID Servers
    #[command(subcommand)]
    Mid(commands::MidCommand),
    /// Keys for this API
    #[command(subcommand)]
    ApiKey(api_clients::ClientCommand),
    /// Clients of this API that ask its token endpoint for tokens (OAuth 2.0)
    #[command(subcommand)]
    OauthClient(api_clients::ClientCommand),
    /// The instance's audit
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Turns a MID Server's config.xml into a part of mid.toml; no password is copied
    Import(import::ImportArgs),
    /// Finds the first problem
    Doctor,
    /// Prints a completion script
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let as_json = cli.output == Output::Json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return CliError::usage(format!("no runtime: {error}"), "Check the limits of this user.").exit(as_json);
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.exit(as_json),
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let as_json = cli.output == Output::Json;
    let client = || Client::new(&cli.client);
    match cli.command {
        Command::Instance(args) => instance::run(args).await,
        Command::Backup { data, to } => backup::back_up(data, to).await,
        Command::Restore { data, from } => backup::restore(data, from),
        Command::Apply { file, dry_run } => commands::apply(&client()?, &file, dry_run, as_json).await,
        Command::Get { kind, name } => commands::get(&client()?, kind, name.as_deref(), as_json).await,
        Command::Cancel { id } => commands::cancel(&client()?, &id, as_json).await,
        Command::Redrive { id } => commands::redrive(&client()?, &id, as_json).await,
        Command::Call(args) => commands::call(&client()?, args, as_json).await,
        Command::Mid(command) => commands::mid(&client()?, command, as_json).await,
        Command::ApiKey(command) => api_clients::run(&client()?, api_clients::API_KEYS, command, as_json).await,
        Command::OauthClient(command) => {
            api_clients::run(&client()?, api_clients::OAUTH_CLIENTS, command, as_json).await
        }
        Command::Audit(command) => audit::run(client, command, as_json).await,
        Command::Import(args) => import::import(&args, as_json),
        Command::Doctor => commands::doctor(&client()?, as_json).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "midward", &mut script);
            output::raw(&script);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        super::Cli::command().debug_assert();
    }
}
