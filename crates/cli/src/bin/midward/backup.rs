//! `midward backup` and `midward restore`: on the instance's own host, without asking it.

use std::path::PathBuf;

use midward_core::{Failure, Hop};
use midward_instance::{BackupError, InstanceConfig, StoreConfig};

use crate::exit::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// instance.toml
    #[arg(long, env = "MIDWARD_INSTANCE_CONFIG")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, env = "MIDWARD_DATA")]
    data: Option<PathBuf>,
}

pub(crate) async fn back_up(args: DataArgs, to: PathBuf) -> Result<(), CliError> {
    midward_instance::back_up(&store(args)?, &to).await.map_err(failed)?;
    output::say(&format!("backed up into {}: it holds the instance's keys, so keep it as safe as them", to.display()));
    Ok(())
}

pub(crate) fn restore(args: DataArgs, from: PathBuf) -> Result<(), CliError> {
    let store = store(args)?;
    midward_instance::restore(&from, &store).map_err(failed)?;
    output::say(&format!("restored into {}", store.path.display()));
    Ok(())
}

fn store(args: DataArgs) -> Result<StoreConfig, CliError> {
    let mut config = match &args.config {
        Some(file) => InstanceConfig::read(file)
            .map_err(|error| CliError::usage(error.to_string(), "Correct the configuration."))?,
        None => InstanceConfig::default(),
    };
    config.store.path = args.data.unwrap_or(config.store.path);
    Ok(config.store)
}

fn failed(error: BackupError) -> CliError {
    let action = match error {
        BackupError::OnPostgres => "Use pg_dump and pg_restore.",
        BackupError::Exists(_) => "Name a folder that is new or empty.",
        BackupError::Nothing(_) => "Check --data, or the folder of the backup.",
        BackupError::Io { .. } | BackupError::Key(_) | BackupError::Database(_) => {
            "Run it as the instance's user, and look at the disk."
        }
    };
    Failure::permanent(Hop::Instance, "backup_failed", error.to_string(), action).into()
}
