//! One strict way to read a URL. What two parsers could read differently is refused.

use std::fmt;

use ::url::Url;

/// Longest URL, and longest path of a call, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// Why a URL or path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlFault {
    TooLong,
    /// Space, control character, backslash, or anything that is not ASCII (write a host in its `xn--` form).
    Character,
    Scheme,
    UserInfo,
    /// Not written in its canonical form: trailing dot, octal or hexadecimal address, percent-encoded, empty.
    Host,
    Port,
    Fragment,
    /// A base URL or origin with a query.
    Query,
    /// `.` or `..` as a segment, encoded or not, an encoded backslash, or bytes that are not UTF-8.
    Segment,
    /// The path of a call does not begin with exactly one `/`.
    Start,
    /// An origin with a path.
    Path,
    /// What came out is not below the base URL.
    Outside,
    Syntax,
}

impl fmt::Display for UrlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it is longer than 8192 bytes",
            Self::Character => "it holds a space, a control character, a backslash, or something that is not ASCII",
            Self::Scheme => "it does not begin with http:// or https://",
            Self::UserInfo => "it holds a user name or password",
            Self::Host => "its host is not in canonical form",
            Self::Port => "its port is not in canonical form",
            Self::Fragment => "it holds a fragment",
            Self::Query => "it holds a query",
            Self::Segment => "its path holds a dot segment, an encoded control character or backslash, or is not UTF-8",
            Self::Start => "it does not begin with exactly one slash",
            Self::Path => "it holds a path",
            Self::Outside => "it leaves the base URL",
            Self::Syntax => "it is not a URL",
        })
    }
}

/// Reads an absolute http or https URL. Its text must name the same place to every reader.
pub fn strict_url(text: &str) -> Result<Url, UrlFault> {
    check_characters(text)?;
    let (scheme, rest) = text.split_once("://").ok_or(UrlFault::Scheme)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(UrlFault::Scheme);
    }
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    if authority.contains('@') {
        return Err(UrlFault::UserInfo);
    }
    let (host, port) = split_port(authority)?;
    let url = Url::parse(text).map_err(|_| UrlFault::Syntax)?;
    let canonical = url.host_str().ok_or(UrlFault::Host)?;
    // The parser reads `0x7f.1`, `%6c`, `017700000001` as hosts too; only what it would write itself is taken.
    if !host.eq_ignore_ascii_case(canonical) || host.ends_with('.') {
        return Err(UrlFault::Host);
    }
    if port.is_some_and(|port| url.port_or_known_default().is_none_or(|known| known == 0 || known.to_string() != port))
    {
        return Err(UrlFault::Port);
    }
    check_segments(tail.split('?').next().unwrap_or_default())?;
    Ok(url)
}

/// `scheme://host[:port]` of a URL, in canonical form.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Reads an origin: a URL without path or query. The result is its canonical form.
pub(super) fn strict_origin(text: &str) -> Result<String, UrlFault> {
    let url = strict_url(text)?;
    match (url.path(), url.query()) {
        ("/", None) => Ok(origin(&url)),
        (_, Some(_)) => Err(UrlFault::Query),
        _ => Err(UrlFault::Path),
    }
}

/// Appends the path of a call (with its query) to a base URL. The result is on the base's origin and below its path.
pub fn join(base: &Url, path: &str) -> Result<Url, UrlFault> {
    check_characters(path)?;
    if base.query().is_some() {
        return Err(UrlFault::Query);
    }
    let plain = path.split('?').next().unwrap_or_default();
    if !plain.starts_with('/') || plain.starts_with("//") {
        return Err(UrlFault::Start);
    }
    check_segments(plain)?;
    let below = base.path().trim_end_matches('/');
    let text = format!("{}{below}{path}", origin(base));
    let url = Url::parse(&text).map_err(|_| UrlFault::Syntax)?;
    let inside = url.origin() == base.origin()
        && url.path().strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
        && url.path().matches('/').count() == below.matches('/').count() + plain.matches('/').count();
    if !inside {
        return Err(UrlFault::Outside);
    }
    // The client's own type must read it too.
    url.as_str().parse::<http::Uri>().map_err(|_| UrlFault::Syntax)?;
    Ok(url)
}

/// Whether `path` is `prefix` or below it.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    let stem = prefix.trim_end_matches('/');
    path.strip_prefix(stem).is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !prefix.ends_with('/')))
}

fn check_characters(text: &str) -> Result<(), UrlFault> {
    if text.len() > MAX_LEN {
        Err(UrlFault::TooLong)
    } else if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        Err(UrlFault::Character)
    } else if text.contains('#') {
        Err(UrlFault::Fragment)
    } else {
        Ok(())
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlFault> {
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority[after_host..].find(':') {
        Some(colon) => (&authority[..after_host + colon], Some(&authority[after_host + colon + 1..])),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(UrlFault::Host);
    }
    Ok((host, port))
}

/// Dot segments are refused however often they are encoded, and with path parameters too (`..;`, which some servers
/// strip before they resolve them).
fn check_segments(path: &str) -> Result<(), UrlFault> {
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let text = std::str::from_utf8(&bytes).map_err(|_| UrlFault::Segment)?;
        let dotted = text.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
        if dotted || text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(UrlFault::Segment);
        }
        let decoded = percent_decode(&bytes);
        if decoded.len() == bytes.len() {
            return Ok(());
        }
        bytes = decoded;
    }
}

/// Each round of decoding makes the text shorter, so that decoding again and again ends.
fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}
