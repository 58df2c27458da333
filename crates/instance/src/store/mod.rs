//! SQL, written once in a portable subset, one file per aggregate. What differs between databases is in [`dialect`].

pub(crate) mod api_clients;
pub(crate) mod audit;
pub(crate) mod clusters;
pub(crate) mod connections;
pub(crate) mod credentials;
pub(crate) mod depth;
pub(crate) mod dialect;
pub(crate) mod encryption_keys;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod gone;
pub(crate) mod incarnations;
pub(crate) mod instance_keys;
pub(crate) mod jars;
pub(crate) mod kept;
pub(crate) mod lanes;
pub(crate) mod leases;
pub(crate) mod level;
pub(crate) mod limits;
pub(crate) mod mids;
pub(crate) mod oauth;
pub(crate) mod outcomes;
pub(crate) mod pieces;
pub(crate) mod reduce;
pub(crate) mod replicas;
pub(crate) mod request_list;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod settings;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, ConnectOptions as _, Connection as _, SqlSafeStr as _, Transaction};
use url::Url;

use self::dialect::Dialect;
use crate::config::{PostgresConfig, StoreConfig};

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing was written; trying again may help.
    #[error("the database failed: {0}")]
    Database(Arc<sqlx::Error>),
    #[error("the database's schema could not be brought up to date: {0}")]
    Schema(Arc<sqlx::migrate::MigrateError>),
    #[error(
        "the database's schema is of level {level} and for programs of level {runs_from} or newer; this program is of \
         level {}, and runs on a schema that is one level ahead at most: update it",
        level::LEVEL
    )]
    SchemaAhead { level: i64, runs_from: i64 },
    /// A row that this program did not write.
    #[error("the database holds a value that is not understood: {0}")]
    Corrupt(String),
    #[error("the writer of the database has stopped")]
    Stopped,
    #[error("the database did not answer in time")]
    Slow,
    /// The connection broke in a commit and did not come back in time: nobody knows whether it was written.
    #[error("the database was lost in a commit, and what was asked may have been written: {0}")]
    Uncertain(Arc<StoreError>),
    #[error("{0}")]
    Configuration(String),
}

impl StoreError {
    /// Whether the same may be tried again: the connection or the server went away, or others were in the way.
    pub(crate) fn is_passing(&self) -> bool {
        let Self::Database(error) = self else { return matches!(self, Self::Slow) };
        match &**error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
            sqlx::Error::Database(said) => said.code().is_some_and(|code| dialect::is_passing(&code)),
            _ => false,
        }
    }

    /// Whether the disk under an embedded database failed: full, read-only, unreadable, or it did not keep what it took.
    pub(crate) fn is_disk(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let sqlx::Error::Database(said) = &**error else { return false };
        said.code().is_some_and(|code| dialect::is_disk(&code))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// The database: who writes (SQLite: one connection for all), the queue among them, and who only reads.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    writer: AnyPool,
    queue: AnyPool,
    readers: AnyPool,
    dialect: Dialect,
}

/// The embedded database, in the data folder.
pub(crate) const SQLITE_FILE: &str = "midward.db";

/// Copies an embedded database, which may be in use, into the empty file `to`.
pub(crate) async fn copy_sqlite(from: &Path, to: &Path) -> Result<(), StoreError> {
    sqlx::any::install_default_drivers();
    let url = Url::parse(&dialect::url(from)).map_err(|error| StoreError::Configuration(error.to_string()))?;
    let pool = pool(Dialect::Sqlite, &url, 1).await?;
    let done = sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy().as_ref()).execute(&pool).await;
    pool.close().await;
    done?;
    Ok(())
}

/// A connection that was used less than this ago is taken to be there still: the queue's own never rests longer while
/// there is work.
const UNTESTED: Duration = Duration::from_millis(100);

