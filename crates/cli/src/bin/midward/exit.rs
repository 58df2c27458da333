//! Errors of the commands: one line, and an exit code that says where it failed.

use std::process::ExitCode;

use midward_core::{Failure, Hop, Persistence};
use serde::Serialize;
use serde_json::Value;

/// The documented exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done (for `call`: the API answered 2xx or 3xx)
  1  the API answered 4xx or 5xx; its answer is printed
  2  wrong usage: arguments, files, or a request that is refused as it stands
  3  refused by the policy on the MID Server's host
  4  no MID Server can serve it, or the one that held it failed
  5  the resolver or the vault failed
  6  the authorization server failed
  7  the API could not be reached or did not answer in time
  8  the instance could not be reached or failed
  9  the API key is not valid or may not do this";

/// A failure, and the request that it is about where the instance names one.
#[derive(Debug, Serialize)]
pub(crate) struct Failed {
    #[serde(flatten)]
    failure: Failure,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    Failed(Box<Failed>),
    /// The API answered 4xx or 5xx: said already.
    ApiStatus,
}

impl CliError {
    pub(crate) fn usage(detail: impl Into<String>, action: impl Into<String>) -> Self {
        Failure::permanent(Hop::Caller, "usage", detail, action).into()
    }

    /// From a problem document (RFC 9457).
    pub(crate) fn problem(value: &Value) -> Self {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let hop = value.get("hop").and_then(|hop| serde_json::from_value(hop.clone()).ok()).unwrap_or(Hop::Instance);
        let optional = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let persistence = value.get("persistence").and_then(|it| serde_json::from_value(it.clone()).ok());
        let failure = Failure {
            hop,
            code: text("code"),
            detail: text("detail"),
            action: text("action"),
            // An answer of something that stands before the instance: nobody knows.
            persistence: persistence.unwrap_or(Persistence::Permanent),
            reference: optional("reference"),
        };
        Self::Failed(Box::new(Failed { failure, request_id: optional("request_id") }))
    }

    /// Says it on stderr and gives the exit code.
    pub(crate) fn exit(self, as_json: bool) -> ExitCode {
        match self {
            Self::ApiStatus => ExitCode::from(1),
            Self::Failed(failed) => {
                let told = if as_json { serde_json::to_string(&failed).unwrap_or_default() } else { failed.line() };
                crate::output::complain(&told);
                ExitCode::from(code(&failed.failure))
            }
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(Failed { failure, request_id: None }))
    }
}

impl Failed {
    fn line(&self) -> String {
        let Self { failure, request_id } = self;
        let unsaid = failure.reference.as_deref().filter(|reference| !failure.action.contains(*reference));
        let reference = unsaid.map(|it| format!(" Reference: {it}.")).unwrap_or_default();
        let request = request_id.as_ref().map(|id| format!(" Request: {id}.")).unwrap_or_default();
        format!("midward: {failure}{reference}{request}")
    }
}

fn code(failure: &Failure) -> u8 {
    match (failure.hop, failure.code.as_str()) {
        (_, "unauthorized" | "not_allowed") => 9,
        (_, "no_mid" | "expired") | (Hop::Mid, _) => 4,
        (_, "wait_over") | (Hop::Api, _) => 7,
        (Hop::Caller, _) | (_, "too_late_to_cancel") => 2,
        (Hop::Policy, _) => 3,
        (Hop::Resolver | Hop::Vault, _) => 5,
        (Hop::AuthorizationServer, _) => 6,
        (Hop::Instance, _) => 8,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_hop_has_its_exit_code() {
        let of = |hop, name| code(&Failure::permanent(hop, name, "", ""));
        assert_eq!(of(Hop::Caller, "unauthorized"), 9);
        assert_eq!(of(Hop::Instance, "no_mid"), 4);
        assert_eq!(of(Hop::Vault, "x"), 5);
        assert_eq!(of(Hop::Policy, "x"), 3);
        assert_eq!(of(Hop::AuthorizationServer, "x"), 6);
        assert_eq!(of(Hop::Api, "x"), 7);
    }

    #[test]
    fn the_instances_own_words_are_handed_on() {
        let problem = json!({
            "type": "urn:midward:problem:no_mid", "title": "instance failed", "status": 503, "hop": "instance",
            "code": "no_mid", "detail": "none is live", "action": "Start one.", "persistence": "transient",
            "request_id": "r-1", "reference": "ref-1",
        });
        let CliError::Failed(failed) = CliError::problem(&problem) else { panic!("a failure") };
        let told = serde_json::to_value(&failed).expect("JSON");
        for field in ["hop", "code", "detail", "action", "persistence", "request_id", "reference"] {
            assert_eq!(told[field], problem[field], "{field}");
        }
        let line = "midward: instance: none is live (no_mid). Start one. Reference: ref-1. Request: r-1.";
        assert_eq!(failed.line(), line);
        let CliError::Failed(own) = CliError::usage("no", "Yes.") else { panic!("a failure") };
        let told = serde_json::to_value(&own).expect("JSON");
        assert_eq!((told.get("request_id"), &told["persistence"]), (None, &json!("permanent")));
    }
}
