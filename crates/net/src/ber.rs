//! Elements of BER (X.690), as far as PKCS #12 files need them: tags of one byte; lengths that are given, or marked by an
//! end; octet strings in one piece or in several.

use std::borrow::Cow;

/// How deep elements of unknown length may lie in each other.
const MAX_DEPTH: usize = 16;

#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    tag: u8,
    pub(crate) content: &'a [u8],
}

impl<'a> Element<'a> {
    /// Its elements.
    pub(crate) const fn reader(self) -> Reader<'a> {
        Reader::new(self.content)
    }
}

/// Reads one element after another.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next element, if it has this tag; else nothing is taken.
    pub(crate) fn next_of(&mut self, tag: u8) -> Option<Element<'a>> {
        let (element, rest) = element(self.0, MAX_DEPTH)?;
        if element.tag != tag {
            return None;
        }
        self.0 = rest;
        Some(element)
    }

    /// The next element's octets, if it has this tag; also where they come in pieces (the tag then says "constructed").
    pub(crate) fn next_octets(&mut self, tag: u8) -> Option<Cow<'a, [u8]>> {
        if let Some(whole) = self.next_of(tag) {
            return Some(Cow::Borrowed(whole.content));
        }
        let mut pieces = self.next_of(tag | 0x20)?.reader();
        let mut octets = Vec::new();
        while let Some(piece) = pieces.next_of(0x04) {
            octets.extend_from_slice(piece.content);
        }
        pieces.0.is_empty().then_some(Cow::Owned(octets))
    }
}

/// The first element, and what follows it.
fn element(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    if first == 0x80 {
        return until_end(tag, rest, depth.checked_sub(1)?);
    }
    let (len, rest) =
        if first < 0x80 { (usize::from(first), rest) } else { long_length(usize::from(first & 0x7f), rest)? };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((Element { tag, content }, rest))
}

/// Elements up to the mark of two zero bytes.
fn until_end(tag: u8, bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let mut rest = bytes;
    while !rest.starts_with(&[0, 0]) {
        rest = element(rest, depth)?.1;
    }
    let content = &bytes[..bytes.len() - rest.len()];
    Some((Element { tag, content }, &rest[2..]))
}

fn long_length(count: usize, rest: &[u8]) -> Option<(usize, &[u8])> {
    if count > 4 {
        return None;
    }
    let (digits, rest) = rest.split_at_checked(count)?;
    Some((digits.iter().fold(0, |len, digit| (len << 8) | usize::from(*digit)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_of_each_form_are_read() {
        let long = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        assert_eq!(Reader::new(&long).next_octets(0x04).as_deref(), Some(&[7; 256][..]));
        let pieces = b"\x24\x80\x04\x01a\x04\x02bc\x00\x00\x05\x00";
        let mut reader = Reader::new(pieces);
        assert_eq!(reader.next_octets(0x04).as_deref(), Some(&b"abc"[..]));
        assert!(reader.next_of(0x05).is_some() && reader.next_of(0x05).is_none());
        for bad in [&b"\x04"[..], b"\x04\x02a", b"\x1f\x01a", b"\x04\x85\0\0\0\0\x01a", b"\x24\x80\x04\x01a"] {
            assert!(Reader::new(bad).next_octets(0x04).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            while reader.next_of(0x30).is_some() || reader.next_octets(0x04).is_some() {}
        }
    }
}
