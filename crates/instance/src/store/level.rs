//! Which programs may use which schema. A release that changes the schema counts its level up. A program runs on a
//! schema of its own level, and, so that replicas can be updated one after the other, on one that is a level ahead of
//! it, unless that one says that older programs would do harm.

use sqlx::{Any, AnyPool, Executor, Row as _};

use super::StoreError;
use super::dialect::Dialect;

/// The level of the schema that this program's migrations make.
pub(super) const LEVEL: i64 = 1;
/// How many levels a schema may be ahead of the program.
const SKEW: i64 = 1;

/// Refuses a schema that this program must not use; one that is older, or not there yet, is about to be migrated.
pub(super) async fn check_before_migrating(dialect: Dialect, pool: &AnyPool) -> Result<(), StoreError> {
    let found = sqlx::query(dialect.finds_table()).bind("schema_level").fetch_optional(pool).await?;
    if found.is_some() { check(pool).await } else { Ok(()) }
}

/// Whether this program may (still) use the schema: another one may have migrated it meanwhile.
pub(crate) async fn check<'e>(db: impl Executor<'e, Database = Any>) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT level, runs_from FROM schema_level WHERE id = 1").fetch_one(db).await?;
    let (level, runs_from) = (row.try_get(0)?, row.try_get(1)?);
    if is_fit(level, runs_from) { Ok(()) } else { Err(StoreError::SchemaAhead { level, runs_from }) }
}

const fn is_fit(level: i64, runs_from: i64) -> bool {
    level <= LEVEL + SKEW && runs_from <= LEVEL
}

#[cfg(test)]
mod tests {
    use super::super::{SQLITE_FILE, Store};
    use super::*;
    use crate::config::StoreConfig;

    #[test]
    fn one_level_ahead_is_fit_unless_it_says_otherwise() {
        for (level, runs_from, fit) in [
            (LEVEL, LEVEL, true),
            (LEVEL, 1, true),
            (LEVEL + 1, LEVEL, true),
            (LEVEL + 1, LEVEL + 1, false),
            (LEVEL + 2, LEVEL, false),
            (LEVEL + 2, 1, false),
        ] {
            assert_eq!(is_fit(level, runs_from), fit, "{level} {runs_from}");
        }
    }

    #[tokio::test]
    async fn the_migrations_end_at_this_programs_level() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let store = Store::open(&config).await.expect("a store");
        let row = sqlx::query("SELECT level FROM schema_level").fetch_one(store.readers()).await.expect("a row");
        assert_eq!(row.try_get::<i64, _>(0).expect("a number"), LEVEL);
        store.close().await;
        assert!(folder.path().join(SQLITE_FILE).exists());
    }
}
