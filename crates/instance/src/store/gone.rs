//! On PostgreSQL, an index keeps the entries of rows that left it until the next vacuum: what looks after times again and
//! again must not visit those rows each time.

use midward_core::BootTime;
use midward_fakes::postgres::Postgres;
use sqlx::{Any, Row as _, Transaction};

use super::Store;
use super::leases::{self, Ended};
use super::requests::{NewRequest, insert};
use super::{lanes, outcomes};
use crate::at_rest::Kept;
use crate::config::{PostgresConfig, StoreConfig};

type Tx = Transaction<'static, Any>;

const NOW: i64 = 1_000_000;
const FINISHED: i64 = 5000;

async fn run(tx: &mut Tx, sql: &'static str) {
    sqlx::query(sql).execute(&mut **tx).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Blocks of the table of requests, not of its indexes, that this transaction has visited so far.
async fn visited(tx: &mut Tx) -> i64 {
    let sql = "SELECT pg_stat_get_xact_blocks_fetched(CAST('requests' AS regclass))";
    sqlx::query(sql).fetch_one(&mut **tx).await.expect("a figure").get(0)
}

/// As many requests as [`FINISHED`] that were delayed, queued, leased and have ended, each step in a commit of its own.
async fn finish_many(store: &Store) {
    let call = std::sync::Arc::new("{}".to_owned());
    let kept = Kept { column: std::sync::Arc::clone(&call), set: String::new(), pieces: std::sync::Arc::default() };
    let arrived = BootTime::from_duration(std::time::Duration::ZERO);
    let first = NewRequest {
        lease_ms: 1000,
        expires_at: NOW - 1,
        delayed_until: Some(NOW - 1),
        ..NewRequest::plain("r0", "crm", (call, kept), 1, arrived)
    };
    for step in [
        "INSERT INTO requests SELECT (jsonb_populate_record(first, jsonb_build_object('id', 'r' || number))).* \
         FROM requests AS first, generate_series(1, 4999) AS number",
        "UPDATE requests SET delayed_until = NULL",
        "UPDATE requests SET state = 1, lease_mid = 'gone', lease_incarnation = 'i', lease_batch = 1, lease_expires_at = 1",
        "UPDATE requests SET state = 2, outcome = '{}', finished_at = 1 WHERE id > 'r2'",
        // What is known of the table is of a moment at which many were leased.
        "ANALYZE requests",
        "UPDATE requests SET state = 2, outcome = '{}', finished_at = 1 WHERE state = 1",
    ] {
        let mut tx = store.begin().await.expect("a transaction");
        if step.starts_with("INSERT") {
            run(&mut tx, "ALTER TABLE requests SET (autovacuum_enabled = false)").await;
            insert(&mut tx, std::slice::from_ref(&first)).await.expect("stored");
        }
        run(&mut tx, step).await;
        tx.commit().await.expect("committed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_left_the_queue_are_visited_once_and_not_at_each_look() {
    let server = Postgres::start_without_fsync().expect("a server");
    let url = server.new_database().expect("a database");
    let postgres = PostgresConfig { url, password_file: None, connections: 6 };
    let store =
        Store::open(&StoreConfig { postgres: Some(postgres), ..StoreConfig::default() }).await.expect("a store");
    finish_many(&store).await;
    let mut first_look = 0;
    for look in 0..3 {
        let mut tx = store.begin_queue(false).await.expect("a transaction");
        let before = visited(&mut tx).await;
        for which in [Ended::Overdue, Ended::Dead, Ended::OtherIncarnations { mid_id: "gone", current: "j" }] {
            let (unknown, is_any_queued) = leases::end_leases(&mut tx, which, NOW, "{}").await.expect("done");
            assert_eq!((unknown.len(), is_any_queued), (0, false));
        }
        assert!(outcomes::expire_retried(&mut tx, NOW, 10).await.expect("done").is_empty());
        for was_given_out in [false, true] {
            assert!(outcomes::expire(&mut tx, NOW, "{}", was_given_out, 10).await.expect("done").is_empty());
        }
        assert_eq!(lanes::make_due(&mut tx, NOW, 10).await.expect("done"), 0);
        assert_eq!(lanes::after(&mut tx, "", 10).await.expect("lanes"), []);
        let (lost, _) = leases::undelivered(&mut tx, "gone", "i", 0).await.expect("leases");
        assert!(lost.is_empty());
        let now = visited(&mut tx).await - before;
        tx.commit().await.expect("committed");
        match look {
            0 => {
                first_look = now;
                assert!(now > FINISHED / 100, "{now}: there is something to be visited");
            }
            _ => assert!(now < 20, "{now} blocks at a look after the first, which visited {first_look}"),
        }
    }
    store.close().await;
}
