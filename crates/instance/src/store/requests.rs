//! Requests, their leases and outcomes. Every change of state is one statement that proves what it relies on.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use midward_core::BootTime;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _, Transaction};

use super::dialect::Dialect;
use super::rows::{Sized, pieces as rows_of, texts};
use super::{StoreError, pieces};
use crate::at_rest::Kept;

type Tx = Transaction<'static, Any>;

pub(crate) const QUEUED: i64 = 0;
pub(crate) const LEASED: i64 = 1;
pub(crate) const REPLIED: i64 = 2;
pub(crate) const FAILED: i64 = 3;
pub(crate) const UNKNOWN: i64 = 4;

/// A request to be stored, with its lease when one is given at once.
#[derive(Clone, Debug)]
pub(crate) struct NewRequest {
    pub(crate) id: String,
    pub(crate) connection: String,
    pub(crate) config_digest: String,
    pub(crate) resolver: String,
    /// `,id,id,` or empty for any MID.
    pub(crate) mids: String,
    pub(crate) repeatable: bool,
    pub(crate) lease_ms: i64,
    pub(crate) expires_at: i64,
    pub(crate) created_at: i64,
    pub(crate) client_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) fingerprint: String,
    pub(crate) method: String,
    pub(crate) path: String,
    /// `path` as it is stored.
    pub(crate) path_kept: String,
    /// JSON of the call.
    pub(crate) call: Arc<String>,
    /// `call` as it is stored.
    pub(crate) call_kept: Kept,
    pub(crate) keep: KeepRequest,
    pub(crate) priority: Priority,
    /// The replica that took it.
    pub(crate) origin: String,
    /// Only the first of `mids` that can serve it may take it.
    pub(crate) ordered: bool,
    /// Its connection has a concurrency or a rate.
    pub(crate) limited: bool,
    /// Unix milliseconds.
    pub(crate) not_before: i64,
    /// The same when it has not come yet; the queue says so.
    pub(crate) delayed_until: Option<i64>,
    /// JSON of the policy by which it is tried again.
    pub(crate) retry: Option<String>,
    pub(crate) lease: Option<NewLease>,
    /// When it came to this process, for the figures; not stored.
    pub(crate) arrived: BootTime,
}

#[cfg(any(test, feature = "bench"))]
impl NewRequest {
    /// A POST that is due at once, and that any MID with the resolver `vault` may take, for 15 minutes. `call`: as it is,
    /// and as it is kept.
    pub(crate) fn plain(
        id: &str,
        connection: &str,
        call: (Arc<String>, Kept),
        created_at: i64,
        arrived: BootTime,
    ) -> Self {
        Self {
            id: id.to_owned(),
            connection: connection.to_owned(),
            config_digest: String::new(),
            resolver: "vault".to_owned(),
            mids: String::new(),
            repeatable: false,
            lease_ms: 35_000,
            expires_at: created_at + 900_000,
            created_at,
            client_id: "client".to_owned(),
            idempotency_key: None,
            fingerprint: String::new(),
            method: "POST".to_owned(),
            path: "/x".to_owned(),
            path_kept: "/x".to_owned(),
            call: call.0,
            call_kept: call.1,
            keep: KeepRequest::Everything,
            priority: Priority::Standard,
            origin: String::new(),
            ordered: false,
            limited: false,
            not_before: 0,
            delayed_until: None,
            retry: None,
            lease: None,
            arrived,
        }
    }
}

/// What becomes of a request's body and headers when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepRequest {
    Everything,
    /// They are removed, and the answer's are never stored.
    Metadata,
    /// As before, but a caller waits for the answer at the replica that took the request: another one stores it until
    /// that caller has it.
    MetadataAndWait,
}

impl KeepRequest {
    pub(super) const fn number(self) -> i64 {
        match self {
            Self::Everything => 0,
            Self::Metadata => 1,
            Self::MetadataAndWait => 2,
        }
    }
}

/// Of the column `keep`: body and headers are gone.
pub(crate) const REDUCED: i64 = 3;

/// Which of the queued requests goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Priority {
    /// Somebody waits for the answer.
    Interactive,
    #[default]
    Standard,
}

