//! The plain queue that everybody writes first: one row, one statement, one commit for each step. It is given what helps
//! it: workers are told in memory that there is work, callers that theirs is done, and nobody polls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// Each with a connection of its own.
const WORKERS: usize = 16;
/// As many callers insert at once.
const CONNECTIONS: u32 = 32;

const TABLE: &str = "CREATE TABLE jobs (id BIGINT PRIMARY KEY, connection TEXT NOT NULL, call TEXT NOT NULL, \
                     state INTEGER NOT NULL, worker TEXT, outcome TEXT, trace TEXT, \
                     created_at TIMESTAMPTZ NOT NULL DEFAULT now(), finished_at TIMESTAMPTZ)";
const INDEX: &str = "CREATE INDEX jobs_queued ON jobs (id) WHERE state = 0";
const SUBMIT: &str = "INSERT INTO jobs (id, connection, call, state) VALUES ($1, $2, $3, 0)";
const LEASE: &str = "UPDATE jobs SET state = 1, worker = $1 WHERE id = (SELECT id FROM jobs WHERE state = 0 ORDER BY id \
                     FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id, call";
const FINISH: &str = "UPDATE jobs SET state = 2, outcome = $1, trace = $2, finished_at = now() WHERE id = $3 \
                      AND worker = $4 AND state = 1";

const CALL: &str = r#"{"method":"POST","path":"/v1/contacts?fields=name","headers":[["content-type","application/json"],["accept","application/json"]],"body":"eyJuYW1lIjoiQWRhIExvdmVsYWNlIiwibWFpbCI6ImFkYUBleGFtcGxlLm9yZyIsInRhZ3MiOlsibmV3Il19","replay":"by_method"}"#;
const OUTCOME: &str = r#"{"kind":"replied","reply":{"status":200,"headers":[["content-type","application/json"]],"body":"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="}}"#;
const TRACE: &str =
    r#"[{"hop":"mid","what":"token from the cache","micros":12},{"hop":"api","what":"GET answered 200","micros":812}]"#;

#[derive(Debug)]
pub(crate) struct Plain {
    pool: PgPool,
    shared: Arc<Shared>,
    workers: JoinSet<anyhow::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    next: AtomicI64,
    /// One permit for each job that waits; closed at the end.
    queued: Semaphore,
    waiting: Mutex<HashMap<i64, oneshot::Sender<()>>>,
}

impl Plain {
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS + u32::try_from(WORKERS)?)
            .test_before_acquire(false)
            .connect(url)
            .await?;
        sqlx::query(TABLE).execute(&pool).await?;
        sqlx::query(INDEX).execute(&pool).await?;
        let shared = Arc::new(Shared {
            next: AtomicI64::new(1),
            queued: Semaphore::new(0),
            waiting: Mutex::new(HashMap::new()),
        });
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            workers.spawn(work(pool.clone(), Arc::clone(&shared), format!("worker-{number}")));
        }
        Ok(Self { pool, shared, workers })
    }

    /// Submits a job and waits until its outcome is on disk.
    pub(crate) async fn request(&self) -> anyhow::Result<()> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (done, word) = oneshot::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, done);
        sqlx::query(SUBMIT).bind(id).bind("crm").bind(CALL).execute(&self.pool).await?;
        self.shared.queued.add_permits(1);
        word.await.context("a worker has ended")
    }

    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.shared.queued.close();
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        self.pool.close().await;
        Ok(())
    }
}

async fn work(pool: PgPool, shared: Arc<Shared>, worker: String) -> anyhow::Result<()> {
    // A connection of its own, as a worker of its own has.
    let mut connection = pool.acquire().await?;
    while let Ok(permit) = shared.queued.acquire().await {
        permit.forget();
        let leased: Option<(i64, String)> =
            sqlx::query_as(LEASE).bind(&worker).fetch_optional(&mut *connection).await?;
        let Some((id, _)) = leased else {
            // Others had locked what there was: there is one for each permit.
            shared.queued.add_permits(1);
            continue;
        };
        let finish = sqlx::query(FINISH).bind(OUTCOME).bind(TRACE).bind(id).bind(&worker);
        anyhow::ensure!(finish.execute(&mut *connection).await?.rows_affected() == 1, "job {id} was not ours");
        let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(waiting) = waiting {
            // A caller is gone when the time is over.
            let _ = waiting.send(());
        }
    }
    Ok(())
}
