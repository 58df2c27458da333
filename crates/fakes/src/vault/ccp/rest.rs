//! `GET /SERVICE/api/Accounts`.

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{Answer, Fields, typed};
use crate::http::Body;

pub(super) fn question(query: &str, shown: Option<&str>) -> Result<Fields, Answer> {
    // Names in any case, spaces as `+` and as `%20`.
    let given: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    super::question(&given, shown)
}

pub(super) fn response(answer: &Answer, change_flag_is_boolean: bool) -> Response<Body> {
    let (status, body) = match answer {
        Answer::Account(account) | Answer::Fault { account, .. } => {
            (StatusCode::OK, Value::Object(properties(account, change_flag_is_boolean)))
        }
        Answer::Refused { code, text } => (status(code), json!({ "ErrorCode": code, "ErrorMsg": text })),
    };
    typed(status, "application/json; charset=utf-8", body.to_string())
}

fn properties(account: &Fields, change_flag_is_boolean: bool) -> Map<String, Value> {
    let property = |(name, value): &(String, String)| match name.as_str() {
        "Password" => ("Content".to_owned(), json!(value)),
        "PasswordChangeInProcess" => {
            let changing = value == "true";
            let text = if changing { "True" } else { "False" };
            (name.clone(), if change_flag_is_boolean { json!(changing) } else { json!(text) })
        }
        _ => (name.trim_start_matches("PassProps.").to_owned(), json!(value)),
    };
    account.0.iter().map(property).collect()
}

/// The documented statuses. Every other code comes with 400.
fn status(code: &str) -> StatusCode {
    match code {
        "APPAP004E" | "APPAP249E" | "APPAP324E" => StatusCode::NOT_FOUND,
        "APPAP306E" | "APPAP008E" | "ITATS982E" | "APPAP087E" | "APPAP132E" | "APPAP133E" | "APPAP425E" => {
            StatusCode::FORBIDDEN
        }
        "APPAP282E" | "APPAP286E" | "APPAP289E" | "APPAP291E" | "APPAP292E" | "APPAP297E" | "APPBC007E" => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::BAD_REQUEST,
    }
}
