//! Which requests a list shows.

use sqlx::{Any, AssertSqlSafe, Executor, Row as _};

use super::StoreError;

/// All that is given must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) clients: [Option<&'a str>; 2],
    pub(crate) connection: Option<&'a str>,
    pub(crate) state: Option<i64>,
    /// Only those that failed after their last attempt.
    pub(crate) dead: bool,
    /// Older than the request of this identifier; empty: from the newest.
    pub(crate) before: &'a str,
}

/// Identifiers, the newest first.
pub(crate) async fn ids<'e>(
    db: impl Executor<'e, Database = Any>,
    filter: &Filter<'_>,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let mut conditions = vec!["id > ''".to_owned()];
    let mut texts = Vec::new();
    let [one, other] = filter.clients;
    let before = Some(filter.before).filter(|before| !before.is_empty());
    for (condition, text) in
        [("client_id =", one), ("client_id =", other), ("connection =", filter.connection), ("id <", before)]
    {
        if let Some(text) = text {
            texts.push(text);
            conditions.push(format!("{condition} ${}", texts.len()));
        }
    }
    if let Some(state) = filter.state {
        // As text of the statement: the indexes of unfinished requests are for states by number.
        conditions.push(format!("state = {state}"));
    }
    if filter.dead {
        conditions.push("dead = 1".to_owned());
    }
    let sql = format!("SELECT id FROM requests WHERE {} ORDER BY id DESC LIMIT {limit}", conditions.join(" AND "));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for text in texts {
        query = query.bind(text);
    }
    query.fetch_all(db).await?.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}
