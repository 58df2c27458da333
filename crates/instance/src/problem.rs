//! Errors of the HTTP API: problem details (RFC 9457) with the hop, a stable code and what to do next.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use midward_core::{Failure, Hop};
use serde_json::json;

use crate::store::StoreError;

/// After this, one who was sent away by an instance that stops may find another one.
const STOPPED_FOR: Duration = Duration::from_secs(2);
/// After this, a full queue may have moved.
const QUEUE_MOVES: Duration = Duration::from_secs(5);
/// After this, others may have ended.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// A failure and the HTTP status that carries it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) failure: Box<Failure>,
    pub(crate) request_id: Option<String>,
    /// `Retry-After` (RFC 9110 10.2.3), rounded up to seconds.
    pub(crate) retry_after: Option<Duration>,
    /// What the store said, when it failed.
    pub(crate) cause: Option<StoreError>,
}

/// The code of the problem that a response carries, for the audit.
#[derive(Clone, Debug)]
pub(crate) struct ProblemCode(pub(crate) String);

impl Problem {
    pub(crate) fn new(status: StatusCode, failure: Failure) -> Self {
        Self { status, failure: Box::new(failure), request_id: None, retry_after: None, cause: None }
    }

    pub(crate) fn with_request(mut self, id: &str) -> Self {
        self.request_id = Some(id.to_owned());
        self
    }

    /// The caller's own mistake.
    pub(crate) fn bad_request(code: &str, detail: impl Into<String>, action: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Failure::permanent(Hop::Caller, code, detail, action))
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        let code = format!("unknown_{}", what.to_lowercase().replace([' ', '-'], "_"));
        Self::new(
            StatusCode::NOT_FOUND,
            Failure::permanent(
                Hop::Caller,
                &code,
                format!("there is no {what} named {shown:?}"),
                "List what there is with `midward get`, and check the spelling.",
            ),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Failure::permanent(
                Hop::Caller,
                "body_too_large",
                format!("the body is larger than {limit} bytes"),
                "Send less at once, or raise `limits.body_bytes` of the instance and the MID Server.",
            ),
        )
    }

    /// No MID takes it now, and it cannot wait in the queue either.
    pub(crate) fn queue_full() -> Self {
        let failure = Failure::transient(
            Hop::Instance,
            "queue_full",
            "no MID Server takes the request now, and as many requests are queued as may be; it was not accepted",
            "Send it again after Retry-After. Look at the MIDs with `midward get mids`, or raise `limits.queued_requests` \
             or `limits.queued_bytes`.",
        );
        Self { retry_after: Some(QUEUE_MOVES), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, failure) }
    }

    /// Something that all share is used up for the moment.
    pub(crate) fn busy(detail: &str) -> Self {
        let action = "Send it again after Retry-After, and fewer at once; or raise the instance's `limits`.";
        let failure = Failure::transient(Hop::Instance, "busy", detail, action);
        Self { retry_after: Some(BUSY_FOR), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, failure) }
    }

    /// The instance takes nothing new.
    pub(crate) fn stopping() -> Self {
        Self::of_call(stopping())
    }

    /// The status for a failure that ended a call.
    pub(crate) fn of_call(failure: Failure) -> Self {
        let status = match (failure.hop, failure.code.as_str()) {
            (_, "expired" | "deadline" | "timeout") => StatusCode::GATEWAY_TIMEOUT,
            (Hop::Policy, _) => StatusCode::FORBIDDEN,
            (_, "no_mid" | "stopping") => StatusCode::SERVICE_UNAVAILABLE,
            (Hop::Caller, _) => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        };
        let is_stopping = failure.code == "stopping";
        Self { retry_after: is_stopping.then_some(STOPPED_FOR), ..Self::new(status, failure) }
    }
}

/// The instance stops, and the request was not sent.
pub(crate) fn stopping() -> Failure {
    Failure::transient(
        Hop::Instance,
        "stopping",
        "the instance is being stopped, and the request was not sent",
        "Send it again, to another instance or when this one runs again.",
    )
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        let (code, detail, action) = if matches!(error, StoreError::Uncertain(_)) {
            (
                "acceptance_unknown",
                "the instance's database was lost in the commit, or did not answer in time; the request may have been accepted, \
                 and run",
                "Ask for it by its request_id, or submit it again with the same idempotency key.",
            )
        } else {
            (
                "storage_failed",
                "the instance's database did not take or give the data; nothing was acknowledged",
                "Try again; when it stays, look into the instance's log and at its disk.",
            )
        };
        let failure = Failure::transient(Hop::Instance, code, detail, action);
        Self { cause: Some(error), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, failure) }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let failure = self.failure;
        let mut body = json!({
            "type": format!("urn:midward:problem:{}", failure.code),
            "title": format!("{} failed", failure.hop),
            "status": self.status.as_u16(),
            "detail": failure.detail,
            "hop": failure.hop,
            "code": failure.code,
            "action": failure.action,
            "persistence": failure.persistence,
        });
        if let Some(id) = self.request_id {
            body["request_id"] = id.into();
        }
        if let Some(reference) = failure.reference {
            body["reference"] = reference.into();
        }
        let mut response = (self.status, body.to_string()).into_response();
        response.extensions_mut().insert(ProblemCode(failure.code));
        if let Some(error) = self.cause {
            response.extensions_mut().insert(error);
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
        }
        response
    }
}
