//! Looks for a secret in bytes: as it is, and in the encodings in which it could have leaked.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which needle, by its place in the list. Never its text: findings get printed.
    pub needle: usize,
    /// The encoding's name.
    pub encoding: &'static str,
    /// Where in the haystack, in bytes.
    pub offset: usize,
}

/// The byte strings that betray `needle`, one for each encoding that can be told from the others.
///
/// For base64 at each of the three shifts, these are the digits which `needle` alone decides: the neighbours' bits are
/// cut off, so it is found inside any longer text.
pub fn encodings(needle: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8_lossy(needle);
    let hex = |upper: bool| -> Vec<u8> {
        needle
            .iter()
            .flat_map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }.into_bytes())
            .collect()
    };
    let percent = |upper: bool| -> Vec<u8> {
        needle
            .iter()
            .flat_map(|byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }.into_bytes())
            .collect()
    };
    let all = vec![
        ("raw", needle.to_vec()),
        ("base64 shift 0", shifted(needle, 0, false)),
        ("base64 shift 1", shifted(needle, 1, false)),
        ("base64 shift 2", shifted(needle, 2, false)),
        ("base64url shift 0", shifted(needle, 0, true)),
        ("base64url shift 1", shifted(needle, 1, true)),
        ("base64url shift 2", shifted(needle, 2, true)),
        ("hex lower", hex(false)),
        ("hex upper", hex(true)),
        ("percent, every byte, upper", percent(true)),
        ("percent, every byte, lower", percent(false)),
        ("percent, RFC 3986", crate::vault::line::percent_encode(&text).into_bytes()),
        ("form", url::form_urlencoded::byte_serialize(needle).collect::<String>().into_bytes()),
        ("JSON", json(&text)),
        ("JSON, slashes escaped", String::from_utf8_lossy(&json(&text)).replace('/', "\\/").into_bytes()),
        ("XML", xml(&text, "&apos;", "&quot;")),
        ("XML, numeric quotes", xml(&text, "&#39;", "&#34;")),
        ("UTF-16LE", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16BE", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("Debug", debug(&text)),
        ("reversed", needle.iter().rev().copied().collect()),
    ];
    let mut distinct: Vec<(&'static str, Vec<u8>)> = Vec::with_capacity(all.len());
    for (name, bytes) in all {
        if !bytes.is_empty() && !distinct.iter().any(|(_, known)| *known == bytes) {
            distinct.push((name, bytes));
        }
    }
    distinct
}

/// All findings of all needles, the first place of each encoding only.
pub fn scan(haystack: &[u8], needles: &[&[u8]]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (needle, bytes) in needles.iter().enumerate() {
        for (encoding, encoded) in encodings(bytes) {
            if let Some(offset) = find(haystack, &encoded) {
                findings.push(Finding { needle, encoding, offset });
            }
        }
    }
    findings
}

/// Where `needle` begins in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        let at = from + haystack.get(from..)?.iter().position(|byte| *byte == first)?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn shifted(needle: &[u8], shift: usize, url_safe: bool) -> Vec<u8> {
    let padded = [vec![0; shift], needle.to_vec()].concat();
    let engine = if url_safe { URL_SAFE_NO_PAD } else { STANDARD_NO_PAD };
    let digits = engine.encode(&padded).into_bytes();
    // Bits before the needle reach into one digit more; so do the bits after it, unless a group of three ends there.
    let start = [0, 2, 3][shift];
    let end = padded.len() * 8 / 6;
    digits.get(start..end).map(<[u8]>::to_vec).unwrap_or_default()
}

fn json(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

/// What `{:?}` writes between its quotes.
fn debug(text: &str) -> Vec<u8> {
    let quoted = format!("{text:?}");
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

fn xml(text: &str, apostrophe: &str, quote: &str) -> Vec<u8> {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', apostrophe)
        .replace('"', quote)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    /// Has something for every encoding to change; at least one digit differs between the two base64 alphabets.
    const SECRET: &str = "s3cr\"et/<'&>+%\\ \n??>>~~\u{1b}\u{fc}";

    #[test]
    fn every_encoding_is_found_when_planted() {
        let all = encodings(SECRET.as_bytes());
        assert_eq!(all.len(), 21, "one of the encodings does not differ from the others for this secret");
        for (name, bytes) in all {
            let haystack = [b"before ".as_slice(), &bytes, b" after"].concat();
            let findings = scan(&haystack, &[b"something else", SECRET.as_bytes()]);
            let expected = Finding { needle: 1, encoding: name, offset: 7 };
            assert!(findings.contains(&expected), "{name}: {findings:?}");
        }
    }

    #[test]
    fn what_other_encoders_write_is_found_inside_longer_text() {
        for before in ["", "a", "ab", "abc", "client:"] {
            let text = format!("{before}{SECRET} and more");
            for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                let findings = scan(encoded.as_bytes(), &[SECRET.as_bytes()]);
                assert!(findings.iter().any(|finding| finding.encoding.starts_with("base64")), "{before}: {encoded}");
            }
        }
        let log = format!("{:?}", Some(SECRET));
        assert!(scan(log.as_bytes(), &[SECRET.as_bytes()]).iter().any(|finding| finding.encoding == "Debug"));
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let haystack: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        assert_eq!(scan(&haystack, &[SECRET.as_bytes()]), []);
    }
}
