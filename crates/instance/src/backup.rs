//! A copy of an instance on its embedded database, taken while it runs, and the way back.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::config::StoreConfig;
use crate::keys::{KeyError, read_private, write_private};
use crate::store;

/// Files besides the database that make an instance the one that it is, and its CA the one that MIDs trust; where
/// several instances share them, they may be in a folder of their own (`store.keys`). The CA is not always there.
const KEYS: [&str; 2] = ["instance.key", "ca.key"];
const CA: &str = "ca.pem";
/// In the data folder until it is used.
const FIRST_ADMIN: &str = "first-admin-key";

/// Why there is no backup, or no way back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the instance is on PostgreSQL: back that database up with pg_dump, and the data folder's keys as files")]
    OnPostgres,
    #[error("{0} is there already")]
    Exists(PathBuf),
    #[error("{0} holds no instance on SQLite")]
    Nothing(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the database could not be copied: {0}")]
    Database(String),
}

/// Copies database and keys into the new folder `to`. The database is the state of one moment, whoever writes meanwhile.
///
/// # Errors
/// The folder is there, the store is PostgreSQL, or something cannot be read or written. What was written until then
/// stays.
pub async fn back_up(config: &StoreConfig, to: &Path) -> Result<(), BackupError> {
    if config.postgres.is_some() {
        return Err(BackupError::OnPostgres);
    }
    let database = config.path.join(store::SQLITE_FILE);
    if !database.exists() {
        return Err(BackupError::Nothing(config.path.clone()));
    }
    make_new(to)?;
    let copy = to.join(store::SQLITE_FILE);
    // It is made with this mode before anything is in it.
    write_private(&copy, b"")?;
    store::copy_sqlite(&database, &copy).await.map_err(|error| BackupError::Database(error.to_string()))?;
    copy_private(&config.path, to, FIRST_ADMIN)?;
    copy_keys(config.keys(), to)
}

/// Puts a backup where an instance will look for its data. Nothing may be there yet.
///
/// # Errors
/// There is an instance already, or something cannot be read or written.
pub fn restore(from: &Path, config: &StoreConfig) -> Result<(), BackupError> {
    if config.postgres.is_some() {
        return Err(BackupError::OnPostgres);
    }
    let copy = from.join(store::SQLITE_FILE);
    let content = read_private(&copy)?.ok_or_else(|| BackupError::Nothing(from.to_owned()))?;
    make_new(&config.path)?;
    copy_private(from, &config.path, FIRST_ADMIN)?;
    make_folder(config.keys())?;
    copy_keys(from, config.keys())?;
    // Last: without it there is no instance.
    Ok(write_private(&config.path.join(store::SQLITE_FILE), content.expose())?)
}

/// What is there already stays: another instance of the same data may have brought it.
fn copy_keys(from: &Path, to: &Path) -> Result<(), BackupError> {
    for name in KEYS {
        copy_private(from, to, name)?;
    }
    let (path, copy) = (from.join(CA), to.join(CA));
    if path.exists() && !copy.exists() {
        std::fs::copy(&path, copy).map_err(|source| BackupError::Io { path, source })?;
    }
    Ok(())
}

fn copy_private(from: &Path, to: &Path, name: &str) -> Result<(), BackupError> {
    let copy = to.join(name);
    if let Some(content) = read_private(&from.join(name))?
        && !copy.exists()
    {
        write_private(&copy, content.expose())?;
    }
    Ok(())
}

/// A folder of its owner's only, which was not there or is empty.
fn make_new(folder: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { path: folder.to_owned(), source };
    make_folder(folder)?;
    if std::fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Err(BackupError::Exists(folder.to_owned()));
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io { path: folder.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)
}
