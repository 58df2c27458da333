//! Secrets and tokens: wiped on drop, never printed, never serialised.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Secret bytes. No `Display`, no `Serialize`; `Debug` is redacted; the buffer is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the buffer over. The caller must not have grown it while it was being filled: a `Vec` that reallocates
    /// leaves unwiped copies behind.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text; `None` when it is not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Length in bytes. A length is not a secret here: it is shown to help find a truncated value.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

/// An OAuth 2.0 access token. Guaranteed to be a legal `b64token` header value (RFC 6750 2.1 widened to visible ASCII).
/// Clones share one buffer, which is wiped when the last of them is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Arc<Secret>);

impl AccessToken {
    /// Longest token that is accepted, in bytes.
    pub const MAX_LEN: usize = 16 * 1024;

    /// `None` when the value is empty, longer than [`Self::MAX_LEN`] or holds anything but visible ASCII, so that no
    /// token can break out of its header.
    pub fn new(value: Secret) -> Option<Self> {
        let bytes = value.expose();
        let legal = !bytes.is_empty() && bytes.len() <= Self::MAX_LEN && bytes.iter().all(u8::is_ascii_graphic);
        legal.then(|| Self(Arc::new(value)))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_str().unwrap_or_default()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(redacted)");
        let token = AccessToken::new(Secret::from("eyJ.x.y")).expect("legal");
        assert_eq!(format!("{token:?}"), "AccessToken(redacted)");
    }

    #[test]
    fn a_token_cannot_break_out_of_its_header() {
        for bad in ["", "a b", "a\r\nX: y", "a\0b", "tök"] {
            assert!(AccessToken::new(Secret::from(bad)).is_none(), "{bad:?}");
        }
        assert!(AccessToken::new(Secret::new(vec![b'a'; AccessToken::MAX_LEN])).is_some());
        assert!(AccessToken::new(Secret::new(vec![b'a'; AccessToken::MAX_LEN + 1])).is_none());
    }
}
