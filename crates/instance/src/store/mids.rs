//! MIDs, their one-time enrollment secrets, access tokens and spent client assertions.

use midward_wire::{Heartbeat, MidState};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Executor, Row as _};

use super::{Store, StoreError, from_json, to_json};

/// A MID as the database knows it.
#[derive(Clone, Debug)]
pub(crate) struct MidRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: MidState,
    pub(crate) public_key: String,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    pub(crate) last_seen_at: Option<i64>,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) draining: bool,
    /// Counts every change but that of `last_seen_at`.
    pub(crate) version: i64,
    /// The one that has the word; empty before the first.
    pub(crate) incarnation: String,
    /// How often a superseded one spoke since then, and when last.
    pub(crate) fenced: i64,
    pub(crate) fenced_at: Option<i64>,
}

const COLUMNS: &str = "SELECT id, name, state, public_key, created_at, last_seen_at, heartbeat, draining, version, \
                       incarnation, fenced, fenced_at FROM mids";

pub(crate) async fn all<'e>(db: impl Executor<'e, Database = Any>) -> Result<Vec<MidRow>, StoreError> {
    let sql = format!("{COLUMNS} ORDER BY name");
    sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await?.iter().map(mid).collect()
}

pub(crate) async fn by_id<'e>(db: impl Executor<'e, Database = Any>, id: &str) -> Result<Option<MidRow>, StoreError> {
    let sql = format!("{COLUMNS} WHERE id = $1");
    sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(db).await?.as_ref().map(mid).transpose()
}

/// What changes all the time: identifier, when it was seen, version.
pub(crate) async fn pulses<'e>(
    db: impl Executor<'e, Database = Any>,
) -> Result<Vec<(String, Option<i64>, i64)>, StoreError> {
    let rows = sqlx::query("SELECT id, last_seen_at, version FROM mids").fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

/// False when the name is taken.
pub(crate) async fn insert<'e>(db: impl Executor<'e, Database = Any>, row: &MidRow) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO mids (id, name, state, public_key, created_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(&row.id)
    .bind(&row.name)
    .bind(to_json(&row.state)?)
    .bind(&row.public_key)
    .bind(row.created_at)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn set_state<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
    state: MidState,
) -> Result<(), StoreError> {
    let sql = "UPDATE mids SET state = $1, draining = 0, version = version + 1 WHERE id = $2";
    sqlx::query(sql).bind(to_json(&state)?).bind(id).execute(db).await?;
    Ok(())
}

/// It gets no more work until its next incarnation.
pub(crate) async fn drain<'e>(db: impl Executor<'e, Database = Any>, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE mids SET draining = 1, version = version + 1 WHERE id = $1").bind(id).execute(db).await?;
    Ok(())
}

/// After a pause, or a clock that was set back: nobody was seen in the future.
pub(crate) async fn clamp_seen(tx: &mut sqlx::Transaction<'static, Any>, now: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE mids SET last_seen_at = $1 WHERE last_seen_at > $1").bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// A heartbeat of the incarnation that has the word, with all that it says. Returns the MID's version afterwards; `None`:
/// there is no such MID.
pub(crate) async fn seen<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
    now: i64,
    heartbeat: &Heartbeat,
) -> Result<Option<i64>, StoreError> {
    let sql = "UPDATE mids SET last_seen_at = $1, heartbeat = $2, draining = CASE WHEN $3 = 1 THEN 1 ELSE draining END, \
               version = version + 1 WHERE id = $4 RETURNING version";
    let row = sqlx::query(sql)
        .bind(now)
        .bind(to_json(heartbeat)?)
        .bind(i64::from(heartbeat.draining))
        .bind(id)
        .fetch_optional(db)
        .await?;
    row.map(|row| row.try_get(0).map_err(StoreError::from)).transpose()
}

/// Heartbeats that say nothing new, of many MIDs: identifier and version. Returns those that were stored; the others
/// have another version, or somebody holds their rows. It waits for nobody, so nobody waits for it in turn.
pub(crate) async fn seen_again(store: &Store, now: i64, heard: &[(String, i64)]) -> Result<Vec<String>, StoreError> {
    let sql = if store.is_shared() {
        "WITH free AS (SELECT mids.id FROM mids JOIN json_to_recordset(CAST($2 AS json)) AS heard (id TEXT, \
         version BIGINT) ON heard.id = mids.id AND heard.version = mids.version FOR NO KEY UPDATE OF mids SKIP LOCKED) \
         UPDATE mids SET last_seen_at = $1 FROM free WHERE mids.id = free.id RETURNING mids.id"
    } else {
        "UPDATE mids SET last_seen_at = $1 WHERE (id, version) IN (SELECT json_extract(value, '$.id'), \
         json_extract(value, '$.version') FROM json_each($2)) RETURNING id"
    };
    let heard: Vec<_> = heard.iter().map(|(id, version)| serde_json::json!({ "id": id, "version": version })).collect();
    let rows = sqlx::query(sql).bind(now).bind(to_json(&heard)?).fetch_all(&store.writer).await?;
    rows.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}

pub(crate) async fn insert_enroll_token<'e>(
    db: impl Executor<'e, Database = Any>,
    id: &str,
    secret_hash: &str,
    name: Option<&str>,
    prevalidated: bool,
    expires_at: i64,
    mid_id: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO enroll_tokens (id, secret_hash, name, prevalidated, expires_at, mid_id) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(secret_hash)
    .bind(name)
    .bind(i64::from(prevalidated))
    .bind(expires_at)
    .bind(mid_id)
    .execute(db)
    .await?;
    Ok(())
}