/// How long a read is tried again while the database is away.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Each released schema, in order: `number`, name, text. Forward only.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("../../migrations/0001_first.sql")),
    (2, "client assertions", include_str!("../../migrations/0002_client_assertions.sql")),
    (4, "grants", include_str!("../../migrations/0004_grants.sql")),
    (5, "jars", include_str!("../../migrations/0005_jars.sql")),
    (6, "retention", include_str!("../../migrations/0006_retention.sql")),
    (7, "priorities", include_str!("../../migrations/0007_priorities.sql")),
    (8, "certificate-bound tokens", include_str!("../../migrations/0008_certificate_bound_tokens.sql")),
    (9, "DPoP-bound tokens", include_str!("../../migrations/0009_dpop_bound_tokens.sql")),
    (10, "replicas", include_str!("../../migrations/0010_replicas.sql")),
    (11, "clusters and retries", include_str!("../../migrations/0011_clusters_and_retries.sql")),
    (20, "API clients", include_str!("../../migrations/0020_api_clients.sql")),
    (21, "audit", include_str!("../../migrations/0021_audit.sql")),
    (30, "at rest", include_str!("../../migrations/0030_at_rest.sql")),
    (35, "lists of requests", include_str!("../../migrations/0035_lists_of_requests.sql")),
    (42, "schema level", include_str!("../../migrations/0042_schema_level.sql")),
    (43, "incarnations", include_str!("../../migrations/0043_incarnations.sql")),
    (44, "enrolled again", include_str!("../../migrations/0044_enrolled_again.sql")),
    (50, "lanes", include_str!("../../migrations/0050_lanes.sql")),
    (53, "last epoch", include_str!("../../migrations/0053_last_epoch.sql")),
    (59, "queued size", include_str!("../../migrations/0059_queued_size.sql")),
];

impl Store {
    /// Opens or creates the database and brings its schema up to date. Instances that start at once on one PostgreSQL
    /// take turns.
    pub(crate) async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        match &config.postgres {
            None => Self::open_sqlite(&config.path.join(SQLITE_FILE)).await,
            Some(postgres) => Self::open_postgres(postgres).await,
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        // It holds what APIs answered. SQLite gives its other files the mode of this one.
        let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        made.map_err(|error| StoreError::Database(Arc::new(sqlx::Error::Io(error))))?;
        let url = Url::parse(&dialect::url(path)).map_err(|error| StoreError::Configuration(error.to_string()))?;
        let writer = pool(Dialect::Sqlite, &url, 1).await?;
        migrate(Dialect::Sqlite, &writer).await?;
        let readers = pool(Dialect::Sqlite, &url, 4).await?;
        Ok(Self { queue: writer.clone(), writer, readers, dialect: Dialect::Sqlite })
    }

    async fn open_postgres(config: &PostgresConfig) -> Result<Self, StoreError> {
        let url = postgres_url(config)?;
        // The queue has connections of its own: nobody else makes it wait.
        let queue = (config.connections / 3).clamp(2, 4);
        let others = config.connections.saturating_sub(queue).max(2);
        let writer = pool(Dialect::Postgres, &url, others / 2).await?;
        migrate(Dialect::Postgres, &writer).await?;
        let queue = pool_with(Dialect::Postgres, &url, queue, Dialect::Postgres.on_queue_connect()).await?;
        let readers = pool(Dialect::Postgres, &url, others - others / 2).await?;
        Ok(Self { writer, queue, readers, dialect: Dialect::Postgres })
    }

    /// Begins a transaction of the queue. `is_hot`: it only stores requests and outcomes by their identifiers; for
    /// anything else PostgreSQL plans each statement anew.
    pub(crate) async fn begin_queue(&self, is_hot: bool) -> Result<Transaction<'static, Any>, StoreError> {
        if is_hot {
            Ok(self.queue.begin().await?)
        } else {
            Ok(self.queue.begin_with(self.dialect.begin_planning()).await?)
        }
    }

    /// Begins a writing transaction; waits for a writer. Dropped without commit: nothing happened.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.writer.begin().await?)
    }

    /// As [`Self::begin`], to change records, MIDs or API keys: such changes go one after the other, and the other
    /// replicas learn of them.
    pub(crate) async fn begin_change(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let mut tx = self.begin().await?;
        replicas::count_change(&mut tx).await?;
        Ok(tx)
    }

    /// Whether other replicas may use this database.
    pub(crate) fn is_shared(&self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// The time by which leases are given and ended, in unix milliseconds: the database's, so that all instances on
    /// one database agree. An embedded database has its host's time, `wall`.
    pub(crate) async fn now(&self, tx: &mut Transaction<'static, Any>, wall: i64) -> Result<i64, StoreError> {
        use sqlx::Row as _;
        match self.dialect {
            Dialect::Sqlite => Ok(wall),
            Dialect::Postgres => {
                let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
                Ok(sqlx::query(sql).fetch_one(&mut **tx).await?.try_get(0)?)
            }
        }
    }

    /// Reads, and reads again while the database is away, for a while.
    pub(crate) async fn patiently<T, F>(&self, read: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let attempts = async {
            let mut wait = Duration::from_millis(50);
            loop {
                match read().await {
                    Err(error) if error.is_passing() => tracing::debug!(%error, "it is read again"),
                    done => return done,
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_millis(500));
            }
        };
        tokio::time::timeout(READ_WITHIN, attempts).await.unwrap_or(Err(StoreError::Slow))
    }

    /// For statements that only read.
    pub(crate) fn readers(&self) -> &AnyPool {
        &self.readers
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.queue.close().await;
        self.writer.close().await;
    }
}

