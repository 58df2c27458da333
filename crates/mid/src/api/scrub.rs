//! Takes an access token out of what an API sends back.
//!
//! Covered: the token verbatim; base64 and base64url text that holds it at any offset (a JSON dump of the request that
//! was encoded as a whole); its percent-encoded, JSON-escaped and hexadecimal forms. Not covered: compressed or encrypted
//! bodies, parts of the token, and whatever else an API may compute from it. Whoever allows an API sees to the rest.
//!
//! No form is shorter than the token, so the usual short answer costs one comparison of lengths: forms are derived when
//! the first text comes that could hold one.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use memchr::memmem;
use midward_core::AccessToken;
use zeroize::Zeroizing;

/// Shorter texts would be found where no token is.
const MIN_DERIVED_LEN: usize = 8;

/// One token and, once needed, its forms.
pub(super) struct Scrubber<'a> {
    token: &'a [u8],
    forms: OnceCell<Vec<Zeroizing<Vec<u8>>>>,
}

impl<'a> Scrubber<'a> {
    pub(super) fn new(token: &'a AccessToken) -> Self {
        Self { token: token.expose().as_bytes(), forms: OnceCell::new() }
    }

    /// Writes asterisks over every form of the token: lengths stay.
    pub(super) fn scrub(&self, bytes: &mut [u8]) {
        if bytes.len() < self.token.len() {
            return;
        }
        for form in self.forms.get_or_init(|| forms(self.token)) {
            if bytes.len() < form.len() {
                continue;
            }
            let finder = memmem::Finder::new(form.as_slice());
            let mut from = 0;
            while let Some(at) = finder.find(&bytes[from..]) {
                let end = from + at + form.len();
                bytes[from + at..end].fill(b'*');
                from = end;
            }
        }
    }
}

/// The token itself, then what is derived from it.
fn forms(token: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(token.to_vec())];
    let mut add = |form: Vec<u8>| {
        let form = Zeroizing::new(form);
        // Of a token of one or two characters, base64 determines less than the token's length.
        if form.len() >= MIN_DERIVED_LEN.max(token.len()) && !forms.contains(&form) {
            forms.push(form);
        }
    };
    for offset in 0..3 {
        for alphabet in [&STANDARD, &URL_SAFE] {
            add(base64_at(token, offset, &GeneralPurpose::new(alphabet, NO_PAD)));
        }
    }
    for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
        add(percent(token, *digits));
        add(hexadecimal(token, *digits));
    }
    add(json(token));
    forms
}

/// The characters that the token alone determines in base64 text where it begins at `offset` modulo 3.
fn base64_at(token: &[u8], offset: usize, engine: &GeneralPurpose) -> Vec<u8> {
    let mut shifted = Zeroizing::new(vec![0; offset]);
    shifted.reserve_exact(token.len());
    shifted.extend_from_slice(token);
    let text = Zeroizing::new(engine.encode(&*shifted));
    let first = (offset * 8).div_ceil(6);
    let last = (shifted.len() * 8) / 6;
    text.as_bytes().get(first..last).unwrap_or_default().to_vec()
}

fn percent(token: &[u8], digits: [u8; 16]) -> Vec<u8> {
    let mut form = Vec::with_capacity(token.len() * 3);
    for &byte in token {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(byte);
        } else {
            form.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
        }
    }
    form
}

fn hexadecimal(token: &[u8], digits: [u8; 16]) -> Vec<u8> {
    token.iter().flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]).collect()
}

fn json(token: &[u8]) -> Vec<u8> {
    let mut form = Vec::with_capacity(token.len() * 2);
    for &byte in token {
        if matches!(byte, b'/' | b'"' | b'\\') {
            form.push(b'\\');
        }
        form.push(byte);
    }
    form
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use midward_core::Secret;

    use super::*;

    fn scrubbed(text: &str) -> String {
        let token = AccessToken::new(Secret::from("to/ken+with=odd\"chars~~??>>")).expect("legal");
        let mut bytes = text.as_bytes().to_vec();
        Scrubber::new(&token).scrub(&mut bytes);
        assert_eq!(bytes.len(), text.len());
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_token_is_found_in_its_forms() {
        let token = "to/ken+with=odd\"chars~~??>>";
        assert_eq!(scrubbed(&format!("<{token}|{token}>")), format!("<{0}|{0}>", "*".repeat(token.len())));
        for lead in ["", "x", "xy", "xyz"] {
            for (name, encoded) in [
                ("standard", STANDARD.encode(format!("{lead}{token} and more"))),
                ("url", URL_SAFE_NO_PAD.encode(format!("{lead}{token}"))),
            ] {
                let result = scrubbed(&encoded);
                let stars = result.bytes().filter(|byte| *byte == b'*').count();
                // All but the characters that the neighbours share.
                assert!(stars >= token.len() * 8 / 6 - 2, "{name} {lead}: {encoded} became {result}");
            }
        }
        assert!(scrubbed("a=to%2Fken%2Bwith%3Dodd%22chars~~%3F%3F%3E%3E&b").starts_with("a=****"));
        assert!(scrubbed("a=to%2fken%2bwith%3dodd%22chars~~%3f%3f%3e%3e&b").starts_with("a=****"));
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            let hex = String::from_utf8(hexadecimal(token.as_bytes(), *digits)).expect("ASCII");
            assert_eq!(scrubbed(&format!("<{hex}>")), format!("<{}>", "*".repeat(token.len() * 2)));
        }
        assert_eq!(scrubbed(r#""to\/ken+with=odd\"chars~~??>>""#), format!("\"{}\"", "*".repeat(29)));
    }

    #[test]
    fn a_text_as_long_as_the_token_is_looked_at() {
        let token = "to/ken+with=odd\"chars~~??>>";
        assert_eq!(scrubbed(token), "*".repeat(token.len()));
    }

    #[test]
    fn no_form_is_shorter_than_the_token() {
        for len in 1..200_usize {
            let token = vec![b'a'; len];
            assert!(forms(&token).iter().all(|form| form.len() >= len), "{len}");
            // From 8 characters on, each of the three offsets has its form.
            let distinct = forms(&token).len();
            assert!(len < MIN_DERIVED_LEN || distinct >= 5, "{len}: {distinct}");
        }
    }

    #[test]
    fn other_text_stays() {
        let text = "nothing to/ken+with=odd here";
        assert_eq!(scrubbed(text), text);
    }
}
