//! The messages between a MID and its JAR host: a pure codec. `jar-host/host/dev/midward/jarhost/Frame.java` is the other
//! side.
//!
//! A frame is a u32 length of what follows, a u8 kind, a u16 number of fields, then for each field its key and its value
//! as a u32 length and UTF-8 bytes; a value's length of `0xFFFF_FFFF` is null. All numbers are big-endian.

use midward_core::Secret;
use zeroize::Zeroizing;

/// Longest frame, without its length prefix, in bytes.
pub const MAX_FRAME_LEN: usize = 1 << 20;
const NULL: u32 = u32::MAX;
const HEAD_LEN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    Configure = 1,
    Ready = 2,
    Unusable = 3,
    Call = 4,
    Result = 5,
    Failed = 6,
    /// The host asks to be replaced.
    Recycle = 7,
    /// The trampoline tells what the sandbox lacks, before the host's first frame.
    Notice = 8,
}

/// One message. Values are secrets until proven otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    fields: Vec<(String, Option<Secret>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame longer than {MAX_FRAME_LEN} bytes or with more than 65,535 fields")]
    TooLong,
    #[error("a frame that ends early or holds bytes after its end")]
    Truncated,
    #[error("a frame of an unknown kind")]
    UnknownKind,
    #[error("a key that is null or not UTF-8")]
    BadKey,
}

impl Frame {
    pub const fn new(kind: FrameKind) -> Self {
        Self { kind, fields: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Secret>) -> Self {
        self.fields.push((key.into(), Some(value.into())));
        self
    }

    /// Adds the field when there is a value.
    #[must_use]
    pub fn with_optional(self, key: &str, value: Option<impl Into<Secret>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    #[must_use]
    pub fn with_null(mut self, key: impl Into<String>) -> Self {
        self.fields.push((key.into(), None));
        self
    }

    /// The first field of that name; null counts as absent.
    pub fn value(&self, key: &str) -> Option<&Secret> {
        self.fields.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_ref())
    }

    /// The field as text, for fields that are no secret.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(Secret::expose_str)
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, Option<&Secret>)> {
        self.fields.iter().map(|(key, value)| (key.as_str(), value.as_ref()))
    }

    /// The frame with its length prefix, in a buffer that is never grown and wiped when dropped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let value_len = |value: &Option<Secret>| value.as_ref().map_or(0, Secret::len);
        let len = HEAD_LEN + self.fields.iter().map(|(key, value)| 8 + key.len() + value_len(value)).sum::<usize>();
        let count = u16::try_from(self.fields.len()).map_err(|_| FrameError::TooLong)?;
        if len > MAX_FRAME_LEN {
            return Err(FrameError::TooLong);
        }
        let mut out = Zeroizing::new(Vec::with_capacity(4 + len));
        out.extend(length(len)?.to_be_bytes());
        out.push(self.kind as u8);
        out.extend(count.to_be_bytes());
        for (key, value) in &self.fields {
            out.extend(length(key.len())?.to_be_bytes());
            out.extend(key.as_bytes());
            match value {
                None => out.extend(NULL.to_be_bytes()),
                Some(value) => {
                    out.extend(length(value.len())?.to_be_bytes());
                    out.extend(value.expose());
                }
            }
        }
        Ok(out)
    }

    /// Reads a length prefix and tells how many bytes follow.
    pub fn body_len(prefix: [u8; 4]) -> Result<usize, FrameError> {
        let len = usize::try_from(u32::from_be_bytes(prefix)).map_err(|_| FrameError::TooLong)?;
        match len {
            ..HEAD_LEN => Err(FrameError::Truncated),
            HEAD_LEN..=MAX_FRAME_LEN => Ok(len),
            _ => Err(FrameError::TooLong),
        }
    }

    /// Reads a frame without its length prefix.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut rest = Reader(body);
        let [kind] = rest.array()?;
        let count = u16::from_be_bytes(rest.array()?);
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind)?;
        let mut fields = Vec::new();
        for _ in 0..count {
            let key = rest.string()?.ok_or(FrameError::BadKey)?;
            let key = std::str::from_utf8(key).map_err(|_| FrameError::BadKey)?.to_owned();
            fields.push((key, rest.string()?.map(|value| Secret::new(value.to_vec()))));
        }
        if rest.0.is_empty() { Ok(Self { kind, fields }) } else { Err(FrameError::Truncated) }
    }
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Configure,
            2 => Self::Ready,
            3 => Self::Unusable,
            4 => Self::Call,
            5 => Self::Result,
            6 => Self::Failed,
            7 => Self::Recycle,
            8 => Self::Notice,
            _ => return None,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(FrameError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn string(&mut self) -> Result<Option<&'a [u8]>, FrameError> {
        let len = u32::from_be_bytes(self.array()?);
        if len == NULL {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| FrameError::Truncated)?;
        let (head, tail) = self.0.split_at_checked(len).ok_or(FrameError::Truncated)?;
        self.0 = tail;
        Ok(Some(head))
    }
}

fn length(len: usize) -> Result<u32, FrameError> {
    u32::try_from(len).map_err(|_| FrameError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_the_one_that_the_java_side_reads() {
        let frame = Frame::new(FrameKind::Call).with("id", "a").with_null("x");
        let encoded = frame.encode().expect("short");
        assert_eq!(&encoded[..], b"\0\0\0\x17\x04\0\x02\0\0\0\x02id\0\0\0\x01a\0\0\0\x01x\xff\xff\xff\xff");
    }

    #[test]
    fn limits_hold_both_ways() {
        let big = Frame::new(FrameKind::Result).with("k", "v".repeat(MAX_FRAME_LEN));
        assert_eq!(big.encode().err(), Some(FrameError::TooLong));
        assert_eq!(Frame::body_len([0, 0x10, 0, 1]), Err(FrameError::TooLong));
        assert_eq!(Frame::body_len([0, 0, 0, 2]), Err(FrameError::Truncated));
        assert_eq!(Frame::body_len([0, 0x10, 0, 0]), Ok(MAX_FRAME_LEN));
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", Frame::new(FrameKind::Result).with("pswd", "hunter2"));
        assert!(shown.contains("pswd") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec((".{0,20}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))), 0..20)) {
            let frame = fields.into_iter().fold(Frame::new(FrameKind::Result), |frame, (key, value)| match value {
                Some(value) => frame.with(key, Secret::new(value)),
                None => frame.with_null(key),
            });
            let encoded = frame.encode().expect("short");
            let (prefix, body) = encoded.split_first_chunk().expect("prefix");
            prop_assert_eq!(Frame::body_len(*prefix), Ok(body.len()));
            prop_assert_eq!(Frame::decode(body), Ok(frame));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(&bytes);
            let with_head: Vec<u8> = [5, 0, 3].into_iter().chain(bytes).collect();
            let _ = Frame::decode(&with_head);
        }
    }
}
