//! What a caller may put into a request and an administrator into a record. The MID checks again.

mod records;

use midward_core::check_name;
use midward_wire::{HeaderKind, header_kind};

use crate::problem::Problem;

pub(crate) use records::{cluster, connection, credential, entity, profile};

const FIX: &str = "Correct the request.";

/// What becomes of a request header; `Midward-*` is for the instance itself.
pub(crate) fn kind_of(name: &str) -> HeaderKind {
    if name.len() >= 8 && name.is_char_boundary(8) && name[..8].eq_ignore_ascii_case("midward-") {
        return HeaderKind::Consumed;
    }
    header_kind(name)
}

/// Response headers that are not handed to a synchronous caller: RFC 9110 7.6.1, cookies, and what the instance
/// itself says.
pub(crate) fn is_dropped_reply_header(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-connection",
        "content-length",
        "set-cookie",
        "set-cookie2",
        "x-content-type-options",
        "content-security-policy",
        "proxy-status",
        "alt-svc",
        "strict-transport-security",
        "clear-site-data",
        "nel",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
    ];
    let lower = name.to_ascii_lowercase();
    NAMES.contains(&lower.as_str()) || lower.starts_with("midward-")
}

pub(crate) fn method(method: &str) -> Result<(), Problem> {
    let token = !method.is_empty() && method.len() <= 20 && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !token || matches!(method, "CONNECT" | "TRACE") {
        return Err(Problem::bad_request(
            "method_refused",
            "the method is not one that is passed on (CONNECT and TRACE never are)",
            "Use GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE, in capitals.",
        ));
    }
    Ok(())
}

/// Headers of a queued request.
pub(crate) fn headers(headers: &[(String, String)]) -> Result<(), Problem> {
    if headers.len() > 100 || headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 32 * 1024 {
        return Err(Problem::bad_request(
            "headers_too_large",
            "more than 100 headers, or more than 32 KiB of them",
            FIX,
        ));
    }
    for (name, value) in headers {
        let clean = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
        if !clean {
            return Err(Problem::bad_request(
                "header_refused",
                "a header's name or value holds characters that no header may hold (such as CR, LF or NUL)",
                FIX,
            ));
        }
        if kind_of(name) != HeaderKind::EndToEnd {
            return Err(Problem::bad_request(
                "header_refused",
                format!("header {} is not the caller's to set", name.to_ascii_lowercase()),
                "Leave it out: the MID Server sets what the call needs.",
            ));
        }
    }
    Ok(())
}

/// Path and query below a connection's base URL.
pub(crate) fn path(path: &str) -> Result<(), Problem> {
    let refuse = |detail: &str| {
        Err(Problem::bad_request(
            "path_refused",
            detail,
            "Give the path below the connection's base URL, such as /v1/items?limit=1.",
        ))
    };
    if !path.starts_with('/') {
        return refuse("the path does not begin with a slash");
    }
    if path.len() > 8192 {
        return refuse("the path is longer than 8192 bytes");
    }
    if path.starts_with("//") {
        return refuse("the path begins with two slashes, which names another host");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>')) {
        return refuse("the path holds a backslash, a fragment, a space, a control or a non-ASCII character");
    }
    let only_path = path.split('?').next().unwrap_or_default();
    let lower = only_path.to_ascii_lowercase();
    if ["%5c", "%00", "%2f", "%0a", "%0d"].iter().any(|escape| lower.contains(escape)) {
        return refuse("the path holds an encoded slash, backslash, line end or NUL");
    }
    let decoded = lower.replace("%2e", ".");
    // `%252e` would become `%2e` at a server that decodes twice.
    if decoded.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
        || lower.contains("%252e")
    {
        return refuse("the path holds a `.` or `..` segment");
    }
    Ok(())
}

pub(crate) fn name(what: &str, name: &str) -> Result<(), Problem> {
    check_name(name)
        .map_err(|error| Problem::bad_request("invalid_name", format!("{what}: {error}"), "Choose another name."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_connection_are_refused() {
        for bad in [
            "",
            "x",
            "http://evil/x",
            "//evil/x",
            "/\\evil",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/..",
            "/.",
            "/..;x/a",
            "/a#b",
            "/a b",
            "/a%5cb",
            "/%2fevil",
            "/a\r\nX: y",
            "/a%0d%0aX",
            "/ü",
            "/%252e%252e/x",
        ] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        for good in ["/", "/v1/items?x=../y&z=1", "/a.b/..c", "/a%20b", "/a:b@c", "/a//b"] {
            assert!(path(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn headers_that_are_not_the_callers_are_refused() {
        for bad in [
            ("Authorization", "x"),
            ("Proxy-Authorization", "x"),
            ("host", "x"),
            ("Content-Length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("Expect", "100-continue"),
            ("Cookie", "a=b"),
            ("X-Forwarded-For", "1"),
            ("X_Real_IP", "1"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Midward-Trace", "1"),
            ("X-A", "a\r\nB: c"),
            ("X-A", "a\0"),
            ("X A", "a"),
            ("X\r\nA", "a"),
            ("", "a"),
        ] {
            assert!(headers(&[(bad.0.to_owned(), bad.1.to_owned())]).is_err(), "{bad:?}");
        }
        assert!(headers(&[("X-Tenant".to_owned(), "grün, 1".to_owned())]).is_ok());
    }

    #[test]
    fn methods() {
        for bad in ["", "CONNECT", "TRACE", "get", "A B"] {
            assert!(method(bad).is_err(), "{bad:?}");
        }
        assert!(method("PATCH").is_ok());
    }
}
