//! What stands in a text column: the text itself, the text encrypted, or where its pieces are. Calls and outcomes begin
//! with a brace and paths with a slash, so no text of theirs is taken for another form.

use std::fmt::Write as _;

/// Before what is encrypted, and before the name of a set of pieces.
const SEALED: &str = "sealed.1.";
const PIECES: &str = "pieces.1.";

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column<'a> {
    /// It was removed, as the connection says.
    Removed,
    Plain(&'a str),
    /// Under the key of this name: base64.
    Sealed {
        key: &'a str,
        data: &'a str,
    },
    Pieces(Pieces<'a>),
    /// This program did not write it.
    Strange,
}

/// A text in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces<'a> {
    /// Under the key of this name, each for itself.
    pub(super) key: Option<&'a str>,
    /// Names the pieces among those of the request.
    pub(super) set: &'a str,
    pub(super) count: usize,
}

impl<'a> Column<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        if text.is_empty() {
            return Self::Removed;
        }
        if let Some(rest) = text.strip_prefix(SEALED) {
            return rest.split_once('.').map_or(Self::Strange, |(key, data)| Self::Sealed { key, data });
        }
        let Some(rest) = text.strip_prefix(PIECES) else { return Self::Plain(text) };
        let mut parts = rest.split('.');
        match (parts.next(), parts.next(), parts.next().and_then(|count| count.parse().ok()), parts.next()) {
            (Some(key), Some(set), Some(count), None) => {
                Self::Pieces(Pieces { key: Some(key).filter(|key| !key.is_empty()), set, count })
            }
            _ => Self::Strange,
        }
    }
}

pub(super) fn sealed(key: &str, data: &str) -> String {
    let mut text = String::with_capacity(SEALED.len() + key.len() + 1 + data.len());
    // Writing to a String cannot fail.
    let _ = write!(text, "{SEALED}{key}.{data}");
    text
}

impl Pieces<'_> {
    pub(super) fn text(&self) -> String {
        format!("{PIECES}{}.{}.{}", self.key.unwrap_or_default(), self.set, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_taken_for_it() {
        let pieces = Pieces { key: None, set: "outcome-3", count: 12 };
        assert_eq!(Column::of(&pieces.text()), Column::Pieces(pieces));
        let pieces = Pieces { key: Some("abcd-_12"), ..pieces };
        assert_eq!(Column::of(&pieces.text()), Column::Pieces(pieces));
        assert_eq!(Column::of(&sealed("k", "d.x")), Column::Sealed { key: "k", data: "d.x" });
        assert_eq!(Column::of(""), Column::Removed);
        for text in ["{}", "/sealed.1.a.b", "sealed.2.a.b"] {
            assert_eq!(Column::of(text), Column::Plain(text));
        }
        for text in ["sealed.1.a", "pieces.1..a.b", "pieces.1..a.1.x", "pieces.1."] {
            assert_eq!(Column::of(text), Column::Strange, "{text}");
        }
    }
}
