//! The migrations go forward from each schema before, with rows in all its tables, on both databases.

use midward_fakes::postgres::Postgres;
use sqlx::{AnyPool, AssertSqlSafe, Row as _};
use url::Url;

use super::dialect::Dialect;
use super::{MIGRATIONS, SQLITE_FILE, Store, dialect, migrator, pool};
use crate::config::{PostgresConfig, StoreConfig};

/// Tables that the migrations up to `last` make, so that one that refers to another comes after it.
fn tables(last: i64) -> Vec<&'static str> {
    let texts = MIGRATIONS.iter().filter(|(number, ..)| *number <= last).map(|(.., sql)| sql);
    let lines = texts.flat_map(|sql| sql.lines());
    lines.filter_map(|line| line.strip_prefix("CREATE TABLE ")?.strip_suffix(" (")).collect()
}

async fn texts(pool: &AnyPool, sql: String) -> Vec<Vec<String>> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await.expect("rows");
    rows.iter().map(|row| (0..row.len()).map(|column| row.get::<String, _>(column)).collect()).collect()
}

/// Names and types.
async fn columns(dialect: Dialect, pool: &AnyPool, table: &str) -> Vec<(String, String)> {
    let sql = match dialect {
        Dialect::Sqlite => format!("SELECT name, lower(type) FROM pragma_table_info('{table}')"),
        Dialect::Postgres => format!(
            "SELECT CAST(column_name AS TEXT), CAST(data_type AS TEXT) FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = '{table}' ORDER BY ordinal_position"
        ),
    };
    let columns = texts(pool, sql).await.into_iter();
    columns.map(|column| (column[0].clone(), column[1].clone())).collect()
}

/// A value for each column: nothing is left out, and the two rows of a table share none.
fn value(kind: &str, row: usize) -> String {
    match kind {
        "text" => format!("'t{row}'"),
        "bigint" | "integer" => row.to_string(),
        "blob" => format!("x'0{row}'"),
        "bytea" => format!("'\\x0{row}'"),
        other => panic!("a column of type {other}"),
    }
}

/// Puts two rows into each table that is empty, and tells for each table the statement by which its rows are read, and
/// what it gives.
async fn fill(dialect: Dialect, pool: &AnyPool, last: i64) -> Vec<(String, Vec<Vec<String>>)> {
    let mut filled = Vec::new();
    for table in tables(last) {
        let columns = columns(dialect, pool, table).await;
        assert!(!columns.is_empty(), "{table}");
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let read: Vec<String> = names.iter().map(|name| format!("CAST({name} AS TEXT)")).collect();
        let read = format!("SELECT {} FROM {table} ORDER BY 1", read.join(", "));
        if texts(pool, read.clone()).await.is_empty() {
            for row in 0..2 {
                let values: Vec<String> = columns.iter().map(|(_, kind)| value(kind, row)).collect();
                let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "));
                sqlx::query(AssertSqlSafe(sql)).execute(pool).await.unwrap_or_else(|error| panic!("{table}: {error}"));
            }
        }
        let rows = texts(pool, read.clone()).await;
        assert!(!rows.is_empty(), "{table}");
        filled.push((read, rows));
    }
    filled
}

async fn forward_from_each(dialect: Dialect, mut fresh: impl FnMut() -> (Url, StoreConfig)) {
    for (last, name, _) in MIGRATIONS {
        let (url, config) = fresh();
        let pool = pool(dialect, &url, 1).await.expect("a database");
        migrator(dialect, *last).run(&pool).await.unwrap_or_else(|error| panic!("up to {last}: {error}"));
        let filled = fill(dialect, &pool, *last).await;
        let store = Store::open(&config).await.unwrap_or_else(|error| panic!("from {last}, {name}: {error}"));
        for (read, rows) in filled {
            // What a program of the newest schema may say of itself.
            if !read.contains("FROM schema_level") {
                assert_eq!(texts(&pool, read.clone()).await, rows, "from {last}, {name}: {read}");
            }
        }
        store.close().await;
        pool.close().await;
    }
}

#[tokio::test]
async fn on_sqlite_rows_of_each_schema_before_outlive_the_migrations() {
    sqlx::any::install_default_drivers();
    let mut folders = Vec::new();
    let fresh = || {
        let folder = tempfile::tempdir().expect("a folder");
        let url = Url::parse(&dialect::url(&folder.path().join(SQLITE_FILE))).expect("a URL");
        let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        folders.push(folder);
        (url, config)
    };
    forward_from_each(Dialect::Sqlite, fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_rows_of_each_schema_before_outlive_the_migrations() {
    sqlx::any::install_default_drivers();
    let server = Postgres::start_without_fsync().expect("a server");
    let fresh = || {
        let url = server.new_database().expect("a database");
        let postgres = PostgresConfig { url: url.clone(), password_file: None, connections: 6 };
        let config = StoreConfig { postgres: Some(postgres), ..StoreConfig::default() };
        (Url::parse(&url).expect("a URL"), config)
    };
    forward_from_each(Dialect::Postgres, fresh).await;
}
