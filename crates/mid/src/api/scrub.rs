//! Takes an access token out of what an API sends back.
//!
//! Covered: the token verbatim; base64 and base64url text that holds it at any offset (a JSON dump of the request that
//! was encoded as a whole); its percent-encoded and JSON-escaped forms. Not covered: compressed or encrypted bodies,
//! hexadecimal, parts of the token, and whatever else an API may compute from it. Whoever allows an API sees to the rest.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use memchr::memmem;
use midward_core::AccessToken;
use zeroize::Zeroizing;

/// Shorter texts would be found where no token is.
const MIN_DERIVED_LEN: usize = 8;

/// The forms of one token.
pub(super) struct Scrubber {
    forms: Vec<Zeroizing<Vec<u8>>>,
}

impl Scrubber {
    pub(super) fn new(token: &AccessToken) -> Self {
        let token = token.expose().as_bytes();
        let mut forms = vec![Zeroizing::new(token.to_vec())];
        let mut add = |form: Vec<u8>| {
            let form = Zeroizing::new(form);
            if form.len() >= MIN_DERIVED_LEN && !forms.contains(&form) {
                forms.push(form);
            }
        };
        for offset in 0..3 {
            for alphabet in [&STANDARD, &URL_SAFE] {
                add(base64_at(token, offset, &GeneralPurpose::new(alphabet, NO_PAD)));
            }
        }
        add(percent(token, *b"0123456789ABCDEF"));
        add(percent(token, *b"0123456789abcdef"));
        add(json(token));
        Self { forms }
    }

    /// Writes asterisks over every form of the token: lengths stay.
    pub(super) fn scrub(&self, bytes: &mut [u8]) {
        for form in &self.forms {
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
        assert_eq!(scrubbed(r#""to\/ken+with=odd\"chars~~??>>""#), format!("\"{}\"", "*".repeat(29)));
    }

    #[test]
    fn other_text_stays() {
        let text = "nothing to/ken+with=odd here";
        assert_eq!(scrubbed(text), text);
    }
}
