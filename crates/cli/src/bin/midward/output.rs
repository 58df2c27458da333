//! What the commands print.

use std::io::Write as _;

use serde_json::Value;

/// Prints to stdout. A reader that has gone away (`midward get mids | head`) is no error.
pub(crate) fn say(text: &str) {
    raw(format!("{text}\n").as_bytes());
}

pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Prints to stderr, which has nowhere to report its own failure to.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub(crate) fn json(value: &Value) {
    say(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A table of the records' simple fields.
pub(crate) fn table(items: &[Value], columns: &[&str]) {
    let cell = |item: &Value, column: &str| match item.get(column) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
    let width = |index: usize| {
        rows.iter().map(|row| row[index].chars().count()).chain([columns[index].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(padded.join("  ").trim_end());
    };
    line(&mut columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        line(&mut row.into_iter());
    }
}
