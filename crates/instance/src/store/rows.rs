//! Many rows in one statement. SQLite gets multi-row `VALUES` lists in a few sizes, so that each of them stays prepared.
//! PostgreSQL gets one parameter of JSON that the server unrolls: one statement and one round trip for a whole batch,
//! whatever its size, and nothing to plan but a function.

use std::sync::Arc;

use serde::Serialize;

use super::{StoreError, to_json};

/// Splits `count` rows into pieces whose sizes are powers of two, at most [`LARGEST`].
pub(crate) fn pieces(mut count: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let piece = if count >= LARGEST { LARGEST } else { 1_usize << count.checked_ilog2()? };
        count -= piece;
        Some(piece)
    })
}

pub(crate) const LARGEST: usize = 64;

/// Text of rows after which another statement begins, in bytes: PostgreSQL takes less than 1 GiB at once.
const LARGEST_TEXT: usize = 16 * 1024 * 1024;

/// One statement for SQLite in all its sizes.
#[derive(Debug)]
pub(crate) struct Sized(Vec<Arc<str>>);

impl Sized {
    /// `before`, then rows of `columns` parameters, then `after`. Parameters are bound in the order in which they
    /// appear: a numbered one has a name in SQLite, which costs a search through all names at each bind.
    pub(crate) fn new(before: &str, columns: usize, after: &str) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        let sizes = std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= LARGEST);
        Self(sizes.map(|rows| format!("{before}{}{after}", vec![row.as_str(); rows].join(", ")).into()).collect())
    }

    /// The statement for a piece of [`pieces`].
    pub(crate) fn sql(&self, piece: usize) -> Arc<str> {
        self.0.get(piece.ilog2() as usize).cloned().unwrap_or_else(|| Arc::from(""))
    }
}

/// Rows as JSON arrays for PostgreSQL's `json_to_recordset`: one text, unless it becomes too large.
pub(crate) fn texts<T: Serialize>(rows: impl Iterator<Item = T>) -> Result<Vec<String>, StoreError> {
    joined(rows.map(|row| to_json(&row)), ['[', ']'], LARGEST_TEXT)
}

/// Rows as JSON objects by their identifiers, which differ.
pub(crate) fn keyed_texts<'a, T: Serialize>(
    rows: impl Iterator<Item = (&'a str, T)>,
) -> Result<Vec<String>, StoreError> {
    let rows = rows.map(|(id, row)| Ok(format!("{}:{}", to_json(&id)?, to_json(&row)?)));
    joined(rows, ['{', '}'], LARGEST_TEXT)
}

fn joined(
    rows: impl Iterator<Item = Result<String, StoreError>>,
    [open, close]: [char; 2],
    most: usize,
) -> Result<Vec<String>, StoreError> {
    let mut texts: Vec<String> = Vec::new();
    for row in rows {
        let row = row?;
        match texts.last_mut().filter(|text| text.len() + row.len() < most) {
            Some(text) => {
                text.push(',');
                text.push_str(&row);
            }
            None => texts.push(format!("{open}{row}")),
        }
    }
    for text in &mut texts {
        text.push(close);
    }
    Ok(texts)
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
        let sized = Sized::new("VALUES ", 2, " WHERE x = ?");
        assert_eq!(&*sized.sql(1), "VALUES (?, ?) WHERE x = ?");
        assert_eq!(&*sized.sql(2), "VALUES (?, ?), (?, ?) WHERE x = ?");
        assert_eq!(sized.sql(64).matches("(?, ?)").count(), 64);
    }

    #[test]
    fn rows_are_one_text_until_it_is_too_large() {
        assert_eq!(texts(std::iter::empty::<i32>()).expect("JSON"), Vec::<String>::new());
        assert_eq!(texts(["a", "b\"", "c"].iter()).expect("JSON"), [r#"["a","b\"","c"]"#]);
        assert_eq!(keyed_texts([("a", 1), ("b\"", 2)].into_iter()).expect("JSON"), [r#"{"a":1,"b\"":2}"#]);
        let numbers = ["11", "22", "33"].map(|number| Ok(number.to_owned()));
        assert_eq!(joined(numbers.into_iter(), ['[', ']'], 6).expect("JSON"), ["[11,22]", "[33]"]);
    }
}
