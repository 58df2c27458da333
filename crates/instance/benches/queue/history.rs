//! Many finished requests and connections, made by the database itself.

use anyhow::Context as _;
use midward_core::{Clock as _, SystemClock};
use midward_instance::StoreConfig;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

/// Requests for each connection.
const PER_CONNECTION: u64 = 100;
const CLIENTS: u64 = 100;
/// Rows in one transaction.
const AT_ONCE: u64 = 500_000;
/// Over how long they are spread, in milliseconds: as long as finished requests are kept.
const SPREAD: u64 = 7 * 24 * 3_600_000;

/// Columns and their values, with `n` for the row's number and `at` for its time.
const REQUEST: &[(&str, &str)] = &[
    ("connection", "'old-' || (n % {connections})"),
    ("config_digest", "'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'"),
    ("resolver", "'vault'"),
    ("mids", "''"),
    ("state", "CASE WHEN n % 50 = 0 THEN 3 ELSE 2 END"),
    ("repeatable", "0"),
    ("epoch", "1"),
    ("lease_mid", "'00000000000000000000000000000009'"),
    ("lease_incarnation", "'0123456789abcdef0123456789abcdef'"),
    ("lease_batch", "n"),
    ("lease_expires_at", "at + 35000"),
    ("lease_ms", "35000"),
    ("expires_at", "at + 900000"),
    ("created_at", "at"),
    ("finished_at", "at + 20"),
    ("client_id", "'client-' || (n % {clients})"),
    ("fingerprint", "''"),
    ("method", "'POST'"),
    ("path", "'/v1/contacts/' || n"),
    (
        "call_json",
        r#"'{"method":"POST","path":"/v1/contacts","headers":[["content-type","application/json"]],"body":""}'"#,
    ),
    ("outcome", r#"'{"kind":"replied","reply":{"status":200,"headers":[],"body":"eHh4eHh4eHh4eHh4"}}'"#),
    ("trace", r#"'[{"hop":"api","what":"POST answered 200","micros":812}]'"#),
];

/// Puts `finished` requests of the last days and a hundredth as many connections into a database.
pub(crate) async fn fill(config: &StoreConfig, finished: u64) -> anyhow::Result<()> {
    let connections = (finished / PER_CONNECTION).max(1);
    let oldest = u64::try_from(SystemClock.wall().unix_millis())?.saturating_sub(SPREAD);
    let is_postgres = config.postgres.is_some();
    let numbers = |from: u64, to: u64| {
        if is_postgres {
            format!("SELECT n FROM generate_series(CAST({from} AS BIGINT), {to}) AS s (n)")
        } else {
            format!(
                "WITH RECURSIVE s (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to}) SELECT n FROM s"
            )
        }
    };
    let id = if is_postgres {
        "lpad(to_hex(at), 12, '0') || substr(md5(CAST(n AS TEXT)), 1, 20)"
    } else {
        "printf('%012x', at) || lower(hex(randomblob(10)))"
    };
    let columns: Vec<&str> = REQUEST.iter().map(|(column, _)| *column).collect();
    let values: Vec<String> = REQUEST
        .iter()
        .map(|(_, value)| {
            value.replace("{connections}", &connections.to_string()).replace("{clients}", &CLIENTS.to_string())
        })
        .collect();
    let mut from = 1;
    while from <= finished {
        let to = (from + AT_ONCE - 1).min(finished);
        let sql = format!(
            "INSERT INTO requests (id, {}) SELECT {id}, {} FROM (SELECT n, {oldest} + n * {SPREAD} / {} AS at FROM ({}) AS numbers) AS r",
            columns.join(", "),
            values.join(", "),
            finished + 1,
            numbers(from, to)
        );
        execute(config, &sql).await.with_context(|| format!("requests from {from}"))?;
        from = to + 1;
    }
    let sql = format!(
        "INSERT INTO connections (alias, base_url, credential, timeout_ms) SELECT 'old-' || n, \
         'https://api' || n || '.example.com/v1', 'credential', 30000 FROM ({}) AS numbers",
        numbers(0, connections - 1)
    );
    execute(config, &sql).await.context("connections")?;
    if is_postgres {
        // As its autovacuum does by and by.
        execute(config, "VACUUM ANALYZE").await?;
        execute(config, "CHECKPOINT").await?;
    }
    Ok(())
}

/// Executes statements on a database that nobody else uses.
pub(crate) async fn execute(config: &StoreConfig, sql: &str) -> anyhow::Result<()> {
    if let Some(postgres) = &config.postgres {
        let mut connection = PgConnection::connect(&postgres.url).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
    } else {
        let file = config.path.join("midward.db");
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
    }
    Ok(())
}
