//! Request headers that are not a caller's to set, and how an answer's headers are written. Instance and MID must agree:
//! what the instance takes in and the MID refuses would fail late.

/// They belong to the MID, to a connection, or to a proxy on the way (RFC 9110 7.6.1, RFC 7239 and what came before it).
/// A `Range` could cut an echoed token in two, past whoever looks for it; a server may ignore it (RFC 9110 14.2), so
/// nobody loses by its absence.
const CONSUMED: [&str; 27] = [
    "authorization",
    "client-ip",
    "connection",
    "content-length",
    "cookie",
    "cookie2",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-range",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "via",
    "x-client-ip",
    "x-forwarded",
    "x-real-ip",
];

/// Some servers take method, path or host from them, behind the back of whoever decided about these.
const OVERRIDES: [&str; 11] = [
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// What becomes of a request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// The caller's own: passed on.
    EndToEnd,
    /// Meant for the connection that it came on. Refused in a queued request, dropped from a synchronous call.
    Consumed,
    /// Would change what was decided. Always refused: without it the call would mean something else.
    Override,
}

/// The kind of a header, in any case. Servers that follow CGI read `_` as `-`.
pub fn header_kind(name: &str) -> HeaderKind {
    let name = name.to_ascii_lowercase().replace('_', "-");
    if OVERRIDES.contains(&name.as_str()) {
        HeaderKind::Override
    } else if CONSUMED.contains(&name.as_str()) || name.starts_with("x-forwarded-") {
        HeaderKind::Consumed
    } else {
        HeaderKind::EndToEnd
    }
}

/// A header's value as a message holds it: each byte is a character (ISO-8859-1), since HTTP does not say what bytes beyond
/// ASCII mean (RFC 9110 5.5).
pub fn header_text(value: &[u8]) -> String {
    value.iter().copied().map(char::from).collect()
}

/// The bytes of a value that [`header_text`] made. Of another text they are its UTF-8.
pub fn header_bytes(text: &str) -> Vec<u8> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    bytes.unwrap_or_else(|_| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_of_a_value_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(header_bytes(&header_text(&all)), all);
        assert_eq!(header_bytes(&header_text("grün €".as_bytes())), "grün €".as_bytes());
        assert_eq!(header_text(b"plain; q=1"), "plain; q=1");
        assert_eq!(header_bytes("€"), "€".as_bytes());
    }

    #[test]
    fn case_and_underscores_hide_nothing() {
        for name in [
            "Host",
            "X_Forwarded_For",
            "x-forwarded-host",
            "AUTHORIZATION",
            "Proxy_Authorization",
            "DPoP",
            "Range",
            "if_range",
        ] {
            assert_eq!(header_kind(name), HeaderKind::Consumed, "{name}");
        }
        assert_eq!(header_kind("X_HTTP_Method_Override"), HeaderKind::Override);
        assert_eq!(header_kind("X-Tenant"), HeaderKind::EndToEnd);
    }
}
