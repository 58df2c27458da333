//! Multi-row `VALUES` lists. Statements come in a few sizes only, so that every one of them stays prepared.

use std::sync::Arc;

use super::dialect::Dialect;

/// Splits `count` rows into pieces whose sizes are powers of two, at most [`LARGEST`].
pub(crate) fn pieces(mut count: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let piece = if count >= LARGEST { LARGEST } else { 1_usize << count.checked_ilog2()? };
        count -= piece;
        Some(piece)
    })
}

pub(crate) const LARGEST: usize = 64;

/// One statement in all its sizes, for each database.
#[derive(Debug)]
pub(crate) struct Sized {
    sqlite: Vec<Arc<str>>,
    postgres: Vec<Arc<str>>,
}

impl Sized {
    /// `before`, then `rows` times a row of parameters of the types `columns`, then each of `after`: a parameter's type
    /// and the text behind it. Parameters are bound in the order in which they appear.
    pub(crate) fn new(before: &str, columns: &[&str], end: &str, after: &[(&str, &str)]) -> Self {
        let sizes = |dialect| sizes(dialect, before, columns, end, after);
        Self { sqlite: sizes(Dialect::Sqlite), postgres: sizes(Dialect::Postgres) }
    }

    /// The statement for a piece of [`pieces`].
    pub(crate) fn sql(&self, dialect: Dialect, piece: usize) -> Arc<str> {
        let sizes = match dialect {
            Dialect::Sqlite => &self.sqlite,
            Dialect::Postgres => &self.postgres,
        };
        sizes.get(piece.ilog2() as usize).cloned().unwrap_or_else(|| Arc::from(""))
    }
}

fn sizes(dialect: Dialect, before: &str, columns: &[&str], end: &str, after: &[(&str, &str)]) -> Vec<Arc<str>> {
    let mut sizes = Vec::new();
    let mut rows = 1;
    while rows <= LARGEST {
        let mut sql = before.to_owned();
        let mut number = 0;
        let mut parameter = |sql: &mut String, kind| {
            number += 1;
            sql.push_str(&dialect.parameter(number, kind));
        };
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for (column, kind) in columns.iter().enumerate() {
                sql.push_str(if column == 0 { "" } else { ", " });
                parameter(&mut sql, kind);
            }
            sql.push(')');
        }
        sql.push_str(end);
        for (kind, text) in after {
            parameter(&mut sql, kind);
            sql.push_str(text);
        }
        sizes.push(Arc::from(sql));
        rows *= 2;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_and_are_powers_of_two() {
        for count in 0..300 {
            let all: Vec<usize> = pieces(count).collect();
            assert_eq!(all.iter().sum::<usize>(), count);
            assert!(all.iter().all(|piece| piece.is_power_of_two() && *piece <= LARGEST));
        }
    }

    #[test]
    fn every_size_has_its_rows_and_what_stands_around_them() {
        let sized =
            Sized::new("VALUES ", &["TEXT", "BIGINT"], " WHERE x = ", &[("TEXT", " AND y = "), ("TEXT", " END")]);
        assert_eq!(&*sized.sql(Dialect::Sqlite, 2), "VALUES (?, ?), (?, ?) WHERE x = ? AND y = ? END");
        assert_eq!(
            &*sized.sql(Dialect::Postgres, 1),
            "VALUES (CAST($1 AS TEXT), CAST($2 AS BIGINT)) WHERE x = CAST($3 AS TEXT) AND y = CAST($4 AS TEXT) END"
        );
        assert_eq!(sized.sql(Dialect::Sqlite, 64).matches("(?, ?)").count(), 64);
    }
}
