//! `application/x-www-form-urlencoded` (RFC 6749 appendix B) into buffers that never grow, so that no unwiped copy
//! of a secret is left behind.

use zeroize::Zeroizing;

/// One encoded value.
pub(crate) fn encode(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(encoded_len(value)));
    append(&mut out, value);
    out
}

/// `name=value&name=value`; the caller wipes it.
pub(crate) fn body(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let len: usize = pairs.iter().map(|(name, value)| encoded_len(name) + encoded_len(value) + 2).sum();
    let mut out = Vec::with_capacity(len);
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        append(&mut out, name);
        out.push(b'=');
        append(&mut out, value);
    }
    debug_assert!(out.len() <= len, "the buffer grew");
    out
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'*' | b'-' | b'.' | b'_')
}

fn encoded_len(value: &[u8]) -> usize {
    value.iter().map(|&byte| if is_plain(byte) || byte == b' ' { 1 } else { 3 }).sum()
}

fn append(out: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in value {
        if is_plain(byte) {
            out.push(byte);
        } else if byte == b' ' {
            out.push(b'+');
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn agrees_with_the_url_standard_and_fills_its_buffer_exactly(name: Vec<u8>, value: Vec<u8>) {
            let ours = body(&[(&name, &value)]);
            let theirs: String = url::form_urlencoded::byte_serialize(&name)
                .chain(["="])
                .chain(url::form_urlencoded::byte_serialize(&value))
                .collect();
            proptest::prop_assert_eq!(&ours, theirs.as_bytes());
            proptest::prop_assert_eq!(encode(&value).capacity(), encode(&value).len());
        }
    }
}