impl Priority {
    const fn number(self) -> i64 {
        match self {
            Self::Interactive => 0,
            Self::Standard => 1,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NewLease {
    pub(crate) mid_id: String,
    pub(crate) incarnation: String,
    pub(crate) batch: i64,
    pub(crate) expires_at: i64,
}

/// A request as its caller sees it.
#[derive(Clone, Debug)]
pub(crate) struct RequestRow {
    pub(crate) id: String,
    pub(crate) connection: String,
    pub(crate) state: i64,
    pub(crate) epoch: i64,
    pub(crate) mid_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) finished_at: Option<i64>,
    pub(crate) outcome: Option<String>,
    pub(crate) trace: Option<String>,
    /// Unix milliseconds; 0: at once.
    pub(crate) not_before: i64,
    /// How often it was tried again.
    pub(crate) attempts: i64,
    /// It failed after its last attempt.
    pub(crate) dead: bool,
    /// Body and headers were removed, as its connection says.
    pub(crate) reduced: bool,
}

/// What a new request is stored with, in the order of [`Stored`]'s fields.
const INSERT: &str = "INSERT INTO requests (id, connection, config_digest, resolver, mids, state, repeatable, epoch, \
                      lease_mid, lease_incarnation, lease_batch, lease_expires_at, lease_ms, expires_at, created_at, \
                      client_id, idempotency_key, fingerprint, method, path, call_json, priority, origin, ordered, \
                      limited, not_before, retry, keep, size, delayed_until) ";

static INSERT_SQLITE: LazyLock<Sized> = LazyLock::new(|| Sized::new(&format!("{INSERT}VALUES "), 30, ""));

static INSERT_POSTGRES: LazyLock<Arc<str>> = LazyLock::new(|| {
    format!(
        "{INSERT}SELECT * FROM json_to_recordset(CAST($1 AS json)) AS r (id TEXT, connection TEXT, config_digest TEXT, \
         resolver TEXT, mids TEXT, state INTEGER, repeatable INTEGER, epoch BIGINT, lease_mid TEXT, \
         lease_incarnation TEXT, lease_batch BIGINT, lease_expires_at BIGINT, lease_ms BIGINT, expires_at BIGINT, \
         created_at BIGINT, client_id TEXT, idempotency_key TEXT, fingerprint TEXT, method TEXT, path TEXT, \
         call_json TEXT, priority INTEGER, origin TEXT, ordered INTEGER, limited INTEGER, not_before BIGINT, \
         retry TEXT, keep INTEGER, size BIGINT, delayed_until BIGINT)"
    )
    .into()
});

/// A new request's row; a column that is absent is NULL.
#[derive(serde::Serialize)]
struct Stored<'a> {
    id: &'a str,
    connection: &'a str,
    config_digest: &'a str,
    resolver: &'a str,
    mids: &'a str,
    state: i64,
    repeatable: i64,
    epoch: i64,
    #[serde(flatten)]
    lease: Option<StoredLease<'a>>,
    lease_ms: i64,
    expires_at: i64,
    created_at: i64,
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    fingerprint: &'a str,
    method: &'a str,
    path: &'a str,
    call_json: &'a str,
    priority: i64,
    origin: &'a str,
    ordered: i64,
    limited: i64,
    not_before: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<&'a str>,
    keep: i64,
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed_until: Option<i64>,
}

#[derive(Clone, Copy, serde::Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the columns")]
struct StoredLease<'a> {
    lease_mid: &'a str,
    lease_incarnation: &'a str,
    lease_batch: i64,
    lease_expires_at: i64,
}

impl<'a> Stored<'a> {
    fn new(request: &'a NewRequest) -> Self {
        let lease = request.lease.as_ref().map(|lease| StoredLease {
            lease_mid: &lease.mid_id,
            lease_incarnation: &lease.incarnation,
            lease_batch: lease.batch,
            lease_expires_at: lease.expires_at,
        });
        Self {
            id: &request.id,
            connection: &request.connection,
            config_digest: &request.config_digest,
            resolver: &request.resolver,
            mids: &request.mids,
            state: if lease.is_some() { LEASED } else { QUEUED },
            repeatable: request.repeatable.into(),
            epoch: lease.is_some().into(),
            lease,
            lease_ms: request.lease_ms,
            expires_at: request.expires_at,
            created_at: request.created_at,
            client_id: &request.client_id,
            idempotency_key: request.idempotency_key.as_deref(),
            fingerprint: &request.fingerprint,
            method: &request.method,
            path: &request.path_kept,
            call_json: request.call_kept.column.as_str(),
            priority: request.priority.number(),
            origin: &request.origin,
            ordered: request.ordered.into(),
            limited: request.limited.into(),
            not_before: request.not_before,
            retry: request.retry.as_deref(),
            keep: request.keep.number(),
            size: request.call_kept.size(),
            delayed_until: request.delayed_until,
        }
    }
}