async fn migrate(dialect: Dialect, writer: &AnyPool) -> Result<(), StoreError> {
    level::check_before_migrating(dialect, writer).await?;
    migrator(dialect, i64::MAX).run(writer).await.map_err(|error| StoreError::Schema(Arc::new(error)))
}

/// The migrations up to number `last`.
fn migrator(dialect: Dialect, last: i64) -> Migrator {
    let migrations = MIGRATIONS.iter().filter(|(version, ..)| *version <= last).map(|&(version, name, sql)| {
        let sql = sqlx::AssertSqlSafe(dialect.migration(sql)).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // In a rolling upgrade, a replica of the version before may start on the new schema: its level says so.
    migrator.set_ignore_missing(true);
    migrator
}

/// The database's URL, with the password from its file.
pub(crate) fn postgres_url(config: &PostgresConfig) -> Result<Url, StoreError> {
    let refused = |reason: String| StoreError::Configuration(reason);
    let mut url =
        Url::parse(&config.url).map_err(|error| refused(format!("store.postgres.url is not a URL: {error}")))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(refused("store.postgres.url does not begin with postgres://".to_owned()));
    }
    if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
        return Err(refused(
            "store.postgres.url holds a password: put it into a file, and name that as password_file".to_owned(),
        ));
    }
    if let Some(path) = &config.password_file {
        let password = crate::keys::read_private(path).map_err(|error| refused(error.to_string()))?;
        let password = password.ok_or_else(|| refused(format!("{} does not exist", path.display())))?;
        let password =
            std::str::from_utf8(password.expose()).map_err(|_| refused(format!("{} is not text", path.display())))?;
        if url.set_password(Some(password.strip_suffix('\n').unwrap_or(password))).is_err() {
            return Err(refused("store.postgres.url names no host and user for the password".to_owned()));
        }
    }
    Ok(url)
}

async fn pool(dialect: Dialect, url: &Url, connections: u32) -> Result<AnyPool, StoreError> {
    pool_with(dialect, url, connections, &[]).await
}

async fn pool_with(
    dialect: Dialect,
    url: &Url,
    connections: u32,
    besides: &'static [&'static str],
) -> Result<AnyPool, StoreError> {
    let options = AnyConnectOptions::from_url(url)?;
    let is_embedded = dialect == Dialect::Sqlite;
    Ok(AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        // Not at each use: that would be a round trip more for each transaction.
        .test_before_acquire(false)
        .before_acquire(move |connection, used| {
            Box::pin(async move {
                // SQLite ends some transactions by itself when the disk fails; sqlx then takes the connection to be in
                // one for good, and would refuse each further BEGIN.
                if is_embedded {
                    return Ok(!connection.is_in_transaction());
                }
                // A server may have closed a connection meanwhile; a file does not.
                if used.idle_for > UNTESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .idle_timeout(None)
        .max_lifetime(if is_embedded { None } else { Some(Duration::from_mins(30)) })
        .acquire_timeout(Duration::from_secs(5))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for &statement in dialect.on_connect().iter().chain(besides) {
                    sqlx::query(statement).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await?)
}

/// JSON in a text column.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transaction_that_sqlite_has_ended_by_itself_leaves_no_connection_that_cannot_begin() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let mut tx = store.begin().await.expect("a transaction");
        // As SQLite does after some failures of the disk; sqlx knows nothing of it, and its own ROLLBACK fails.
        sqlx::query("ROLLBACK").execute(&mut *tx).await.expect("an end");
        drop(tx);
        for is_hot in [true, false] {
            let tx = store.begin_queue(is_hot).await.expect("a transaction");
            tx.commit().await.expect("a commit");
        }
        store.close().await;
    }
}
