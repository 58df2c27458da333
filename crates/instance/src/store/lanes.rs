//! Lanes: the queued requests that the same MIDs may take on the same terms. Which lanes there are, which connections
//! wait in one, and the oldest request of each are found by one step each in the index `requests_due`, however much
//! waits. What is delayed is not in it before its time.

use std::sync::{Arc, LazyLock};

use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};

use super::StoreError;
use super::leases::ids;
use super::requests::{NewRequest, Priority};

type Tx = Transaction<'static, Any>;

/// What the index holds.
pub(super) const DUE: &str = "state = 0 AND delayed_until IS NULL";

/// A lane's text, as the index has it.
pub(super) const LANE: &str = "(CASE WHEN priority = 0 THEN '0' ELSE '1' END \
                               || CASE WHEN ordered = 1 THEN '1' ELSE '0' END || ' ' || resolver || ' ' \
                               || CASE WHEN limited = 1 THEN connection ELSE '' END || ' ' \
                               || CASE WHEN length(mids) > 1500 THEN '+' || connection || substr(mids, 1, 600) \
                               || substr(mids, length(mids) - 599) ELSE mids END)";
/// Of a list of MIDs that stands in a lane's text as it is, in bytes.
const LONGEST: usize = 1500;
/// Of a longer one, its first and its last bytes.
const END: usize = 600;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) text: String,
    pub(crate) interactive: bool,
    /// The first of `mids` that can serve it takes it.
    pub(crate) ordered: bool,
    pub(crate) resolver: String,
    /// The one connection in it, which has a concurrency or a rate; `None`: connections without.
    pub(crate) limited: Option<String>,
    /// `,id,id,` or empty for any MID.
    pub(crate) mids: String,
    /// The list of MIDs is not in the text as a whole, so another one may have the same.
    pub(crate) is_long: bool,
}

impl Lane {
    /// Where a request waits when nobody takes it at once.
    pub(crate) fn of(request: &NewRequest) -> Self {
        let interactive = request.priority == Priority::Interactive;
        let limited = request.limited.then(|| request.connection.clone());
        let NewRequest { ordered, resolver, mids, connection, .. } = request;
        let is_long = mids.len() > LONGEST;
        let list = match mids.len().checked_sub(END).and_then(|last| mids.get(last..)).filter(|_| is_long) {
            Some(last) => format!("+{connection}{}{last}", mids.get(..END).unwrap_or_default()),
            None => mids.clone(),
        };
        let text = format!(
            "{}{} {resolver} {} {list}",
            u8::from(!interactive),
            u8::from(*ordered),
            limited.as_deref().unwrap_or_default()
        );
        Self { text, interactive, ordered: *ordered, resolver: resolver.clone(), limited, mids: mids.clone(), is_long }
    }

    /// From a lane's text. What a long list of MIDs is has to be looked up then.
    fn parse(text: String) -> Result<Self, StoreError> {
        let parts: Vec<&str> = text.splitn(4, ' ').collect();
        let &[flags, resolver, limited, mids] = parts.as_slice() else {
            return Err(StoreError::Corrupt(format!("a lane that is none: {text:?}")));
        };
        Ok(Self {
            interactive: flags.starts_with('0'),
            ordered: flags.ends_with('1'),
            resolver: resolver.to_owned(),
            limited: (!limited.is_empty()).then(|| limited.to_owned()),
            mids: mids.to_owned(),
            is_long: mids.starts_with('+'),
            text,
        })
    }
}

/// The different values of `what`, in order, each by one step in an index: those after the parameter `after`, as many as
/// the parameter `most` says.
fn steps(what: &str, among: &str, after: &str, most: &str) -> Arc<str> {
    let next = |after: &str| {
        format!("(SELECT {what} FROM requests WHERE {among} AND {what} > {after} ORDER BY {what} LIMIT 1)")
    };
    format!(
        "WITH RECURSIVE steps (step, number) AS (SELECT {}, 1 UNION ALL SELECT {}, number + 1 FROM steps \
         WHERE step IS NOT NULL AND number < {most}) SELECT step FROM steps WHERE step IS NOT NULL",
        next(after),
        next("steps.step")
    )
    .into()
}

static LANES: LazyLock<Arc<str>> = LazyLock::new(|| steps(LANE, DUE, "$1", "$2"));

/// The next `most` lanes after one in which something is due, in the database's order.
pub(crate) async fn after(tx: &mut Tx, lane: &str, most: usize) -> Result<Vec<Lane>, StoreError> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = sqlx::query(AssertSqlSafe(LANES.clone())).bind(lane).bind(most).fetch_all(&mut **tx).await?;
    let mut lanes = Vec::with_capacity(rows.len());
    for row in rows {
        let mut lane = Lane::parse(row.try_get(0)?)?;
        if lane.is_long {
            lane.mids = mids(tx, &lane.text).await?;
        }
        lanes.push(lane);
    }
    Ok(lanes)
}

