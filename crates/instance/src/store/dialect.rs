//! What SQLite does differently from other databases.

use std::path::Path;

/// Run on every new connection. WAL lets readers go on beside the writer; `synchronous=FULL` makes a commit durable.
pub(super) const ON_CONNECT: &[&str] = &[
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA cache_size = -16384",
];

/// Ends the inner SELECT of the statement that claims requests; `FOR UPDATE SKIP LOCKED` where there are many writers.
pub(super) const SKIP_LOCKED: &str = "";

/// A parameter of a long list, the `number`th of the statement in order of appearance and counted from 1, as a value of
/// the SQL type `kind`. SQLite needs neither number nor type, and every numbered parameter has a name there, which costs
/// a search through all names at each bind.
pub(super) fn parameter(_number: usize, _kind: &str) -> String {
    "?".to_owned()
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
