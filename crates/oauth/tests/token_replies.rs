//! Every folder of `token-replies` is a reply, what it must become, and why.
//!
//! `reply.json` is the body of a 200; `reply.http` is status line, headers, an empty line and the body.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use midward_core::{Secret, WallTime};
use midward_oauth::{Expected, ReplyClass, TokenHttpReply, TokenReply, parse_reply};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    why: String,
    #[serde(default)]
    asked: Vec<String>,
    #[serde(default)]
    accept_narrower_scope: bool,
    #[serde(default)]
    dpop: bool,
    token: Option<String>,
    token_len: Option<usize>,
    lifetime_s: Option<u64>,
    scopes: Option<BTreeSet<String>>,
    code: Option<String>,
    class: Option<String>,
    retry_after_s: Option<u64>,
    server_error: Option<String>,
}

#[test]
fn every_reply_becomes_what_its_case_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/token-replies");
    let mut cases = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).expect("the folder of cases") {
        let path = entry.expect("a case").path();
        if !path.is_dir() {
            continue;
        }
        let case: Case = serde_json::from_slice(&fs::read(path.join("expected.json")).expect("expected.json"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!case.why.is_empty(), "{}", path.display());
        if let Err(difference) = check(&case, &reply(&path)) {
            wrong.push(format!("{}: {difference} ({})", path.display(), case.why));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 60, "only {cases} cases were found");
}

fn check(case: &Case, reply: &TokenHttpReply) -> Result<(), String> {
    let (accept_narrower_scope, dpop) = (case.accept_narrower_scope, case.dpop);
    let expected = Expected { accept_narrower_scope, dpop, ..Expected::scopes(&case.asked) };
    // 2026-11-24 00:00:00 UTC
    match (parse_reply(reply, &expected, WallTime::from_unix_millis(1_795_478_400_000)), &case.code) {
        (Ok(TokenReply { token, lifetime, scopes }), None) => {
            let as_said = case.token.as_ref().is_none_or(|text| text == token.expose())
                && case.token_len.is_none_or(|len| len == token.expose().len())
                && case.lifetime_s.map(Duration::from_secs) == Some(lifetime)
                && case.scopes.as_ref().is_none_or(|said| *said == scopes);
            if as_said { Ok(()) } else { Err(format!("{lifetime:?} {scopes:?}")) }
        }
        (Err(error), Some(code)) => {
            let class = match error.class {
                ReplyClass::Transient => "transient",
                ReplyClass::Permanent => "permanent",
                ReplyClass::InvalidClient => "invalid_client",
                ReplyClass::RateLimited => "rate_limited",
            };
            let as_said = error.code == code
                && Some(class) == case.class.as_deref()
                && error.retry_after == case.retry_after_s.map(Duration::from_secs)
                && error.server_error == case.server_error.as_deref();
            // Whatever the server wrote freely stays out.
            let text = format!("{error} {error:?}");
            if as_said && !text.contains("hunter2") { Ok(()) } else { Err(text) }
        }
        (Ok(_), Some(code)) => Err(format!("accepted, not {code}")),
        (Err(error), None) => Err(format!("{error:?}")),
    }
}

fn reply(case: &Path) -> TokenHttpReply {
    let Ok(raw) = fs::read(case.join("reply.http")) else {
        let body = fs::read(case.join("reply.json")).expect("reply.json or reply.http");
        return TokenHttpReply { status: 200, headers: http::HeaderMap::new(), body: Secret::new(body) };
    };
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n").expect("an empty line");
    let head = std::str::from_utf8(&raw[..end]).expect("ASCII head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines
        .map(|line| line.split_once(": ").expect("name: value"))
        .map(|(name, value)| {
            let name: http::HeaderName = name.parse().expect("a header name");
            (name, value.parse::<http::HeaderValue>().expect("a header value"))
        })
        .collect();
    TokenHttpReply { status: status.expect("a status"), headers, body: Secret::new(raw[end + 4..].to_vec()) }
}