/// The list of MIDs that the first request of a lane has.
async fn mids(tx: &mut Tx, lane: &str) -> Result<String, StoreError> {
    let sql = format!("SELECT mids FROM requests WHERE {DUE} AND {LANE} = $1 LIMIT 1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(lane).fetch_optional(&mut **tx).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
}

static CONNECTIONS: LazyLock<Arc<str>> =
    LazyLock::new(|| steps("connection", &format!("{DUE} AND {LANE} = $1"), "$2", "$3"));

/// The next `most` connections after one of which requests wait in a lane, in the database's order.
pub(crate) async fn connections(tx: &mut Tx, lane: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let query = sqlx::query(AssertSqlSafe(CONNECTIONS.clone())).bind(lane).bind(after).bind(most);
    ids(&query.fetch_all(&mut **tx).await?)
}

/// Makes requests due whose time has come, the earliest first and at most `most` of them. Returns how many.
pub(crate) async fn make_due(tx: &mut Tx, now: i64, most: i64) -> Result<u64, StoreError> {
    let sql = "UPDATE requests SET delayed_until = NULL WHERE id IN (SELECT id FROM requests WHERE state = 0 \
               AND delayed_until IS NOT NULL AND delayed_until <= $1 ORDER BY delayed_until LIMIT $2)";
    Ok(sqlx::query(sql).bind(now).bind(most).execute(&mut **tx).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use midward_core::BootTime;
    use midward_fakes::postgres::Postgres;

    use super::super::Store;
    use super::super::dialect::Dialect;
    use super::super::leases::{self, Claim, MOST_BYTES, Portion, claim_sql};
    use super::super::requests::insert;
    use super::*;
    use crate::at_rest::Kept;
    use crate::config::{PostgresConfig, StoreConfig};

    const NOW: i64 = 1_000_000;

    fn request(id: &str, connection: &str) -> NewRequest {
        let call = Arc::new("{}".to_owned());
        let kept = Kept { column: Arc::clone(&call), set: String::new(), pieces: Arc::default() };
        let arrived = BootTime::from_duration(std::time::Duration::ZERO);
        let plain = NewRequest::plain(id, connection, (call, kept), NOW, arrived);
        NewRequest { lease_ms: 1000, expires_at: 2 * NOW, ..plain }
    }

    /// An empty database of each kind.
    async fn on_each(test: impl AsyncFn(&Store)) {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Postgres::start_without_fsync().expect("a server");
        let url = server.new_database().expect("a database");
        let sqlite = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
        let postgres = PostgresConfig { url, password_file: None, connections: 4 };
        for config in [StoreConfig { postgres: Some(postgres), ..sqlite.clone() }, sqlite] {
            let store = Store::open(&config).await.expect("a store");
            test(&store).await;
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_lane_has_the_same_text_here_and_in_the_index() {
        on_each(async |store| {
            let many = |last: &str| format!(",{},{last},", vec!["0123456789abcdef0123456789abcdef"; 60].join(","));
            let mut all = vec![request("1", "plain")];
            all.push(NewRequest { priority: Priority::Interactive, ..request("2", "plain") });
            all.push(NewRequest { ordered: true, mids: ",a,b,".to_owned(), ..request("3", "plain") });
            all.push(NewRequest { limited: true, ..request("4", "crm") });
            all.push(NewRequest { mids: many("a"), ..request("5", "wide") });
            all.push(NewRequest { mids: many("b"), ordered: true, limited: true, ..request("6", "wide") });
            let mut expected: Vec<Lane> = all.iter().map(Lane::of).collect();
            all.push(NewRequest { not_before: 2 * NOW, delayed_until: Some(2 * NOW), ..request("7", "later") });
            all.push(request("8", "plain"));
            let mut tx = store.begin().await.expect("a transaction");
            insert(&mut tx, &all).await.expect("stored");
            let mut found = after(&mut tx, "", 100).await.expect("lanes");
            // In parts, from each one to the next.
            let mut parts = after(&mut tx, "", 4).await.expect("lanes");
            assert_eq!(parts.len(), 4);
            let rest = after(&mut tx, &parts[3].text, 4).await.expect("lanes");
            parts.extend(rest);
            assert_eq!(parts, found);
            for lanes in [&mut found, &mut expected] {
                lanes.sort_by(|a, b| a.text.cmp(&b.text));
            }
            assert_eq!(found, expected);
            // What is delayed is there when its time has come.
            assert_eq!(make_due(&mut tx, 2 * NOW - 1, 10).await.expect("done"), 0);
            let plain = Lane::of(&all[0]);
            assert_eq!(connections(&mut tx, &plain.text, "", 9).await.expect("names"), ["plain"]);
            assert_eq!(make_due(&mut tx, 2 * NOW, 10).await.expect("done"), 1);
            assert_eq!(connections(&mut tx, &plain.text, "", 9).await.expect("names"), ["later", "plain"]);
            assert_eq!(connections(&mut tx, &plain.text, "later", 9).await.expect("names"), ["plain"]);
        })
        .await;
    }

    #[tokio::test]
    async fn of_a_long_list_of_mids_only_those_in_it_get_something() {
        on_each(async |store| {
            let list = |middle: &str| {
                let ends = vec!["0123456789abcdef0123456789abcdef"; 30].join(",");
                format!(",{ends},{middle},{ends},")
            };
            let (mine, other) = (list("mine"), list("abcd"));
            let all = [
                NewRequest { mids: mine, ..request("1", "wide") },
                NewRequest { mids: other, created_at: NOW - 1, ..request("2", "wide") },
            ];
            let mut tx = store.begin().await.expect("a transaction");
            insert(&mut tx, &all).await.expect("stored");
            assert_eq!(Lane::of(&all[0]).text, Lane::of(&all[1]).text, "they differ where the text does not");
            let portion = Portion { lane: Arc::new(Lane::of(&all[0])), connection: "wide".to_owned(), most: 9 };
            let claim = Claim { mid_id: "mine", incarnation: "i", batch: 1, bytes: MOST_BYTES, now: NOW };
            let (leased, counts) = leases::claim(&mut tx, &claim, &[portion]).await.expect("leases");
            assert_eq!(leased.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), ["1"]);
            assert_eq!(counts, HashMap::from([("wide".to_owned(), 1)]));
        })
        .await;
    }

    #[tokio::test]
    async fn what_waits_is_found_by_steps_in_an_index() {
        on_each(async |store| {
            let mut tx = store.begin().await.expect("a transaction");
            let many = |from: usize, edit: &dyn Fn(&mut NewRequest)| {
                let numbered = (from..from + 3000).map(|number| {
                    let mut request = request(&format!("{number:08}"), &format!("c{}", number % 50));
                    edit(&mut request);
                    request
                });
                numbered.collect::<Vec<_>>()
            };
            let (is_down, later) = (",down,".to_owned(), 2 * NOW);
            insert(&mut tx, &many(0, &|request| request.mids.clone_from(&is_down))).await.expect("stored");
            insert(&mut tx, &many(3000, &|request| request.delayed_until = Some(later))).await.expect("stored");
            insert(&mut tx, &many(6000, &|request| request.limited = true)).await.expect("stored");
            let is_postgres = Dialect::of(&tx) == Dialect::Postgres;
            if is_postgres {
                sqlx::query("ANALYZE requests").execute(&mut *tx).await.expect("done");
            }
            let lane = Arc::new(Lane::of(&request("x", "c1")));
            let portion =
                |connection: &str| Portion { lane: Arc::clone(&lane), connection: connection.into(), most: 8 };
            let claim = claim_sql(Dialect::of(&tx), &[portion("c1"), portion("c2")]);
            for sql in [LANES.to_string(), CONNECTIONS.to_string(), claim] {
                let plan = plan(&mut tx, is_postgres, &sql).await;
                assert!(plan.contains("requests_due"), "{plan}");
                for bad in ["Seq Scan on requests", "Bitmap", "SCAN requests", "requests_by_", "requests_queued"] {
                    assert!(!plan.contains(bad), "{bad}: {plan}");
                }
            }
        })
        .await;
    }

    /// How the database would do it, whatever the parameters are.
    async fn plan(tx: &mut Tx, is_postgres: bool, sql: &str) -> String {
        use sqlx::Executor as _;
        if !is_postgres {
            let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&mut **tx).await;
            let details =
                rows.expect("a plan").iter().map(|row| row.try_get::<String, _>(3).expect("text")).collect::<Vec<_>>();
            return details.join("\n");
        }
        let number = (1..20).rev().find(|number| sql.contains(&format!("${number}"))).expect("parameters");
        let parameters = vec!["NULL"; number].join(", ");
        let text = format!(
            "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE looked AS {sql}; EXPLAIN EXECUTE looked ({parameters})"
        );
        let mut plan = Vec::new();
        for statement in text.split("; ") {
            let rows = tx.fetch_all(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await.expect("done");
            plan.extend(rows.iter().filter_map(|row| row.try_get::<String, _>(0).ok()));
        }
        tx.execute("DEALLOCATE looked").await.expect("done");
        plan.join("\n")
    }
}
