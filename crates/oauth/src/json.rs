//! A strict walk over a token reply: one object, no key twice at any level, depth at most 16, nothing after it.
//!
//! Values are borrowed as they stand in the body, which is wiped by its owner. No string that may hold a token goes
//! through a buffer of serde's.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Deepest nesting of objects and arrays, the reply itself included.
const MAX_DEPTH: usize = 16;

/// The members of a reply that matter, as they stand in the body.
#[derive(Default)]
pub(crate) struct Members<'a> {
    pub(crate) access_token: Option<&'a str>,
    pub(crate) token_type: Option<&'a str>,
    pub(crate) expires_in: Option<&'a str>,
    pub(crate) scope: Option<&'a str>,
    /// RFC 8693 2.2.1.
    pub(crate) issued_token_type: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    /// Okta's own form of `error`.
    pub(crate) error_code: Option<&'a str>,
    pub(crate) refresh_token: bool,
    pub(crate) id_token: bool,
}

/// Why a body is not a reply. Says nothing of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Empty,
    NotUtf8,
    NotJson,
    NotAnObject,
    DuplicateKey,
    TooDeep,
}

impl Malformed {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "its body is empty",
            Self::NotUtf8 => "its body is not UTF-8",
            Self::NotJson => "its body is not JSON",
            Self::NotAnObject => "its body is not a JSON object",
            Self::DuplicateKey => "its body holds a key twice",
            Self::TooDeep => "its body is nested too deeply",
        }
    }
}

pub(crate) fn parse(body: &[u8]) -> Result<Members<'_>, Malformed> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| Malformed::NotUtf8)?;
    let trimmed = text.trim_ascii_start();
    match trimmed.as_bytes().first() {
        None => return Err(Malformed::Empty),
        Some(b'{') => {}
        Some(b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => return Err(Malformed::NotAnObject),
        Some(_) => return Err(Malformed::NotJson),
    }
    let mut json = serde_json::Deserializer::from_str(trimmed);
    let members = json.deserialize_map(TopLevel).map_err(|error| classify(&error))?;
    json.end().map_err(|_| Malformed::NotJson)?;
    Ok(members)
}

/// The text of a JSON string of visible ASCII, in a buffer that is wiped and did not grow. `None` for anything else.
pub(crate) fn ascii_string(raw: &str) -> Option<Zeroizing<Vec<u8>>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'\\' => match bytes.next()? {
                escaped @ (b'"' | b'\\' | b'/') => escaped,
                b'u' => {
                    let digits = [bytes.next()?, bytes.next()?, bytes.next()?, bytes.next()?];
                    let code = std::str::from_utf8(&digits).ok().and_then(|hex| u32::from_str_radix(hex, 16).ok())?;
                    u8::try_from(code).ok()?
                }
                _ => return None,
            },
            other => other,
        };
        if !plain.is_ascii_graphic() && plain != b' ' {
            return None;
        }
        out.push(plain);
    }
    Some(out)
}

const DUPLICATE: &str = "duplicate key";
const DEEP: &str = "too deep";

fn classify(error: &serde_json::Error) -> Malformed {
    // serde_json appends the position to a custom message.
    let message = error.to_string();
    if message.starts_with(DUPLICATE) {
        Malformed::DuplicateKey
    } else if message.starts_with(DEEP) || message.starts_with("recursion limit") {
        Malformed::TooDeep
    } else {
        Malformed::NotJson
    }
}

struct TopLevel;

impl<'de> Visitor<'de> for TopLevel {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut seen = HashSet::new();
        let mut members = Members::default();
        while let Some(key) = map.next_key::<String>()? {
            let raw = map.next_value::<&'de RawValue>()?.get();
            if raw.starts_with(['{', '[']) {
                let mut nested = serde_json::Deserializer::from_str(raw);
                Strict { depth: 2 }.deserialize(&mut nested).map_err(|error| match classify(&error) {
                    Malformed::DuplicateKey => A::Error::custom(DUPLICATE),
                    Malformed::TooDeep => A::Error::custom(DEEP),
                    _ => A::Error::custom("not JSON"),
                })?;
            }
            let value = (raw != "null").then_some(raw);
            match key.as_str() {
                "access_token" => members.access_token = value,
                "token_type" => members.token_type = value,
                "expires_in" => members.expires_in = value,
                "scope" => members.scope = value,
                "issued_token_type" => members.issued_token_type = value,
                "error" => members.error = value,
                "errorCode" => members.error_code = value,
                "refresh_token" => members.refresh_token = value.is_some(),
                "id_token" => members.id_token = value.is_some(),
                _ => {}
            }
            if !seen.insert(key) {
                return Err(A::Error::custom(DUPLICATE));
            }
        }
        Ok(members)
    }
}

/// Walks a nested value for duplicate keys and depth, and keeps nothing.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth > MAX_DEPTH { Err(E::custom(DEEP)) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key) {
                return Err(A::Error::custom(DUPLICATE));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_levels_pass_and_seventeen_do_not() {
        let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(parse(nested(16).as_bytes()).is_ok());
        for depth in [17, 200, 5_000] {
            assert_eq!(parse(nested(depth).as_bytes()).map(|_| ()), Err(Malformed::TooDeep), "{depth}");
        }
    }

    #[test]
    fn escapes_of_visible_characters_are_undone() {
        assert_eq!(ascii_string(r#""a\/b\u0063\"\\""#).as_deref().map(Vec::as_slice), Some(br#"a/bc"\"#.as_slice()));
        for bad in [r#""a\n""#, r#""\u0000""#, r#""\u20ac""#, r#""\ud83d""#, "\"€\"", "12", "\""] {
            assert!(ascii_string(bad).is_none(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(body: Vec<u8>) {
            let _ = parse(&body).map(|_| ());
        }
    }
}
