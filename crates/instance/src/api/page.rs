//! Lists in pages.

use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::check;
use crate::problem::Problem;

const USUAL: u32 = 100;
const LARGEST: u32 = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    #[serde(default)]
    pub(super) limit: Option<u32>,
    /// Name of the last item of the page before.
    #[serde(default)]
    pub(super) after: Option<String>,
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    limit: u32,
    pub(super) after: String,
}

impl Page {
    pub(super) fn of(query: &PageQuery) -> Result<Self, Problem> {
        query.after.as_deref().map_or(Ok(()), |after| check::name("after", after))?;
        Ok(Self { limit: limit(query.limit)?, after: query.after.clone().unwrap_or_default() })
    }

    /// How many items to read: one more than are shown tells whether there is another page.
    pub(super) fn to_read(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// `next` is there when the list goes on; it is the `after` (or `before`) of the next page.
    pub(super) fn answer<T: Serialize>(&self, mut items: Vec<T>, name: impl Fn(&T) -> String) -> Json<Value> {
        let shown = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let goes_on = items.len() > shown;
        items.truncate(shown);
        let next = items.last().filter(|_| goes_on).map(name);
        let mut answer = json!({ "items": items });
        if let Some(next) = next {
            answer["next"] = next.into();
        }
        Json(answer)
    }
}

pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(USUAL);
    if (1..=LARGEST).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_request(
        "invalid_query",
        format!("limit is not between 1 and {LARGEST}"),
        "Ask for fewer, and follow `next`.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_there_as_long_as_the_list_goes_on() {
        let page = Page::of(&PageQuery { limit: Some(2), after: None }).expect("a page");
        let answer = |items: &[&str]| page.answer(items.to_vec(), |name| (*name).to_owned()).0;
        assert_eq!(answer(&["a", "b", "c"]), json!({ "items": ["a", "b"], "next": "b" }));
        assert_eq!(answer(&["a", "b"]), json!({ "items": ["a", "b"] }));
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
    }
}
