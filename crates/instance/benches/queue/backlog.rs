//! Requests that wait and that no MID can take, made by the database itself.

use midward_core::{Clock as _, SystemClock};
use midward_instance::StoreConfig;

use crate::history::execute;

/// Connections that they are of.
const CONNECTIONS: u64 = 100;
/// How long they go on waiting, in milliseconds.
const WAIT: u64 = 24 * 3_600_000;

/// Columns and their values, with `n` for the row's number. They go before all that is queued later.
const REQUEST: &[(&str, &str)] = &[
    ("connection", "'far-' || (n % {connections})"),
    ("config_digest", "'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'"),
    ("resolver", "'vault'"),
    ("state", "0"),
    ("repeatable", "0"),
    ("epoch", "0"),
    ("lease_ms", "35000"),
    ("expires_at", "{until} + 900000"),
    ("created_at", "1"),
    ("client_id", "'client'"),
    ("fingerprint", "''"),
    ("method", "'POST'"),
    ("path", "'/v1/contacts/' || n"),
    (
        "call_json",
        r#"'{"method":"POST","path":"/v1/contacts","headers":[["content-type","application/json"]],"body":""}'"#,
    ),
    ("priority", "0"),
];

/// Puts `count` requests for a MID that is down into a database, and as many that are to be sent tomorrow.
pub(crate) async fn fill(config: &StoreConfig, count: u64) -> anyhow::Result<()> {
    let until = u64::try_from(SystemClock.wall().unix_millis())? + WAIT;
    let down = ("'down-'", "',00000000000000000000000000000009,'", "0", "NULL");
    let later = until.to_string();
    let delayed = ("'later-'", "''", later.as_str(), later.as_str());
    for (prefix, mids, not_before, delayed_until) in [down, delayed] {
        let columns: Vec<&str> = REQUEST.iter().map(|(column, _)| *column).collect();
        let values: Vec<String> = REQUEST
            .iter()
            .map(|(_, value)| value.replace("{connections}", &CONNECTIONS.to_string()).replace("{until}", &later))
            .collect();
        let sql = format!(
            "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) \
             INSERT INTO requests (id, mids, not_before, delayed_until, {}) SELECT {prefix} || n, {mids}, {not_before}, \
             {delayed_until}, {} FROM s",
            columns.join(", "),
            values.join(", ")
        );
        execute(config, &sql).await?;
    }
    if config.postgres.is_some() {
        execute(config, "VACUUM ANALYZE").await?;
        execute(config, "CHECKPOINT").await?;
    }
    Ok(())
}
