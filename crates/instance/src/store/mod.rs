//! SQL, written once in a portable subset, one file per aggregate. What differs between databases is in [`dialect`].

pub(crate) mod api_keys;
pub(crate) mod connections;
pub(crate) mod credentials;
pub(crate) mod dialect;
pub(crate) mod mids;
pub(crate) mod oauth;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod settings;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, SqlSafeStr as _, Transaction};

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing was written; trying again may help.
    #[error("the database failed: {0}")]
    Database(Arc<sqlx::Error>),
    #[error("the database's schema could not be brought up to date: {0}")]
    Schema(Arc<sqlx::migrate::MigrateError>),
    /// A row that this program did not write.
    #[error("the database holds a value that is not understood: {0}")]
    Corrupt(String),
    #[error("the writer of the database has stopped")]
    Stopped,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// The database: one writer, several readers.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    writer: AnyPool,
    readers: AnyPool,
}

impl Store {
    /// Opens or creates the database file and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        // It holds what APIs answered. SQLite gives its other files the mode of this one.
        let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        made.map_err(|error| StoreError::Database(Arc::new(sqlx::Error::Io(error))))?;
        let url = dialect::url(path);
        let writer = pool(&url, 1).await?;
        let migration = |version, name: &'static str, sql: &'static str| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        Migrator::with_migrations(vec![
            migration(1, "first", include_str!("../../migrations/0001_first.sql")),
            migration(2, "client assertions", include_str!("../../migrations/0002_client_assertions.sql")),
            migration(4, "grants", include_str!("../../migrations/0004_grants.sql")),
        ])
        .run(&writer)
        .await
        .map_err(|error| StoreError::Schema(Arc::new(error)))?;
        let readers = pool(&url, 4).await?;
        Ok(Self { writer, readers })
    }

    /// Begins a writing transaction; waits for the one writer. Dropped without commit: nothing happened.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.writer.begin().await?)
    }

    /// For statements that only read.
    pub(crate) fn readers(&self) -> &AnyPool {
        &self.readers
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

async fn pool(url: &str, connections: u32) -> Result<AnyPool, StoreError> {
    Ok(AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| {
            Box::pin(async move {
                for &pragma in dialect::ON_CONNECT {
                    sqlx::query(pragma).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect(url)
        .await?)
}

/// JSON in a text column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}
