//! Multi-row `VALUES` lists. Statements come in a few sizes only, so that every one of them stays prepared.

use std::sync::Arc;

/// Splits `count` rows into pieces whose sizes are powers of two, at most [`LARGEST`].
pub(crate) fn pieces(mut count: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let piece = if count >= LARGEST { LARGEST } else { 1_usize << count.checked_ilog2()? };
        count -= piece;
        Some(piece)
    })
}

pub(crate) const LARGEST: usize = 64;

/// One statement in all its sizes.
#[derive(Debug)]
pub(crate) struct Sized(Vec<Arc<str>>);

impl Sized {
    /// `before`, then `rows` times a row of `columns` placeholders, then `after`. `shared` parameters come first
    /// (`$1` ..), so the rows' placeholders begin behind them. `casts` names the type of each column: a database
    /// cannot guess it in a list of values.
    pub(crate) fn new(before: &str, shared: usize, casts: &[&str], after: &str) -> Self {
        let mut sizes = Vec::new();
        let mut rows = 1;
        while rows <= LARGEST {
            let mut sql = before.to_owned();
            for row in 0..rows {
                sql.push_str(if row == 0 { "(" } else { ", (" });
                for (column, cast) in casts.iter().enumerate() {
                    use std::fmt::Write as _;
                    let number = shared + row * casts.len() + column + 1;
                    let comma = if column == 0 { "" } else { ", " };
                    let _ = write!(sql, "{comma}CAST(${number} AS {cast})");
                }
                sql.push(')');
            }
            sql.push_str(after);
            sizes.push(Arc::from(sql));
            rows *= 2;
        }
        Self(sizes)
    }

    /// The statement for a piece of [`pieces`].
    pub(crate) fn sql(&self, piece: usize) -> Arc<str> {
        self.0.get(piece.ilog2() as usize).cloned().unwrap_or_else(|| Arc::from(""))
    }
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
    fn placeholders_count_on_behind_the_shared_ones() {
        let sized = Sized::new("VALUES ", 1, &["TEXT", "BIGINT"], " END");
        assert_eq!(
            &*sized.sql(2),
            "VALUES (CAST($2 AS TEXT), CAST($3 AS BIGINT)), (CAST($4 AS TEXT), CAST($5 AS BIGINT)) END"
        );
    }
}
