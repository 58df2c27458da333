//! Every code that a user can meet stands in the manual, and the manual lists none that is not there.
//!
//! The sources are read as text: a text literal in `snake_case`, in a file that makes failures, is a code unless it is
//! listed here as something else. So a code that came by a table or a new helper function is found as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PRODUCT: [&str; 8] = ["core", "wire", "net", "oauth", "resolvers", "mid", "instance", "cli"];

/// Words in files that make failures, which are no codes: keys of documents, states, parameters, words on the wire.
const NO_CODES: [&str; 88] = [
    "access_token",
    "actor_token",
    "actor_token_type",
    "age_file",
    "aim_client_absent",
    "aim_client_failed",
    "aim_client_output",
    "aim_client_timeout",
    "api_key",
    "app_id",
    "applies_to",
    "authorization_servers",
    "base_url",
    "by_method",
    "certificate_file",
    "circuit_open",
    "client_assertion",
    "client_assertion_type",
    "client_credentials",
    "client_deleted",
    "client_id",
    "client_made",
    "client_rotated",
    "client_secret",
    "connection_timeout",
    "cyberark_ccp",
    "cyberark_cli",
    "cyberark_sdk",
    "default_drain_seconds",
    "default_max_concurrent",
    "default_max_profiles",
    "default_max_reply_bytes",
    "default_revoke_seconds",
    "destination_unavailable",
    "dry_run",
    "enroll_token_made",
    "expires_at",
    "expires_in",
    "expires_in_seconds",
    "finished_at",
    "grant_type",
    "hashicorp_vault",
    "http_request_denied",
    "http_request_error",
    "instance_checkpoint",
    "invalid_request",
    "jar_deleted",
    "jar_host_dir",
    "jar_put",
    "key_file",
    "key_id",
    "max_body",
    "mid_changed",
    "mid_enrolled",
    "mid_rekeyed",
    "oauth_entities",
    "oauth_entity",
    "oauth_entity_profile",
    "oauth_entity_profiles",
    "one_day",
    "one_hour",
    "overlap_seconds",
    "pfx_file",
    "pfx_password_file",
    "policy_file",
    "policy_id",
    "private_key",
    "program_version",
    "proxy_internal_response",
    "record_deleted",
    "record_put",
    "refresh_token",
    "rekey_token_made",
    "request_redriven",
    "requested_token_type",
    "revocation_url",
    "secret_key",
    "secret_version",
    "service_account",
    "snake_case",
    "subject_token",
    "subject_token_type",
    "systemd_credentials",
    "token_requests",
    "token_url",
    "user_name",
    "vault_code",
    "wait_ms",
];

#[test]
fn every_code_is_in_the_manual() {
    let manual = words_in_backticks(&(manual("errors.md") + &manual("policy.md")));
    let codes = codes();
    assert!(codes.len() > 100, "only {} codes were found: did the constructors of failures change?", codes.len());
    let missing: Vec<_> = codes.iter().filter(|(code, _)| !manual.contains(*code)).collect();
    assert!(missing.is_empty(), "put these codes into docs/src/errors.md: {missing:#?}");
}

#[test]
fn the_manual_lists_no_code_that_is_gone() {
    let literals: BTreeSet<String> =
        sources().iter().flat_map(|(_, text)| literals(text).into_iter().map(|(_, literal, _)| literal)).collect();
    let gone: Vec<String> = manual("errors.md")
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next().map(words_in_backticks))
        .flatten()
        // `unknown_` and the kind of record are put together when it happens.
        .filter(|code| is_code(code) && !literals.contains(code) && !code.starts_with("unknown_"))
        .collect();
    assert!(gone.is_empty(), "docs/src/errors.md lists codes that nothing gives: {gone:?}");
}

/// The codes and where each is made.
fn codes() -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for (file, text) in sources() {
        if !text.contains("Failure") && !text.contains("Problem") {
            continue;
        }
        for (before, literal, after) in literals(&text) {
            // `Failure::permanent(Hop::Caller, "usage"` is a code though it is one word; a trace's words are not.
            let constructed = before.strip_suffix(',').is_some_and(|rest| {
                let name = rest.trim_end_matches(|c: char| c.is_alphanumeric() || c == ':');
                let hop = &rest[name.len()..];
                (hop == "hop" || hop.starts_with("Hop::")) && !name.ends_with("push(")
            });
            let key = after.starts_with(':') || before.ends_with('[') || before.ends_with("get(");
            let word = literal.contains('_') && !key && !NO_CODES.contains(&&*literal);
            if is_code(&literal) && (constructed || word) {
                codes.insert(literal, file.display().to_string());
            }
        }
    }
    codes
}

fn is_code(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The product's own source files, without comments and tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for name in PRODUCT {
        collect(&repository().join("crates").join(name).join("src"), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_test {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            files.push((path, code.collect::<Vec<_>>().join("\n")));
        }
    }
}

/// Text literals with what stands before and behind them, without white space. An escaped quote ends no literal.
fn literals(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = text[at..].find('"').map(|offset| at + offset) {
        let mut end = start + 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        // The character literal '"' opens nothing.
        if start > 0 && bytes[start - 1] == b'\'' && bytes.get(start + 1) == Some(&b'\'') {
            at = start + 1;
            continue;
        }
        let Some(literal) = text.get(start + 1..end) else { break };
        let before = text.get(at..start).unwrap_or_default().trim_end().to_owned();
        let after = text.get(end + 1..).unwrap_or_default().trim_start().chars().take(2).collect();
        found.push((before, literal.to_owned(), after));
        at = end + 1;
    }
    found
}

fn words_in_backticks(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn manual(file: &str) -> String {
    std::fs::read_to_string(repository().join("docs/src").join(file)).expect("a file of the manual")
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
