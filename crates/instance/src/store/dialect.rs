//! What SQLite and PostgreSQL do differently. All other SQL is written once.

use std::path::Path;

use sqlx::{Any, Transaction};

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The database of an open transaction.
    pub(super) fn of(tx: &Transaction<'static, Any>) -> Self {
        if tx.backend_name() == "PostgreSQL" { Self::Postgres } else { Self::Sqlite }
    }

    /// Run on every new connection. WAL lets SQLite's readers go on beside the writer; with `synchronous=FULL`, or
    /// `synchronous_commit` on, a commit is durable before it is acknowledged, whatever the server's default is.
    pub(super) const fn on_connect(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &[
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA busy_timeout = 5000",
                "PRAGMA wal_autocheckpoint = 4000",
                "PRAGMA cache_size = -16384",
            ],
            Self::Postgres => &[
                "SET synchronous_commit = on",
                "SET statement_timeout = '30s'",
                "SET lock_timeout = '10s'",
                "SET idle_in_transaction_session_timeout = '60s'",
                // A plan that was made while a table was empty reads all of it, and would be kept while it grows to
                // millions of rows: each statement is planned for what is there.
                "SET plan_cache_mode = force_custom_plan",
            ],
        }
    }

    /// Run besides on each connection of the queue, whose few hot statements find each row by its identifier. To plan
    /// them takes PostgreSQL as long as to execute them, so their plans are kept; and a plan that is kept never reads
    /// a whole table, however small it was when the plan was made. Rows leave the queue's indexes all the time: a plain
    /// index scan marks the entries of those that are gone, so that nobody visits their rows again, while a bitmap scan would
    /// visit all that are gone since the last vacuum, each time.
    pub(super) const fn on_queue_connect(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &[],
            Self::Postgres => &[
                "SET plan_cache_mode = force_generic_plan",
                "SET enable_seqscan = off",
                "SET enable_bitmapscan = off",
                // A table without a fitting index is read all the same, at a price that would have the plan compiled.
                "SET jit = off",
            ],
        }
    }

    /// Begins a transaction of the queue in which each statement is planned for what is there.
    pub(super) const fn begin_planning(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN; SET LOCAL plan_cache_mode = force_custom_plan",
        }
    }

    /// Ends the inner SELECT of the statement that claims requests: where there are several writers, none waits for
    /// the rows that another one is about to take.
    pub(super) const fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Finds a table by its name.
    pub(super) const fn finds_table(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1",
            Self::Postgres => {
                "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = $1"
            }
        }
    }

    /// A migration's text, which is written for SQLite.
    pub(super) fn migration(self, sql: &'static str) -> String {
        match self {
            Self::Sqlite => sql.to_owned(),
            Self::Postgres => sql.replace(" BLOB", " BYTEA"),
        }
    }
}

/// Whether an error's code (SQLite's number, PostgreSQL's SQLSTATE) says that the same may work again: broken
/// connections, a server that stops, starts or has just become a read-only standby, conflicts with others. One of these is
/// a unique value (23505): another replica has just stored the same idempotency key, which is found the next time.
pub(super) fn is_passing(code: &str) -> bool {
    let busy = matches!(code, "5" | "6" | "261" | "262" | "517");
    busy || code.starts_with("08")
        || matches!(
            code,
            "57P01" | "57P02" | "57P03" | "57014" | "53300" | "40001" | "40P01" | "55P03" | "25006" | "23505"
        )
}

/// Whether an error's code is one of SQLite's for a disk that failed: READONLY, IOERR, CORRUPT, FULL, NOTADB. The low byte is
/// the kind; SQLSTATEs have five characters, and no code of SQLite's has as many. CANTOPEN is none of them: it is also
/// what a program without file descriptors gets, and that passes.
pub(super) fn is_disk(code: &str) -> bool {
    code.len() < 5 && code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 8 | 10 | 11 | 13 | 26))
}

/// The connection URL of a database file.
pub(super) fn url(path: &Path) -> String {
    // Everything that could end or change the path part of a URL is percent-encoded.
    let mut url = String::from("sqlite://");
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_') {
            url.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url.push_str("?mode=rwc");
    url
}