pub(crate) async fn insert(tx: &mut Tx, requests: &[NewRequest]) -> Result<(), StoreError> {
    insert_rows(tx, requests).await?;
    for request in requests {
        pieces::insert(tx, &request.id, &request.call_kept).await?;
    }
    Ok(())
}

async fn insert_rows(tx: &mut Tx, requests: &[NewRequest]) -> Result<(), StoreError> {
    if Dialect::of(tx) == Dialect::Postgres {
        for text in texts(requests.iter().map(Stored::new))? {
            sqlx::query(AssertSqlSafe(INSERT_POSTGRES.clone())).bind(text).execute(&mut **tx).await?;
        }
        return Ok(());
    }
    let mut rest = requests;
    for piece in rows_of(requests.len()) {
        let (now, later) = rest.split_at(piece);
        rest = later;
        let mut query = sqlx::query(AssertSqlSafe(INSERT_SQLITE.sql(piece)));
        for row in now.iter().map(Stored::new) {
            query = query
                .bind(row.id)
                .bind(row.connection)
                .bind(row.config_digest)
                .bind(row.resolver)
                .bind(row.mids)
                .bind(row.state)
                .bind(row.repeatable)
                .bind(row.epoch)
                .bind(row.lease.map(|lease| lease.lease_mid))
                .bind(row.lease.map(|lease| lease.lease_incarnation))
                .bind(row.lease.map(|lease| lease.lease_batch))
                .bind(row.lease.map(|lease| lease.lease_expires_at))
                .bind(row.lease_ms)
                .bind(row.expires_at)
                .bind(row.created_at)
                .bind(row.client_id)
                .bind(row.idempotency_key)
                .bind(row.fingerprint)
                .bind(row.method)
                .bind(row.path)
                .bind(row.call_json)
                .bind(row.priority)
                .bind(row.origin)
                .bind(row.ordered)
                .bind(row.limited)
                .bind(row.not_before)
                .bind(row.retry)
                .bind(row.keep)
                .bind(row.size)
                .bind(row.delayed_until);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Those of `ids` that are stored already: a commit whose answer got lost.
pub(crate) async fn stored<'a>(tx: &mut Tx, ids: &[&'a str]) -> Result<HashSet<&'a str>, StoreError> {
    let mut found = HashSet::new();
    for id in ids {
        let row = sqlx::query("SELECT id FROM requests WHERE id = $1").bind(id).fetch_optional(&mut **tx).await?;
        if row.is_some() {
            found.insert(*id);
        }
    }
    Ok(found)
}

/// The request that a client submitted under this key before, with its fingerprint.
pub(crate) async fn by_idempotency_key(
    tx: &mut Tx,
    client_id: &str,
    key: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let row = sqlx::query("SELECT id, fingerprint FROM requests WHERE client_id = $1 AND idempotency_key = $2")
        .bind(client_id)
        .bind(key)
        .fetch_optional(&mut **tx)
        .await?;
    match row {
        Some(row) => Ok(Some((row.try_get(0)?, row.try_get(1)?))),
        None => Ok(None),
    }
}

const COLUMNS: &str = "SELECT id, connection, state, epoch, lease_mid, client_id, method, path, created_at, \
                       expires_at, finished_at, outcome, trace, not_before, attempts, dead, keep FROM requests";

pub(crate) async fn find<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
) -> Result<Option<RequestRow>, StoreError> {
    static SQL: LazyLock<Arc<str>> = LazyLock::new(|| format!("{COLUMNS} WHERE id = $1").into());
    sqlx::query(AssertSqlSafe(SQL.clone())).bind(id).fetch_optional(db).await?.as_ref().map(request).transpose()
}

fn request(row: &AnyRow) -> Result<RequestRow, StoreError> {
    Ok(RequestRow {
        id: row.try_get(0)?,
        connection: row.try_get(1)?,
        state: row.try_get(2)?,
        epoch: row.try_get(3)?,
        mid_id: row.try_get(4)?,
        client_id: row.try_get(5)?,
        method: row.try_get(6)?,
        path: row.try_get(7)?,
        created_at: row.try_get(8)?,
        expires_at: row.try_get(9)?,
        finished_at: row.try_get(10)?,
        outcome: row.try_get(11)?,
        trace: row.try_get(12)?,
        not_before: row.try_get(13)?,
        attempts: row.try_get(14)?,
        dead: row.try_get::<i64, _>(15)? == 1,
        reduced: row.try_get::<i64, _>(16)? == REDUCED,
    })
}
