//! Entity tags of records (RFC 9110 8.8.3), and changes that depend on them (RFC 9110 13.1).

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use midward_core::{Failure, Hop};
use serde::Serialize;

use crate::keys::{hash, hash_text};
use crate::problem::Problem;

/// A strong tag: it changes with every field that is shown.
pub(super) fn of<T: Serialize>(record: &T) -> Result<String, Problem> {
    let text = crate::store::to_json(record)?;
    Ok(format!("\"{}\"", &hash_text(&hash(&text))[..22]))
}

/// A record with its tag; 304 when the caller has it already.
pub(super) fn answer<T: Serialize>(headers: &HeaderMap, record: &T) -> Result<Response, Problem> {
    let tag = of(record)?;
    let known = lists(headers, &header::IF_NONE_MATCH, &tag)? == Some(true);
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { Json(record).into_response() };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    Ok(response)
}

/// Whether the change depends on what is there.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH)
}

/// Refuses a change of something else than the caller has seen. `present`: what is there, if anything.
pub(super) fn check<T: Serialize>(headers: &HeaderMap, present: Option<&T>) -> Result<(), Problem> {
    let tag = present.map(of).transpose()?;
    // Nothing is there: no tag is its, `*` neither.
    let matches = |name| lists(headers, &name, tag.as_deref().unwrap_or_default());
    let (wanted, unwanted) = (matches(header::IF_MATCH)?, matches(header::IF_NONE_MATCH)?);
    if wanted == Some(false) || unwanted == Some(true) {
        let failure = Failure::permanent(
            Hop::Caller,
            "precondition_failed",
            "the record is not what If-Match or If-None-Match says: somebody else has changed, made or deleted it",
            "Get it again, look at the difference, and send the change with the new ETag.",
        );
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, failure));
    }
    Ok(())
}

/// Whether a header lists the tag, or is `*` and there is one; `None` when it is absent.
fn lists(headers: &HeaderMap, name: &HeaderName, tag: &str) -> Result<Option<bool>, Problem> {
    let mut found = None;
    for value in headers.get_all(name) {
        for listed in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            let opaque = listed.strip_prefix("W/").unwrap_or(listed);
            let is_tag = opaque.len() >= 2
                && opaque.starts_with('"')
                && opaque.ends_with('"')
                && !opaque[1..opaque.len() - 1].contains(['"', ' ']);
            if !is_tag && listed != "*" {
                let detail = format!("{name} is neither * nor a list of entity tags");
                return Err(Problem::bad_request("header_refused", detail, "Give an ETag as it came, in its quotes."));
            }
            let matches = if is_tag { opaque == tag } else { !tag.is_empty() };
            found = Some(found.unwrap_or(false) || matches);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn a_change_of_something_else_is_refused() {
        let tag = of(&"a").expect("a tag");
        assert_ne!(tag, of(&"b").expect("a tag"));
        for (headers, present, fine) in [
            (HeaderMap::new(), None, true),
            (with(header::IF_MATCH, &tag), Some("a"), true),
            (with(header::IF_MATCH, &format!("\"x\", {tag}")), Some("a"), true),
            (with(header::IF_MATCH, &tag), Some("b"), false),
            (with(header::IF_MATCH, &tag), None, false),
            (with(header::IF_MATCH, "*"), Some("b"), true),
            (with(header::IF_MATCH, "*"), None, false),
            (with(header::IF_NONE_MATCH, "*"), None, true),
            (with(header::IF_NONE_MATCH, "*"), Some("a"), false),
            (with(header::IF_MATCH, "a tag"), Some("a"), false),
            (with(header::IF_NONE_MATCH, ""), Some("a"), false),
        ] {
            assert_eq!(check(&headers, present.as_ref()).is_ok(), fine, "{headers:?} {present:?}");
        }
    }
}
