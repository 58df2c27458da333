//! Whatever a token endpoint answers: no panic, and nothing that breaks a rule of the parser's.
//!
//! The first line of the input is the status, the lines up to an empty one are headers, the rest is the body.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use midward_core::{AccessToken, Secret, WallTime};
use midward_oauth::{Expected, TokenHttpReply, parse_reply};

fuzz_target!(|input: &[u8]| {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (&input[..0], input),
    };
    let mut lines = head.split(|&byte| byte == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.parse().ok());
    let mut headers = http::HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let reply = TokenHttpReply { status: status.unwrap_or(200), headers, body: Secret::new(body.to_vec()) };
    for dpop in [false, true] {
        judge(&reply, &Expected { dpop, ..Expected::scopes(&["read".to_owned()]) });
    }
});

fn judge(reply: &TokenHttpReply, expected: &Expected) {
    match parse_reply(reply, expected, WallTime::from_unix_millis(1_800_000_000_000)) {
        Ok(token) => {
            assert!((200..300).contains(&reply.status), "a token from a status that is no success");
            assert!(token.token.expose().len() <= AccessToken::MAX_LEN);
            assert!(token.token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Err(error) => {
            assert!(error.retry_after.is_none_or(|wait| wait <= Duration::from_mins(5)));
            // Nothing that the server wrote freely is shown.
            assert!(error.reason.len() < 200, "{}", error.reason);
        }
    }
}