/// What a one-time secret is good for.
#[derive(Clone, Debug)]
pub(crate) struct Enrollment {
    /// The name that the MID gets, whatever it asks for.
    pub(crate) name: Option<String>,
    /// The MID is validated at once.
    pub(crate) prevalidated: bool,
    /// The MID that gets a new key by it.
    pub(crate) mid_id: Option<String>,
}

/// Spends a one-time secret. `None`: unknown, used, expired.
pub(crate) async fn spend_enroll_token<'e>(
    db: impl Executor<'e, Database = Any>,
    secret_hash: &str,
    now: i64,
) -> Result<Option<Enrollment>, StoreError> {
    let row = sqlx::query(
        "UPDATE enroll_tokens SET used_at = $1 WHERE secret_hash = $2 AND used_at IS NULL AND expires_at > $1 \
         RETURNING name, prevalidated, mid_id",
    )
    .bind(now)
    .bind(secret_hash)
    .fetch_optional(db)
    .await?;
    match row {
        Some(row) => Ok(Some(Enrollment {
            name: row.try_get(0)?,
            prevalidated: row.try_get::<i64, _>(1)? == 1,
            mid_id: row.try_get(2)?,
        })),
        None => Ok(None),
    }
}

/// Notes whom a one-time secret admitted, and with which key.
pub(crate) async fn note_enrolled(
    tx: &mut sqlx::Transaction<'static, Any>,
    secret_hash: &str,
    mid_id: &str,
    public_key: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE enroll_tokens SET used_by = $1, used_key = $2 WHERE secret_hash = $3";
    sqlx::query(sql).bind(mid_id).bind(public_key).bind(secret_hash).execute(&mut **tx).await?;
    Ok(())
}

/// The MID that a one-time secret, which has not ended yet, admitted with this key, and that still has it.
pub(crate) async fn enrolled_before(
    tx: &mut sqlx::Transaction<'static, Any>,
    secret_hash: &str,
    public_key: &str,
    now: i64,
) -> Result<Option<MidRow>, StoreError> {
    let sql = format!(
        "{COLUMNS} WHERE public_key = $1 AND id IN (SELECT used_by FROM enroll_tokens WHERE secret_hash = $2 \
         AND used_key = $1 AND expires_at > $3)"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(public_key).bind(secret_hash).bind(now);
    query.fetch_optional(&mut **tx).await?.as_ref().map(mid).transpose()
}

/// Gives a MID another key; what was signed or issued for the old one is good no more, and who runs with it has no word.
pub(crate) async fn set_key(
    tx: &mut sqlx::Transaction<'static, Any>,
    id: &str,
    public_key: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE mids SET public_key = $1, incarnation = '', fenced = 0, version = version + 1 WHERE id = $2";
    sqlx::query(sql).bind(public_key).bind(id).execute(&mut **tx).await?;
    delete_tokens(&mut **tx, id).await
}

pub(crate) async fn insert_token<'e>(
    db: impl Executor<'e, Database = Any>,
    hash: &str,
    mid_id: &str,
    expires_at: i64,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO mid_tokens (token_hash, mid_id, expires_at) VALUES ($1, $2, $3)")
        .bind(hash)
        .bind(mid_id)
        .bind(expires_at)
        .execute(db)
        .await?;
    Ok(())
}

/// Whose token it is, and until when.
pub(crate) async fn token<'e>(
    db: impl Executor<'e, Database = Any>,
    hash: &str,
) -> Result<Option<(String, i64)>, StoreError> {
    let row = sqlx::query("SELECT mid_id, expires_at FROM mid_tokens WHERE token_hash = $1").bind(hash);
    match row.fetch_optional(db).await? {
        Some(row) => Ok(Some((row.try_get(0)?, row.try_get(1)?))),
        None => Ok(None),
    }
}

pub(crate) async fn delete_tokens<'e>(db: impl Executor<'e, Database = Any>, mid_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM mid_tokens WHERE mid_id = $1").bind(mid_id).execute(db).await?;
    Ok(())
}

/// False when this assertion was seen before.
pub(crate) async fn spend_assertion<'e>(
    db: impl Executor<'e, Database = Any>,
    mid_id: &str,
    jti: &str,
    expires_at: i64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO mid_assertions (mid_id, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT (mid_id, jti) DO NOTHING",
    )
    .bind(mid_id)
    .bind(jti)
    .bind(expires_at)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes tokens and assertions whose time is over.
pub(crate) async fn forget_expired(tx: &mut sqlx::Transaction<'static, Any>, now: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM mid_tokens WHERE expires_at < $1").bind(now).execute(&mut **tx).await?;
    sqlx::query("DELETE FROM mid_assertions WHERE expires_at < $1").bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// Removes one-time secrets that were used, or expired, before `before`.
pub(crate) async fn forget_enroll_tokens(
    tx: &mut sqlx::Transaction<'static, Any>,
    before: i64,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM enroll_tokens WHERE expires_at < $1 OR used_at < $1")
        .bind(before)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn mid(row: &AnyRow) -> Result<MidRow, StoreError> {
    Ok(MidRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        state: from_json(row.try_get(2)?)?,
        public_key: row.try_get(3)?,
        created_at: row.try_get(4)?,
        last_seen_at: row.try_get(5)?,
        heartbeat: row.try_get::<Option<String>, _>(6)?.map(|text| from_json(&text)).transpose()?,
        draining: row.try_get::<i64, _>(7)? == 1,
        version: row.try_get(8)?,
        incarnation: row.try_get(9)?,
        fenced: row.try_get(10)?,
        fenced_at: row.try_get(11)?,
    })
}
