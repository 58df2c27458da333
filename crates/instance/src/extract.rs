//! Parts of a request, refused in the API's own form of error.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The query's parameters.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        no_zero_byte(parts)?;
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error: QueryRejection| {
            Problem::bad_request(
                "invalid_query",
                format!("the query is not understood: {}", error.body_text()),
                "See /api/v1/openapi.json for what this path takes.",
            )
        })
    }
}

/// The variable parts of the path.
#[derive(Debug)]
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        no_zero_byte(parts)?;
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|_: PathRejection| {
            Problem::bad_request(
                "path_refused",
                "a part of the path is not UTF-8 after percent-decoding",
                "Write names as they are.",
            )
        })
    }
}

/// Not every database has it in texts.
fn no_zero_byte(parts: &Parts) -> Result<(), Problem> {
    if parts.uri.path_and_query().is_some_and(|text| text.as_str().contains("%00")) {
        return Err(Problem::bad_request("path_refused", "the path or query holds a zero byte", "Leave it out."));
    }
    Ok(())
}
