//! Encryption of one text or one piece of it: AES-256-GCM with a random nonce, under a key derived for its request. What
//! is authenticated beside it says where it belongs, so that it opens nowhere else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use midward_core::Random;

use super::keys::Key;

/// Where something is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position<'a> {
    pub(super) instance: &'a str,
    pub(super) request: &'a str,
    /// `call`, `outcome`, `path`; of a text in pieces, the name of the set.
    pub(super) part: &'a str,
    /// Number of the piece, and how many there are. A text that is in one is `(0, 0)`.
    pub(super) piece: (usize, usize),
}

impl Position<'_> {
    /// No field holds a line break, so no two positions have the same text.
    fn text(&self, key: &Key) -> String {
        let (number, count) = self.piece;
        let Self { instance, request, part, .. } = self;
        format!("midward at rest 1\n{}\n{instance}\nrequests\n{request}\n{part}\n{number}\n{count}", key.id)
    }

    /// Each request has a key of its own: random nonces never come near the number that is safe under one key
    /// (2^32, NIST SP 800-38D 8.3).
    fn key(&self, key: &Key) -> Result<LessSafeKey, Unspecified> {
        let info = [self.instance.as_bytes(), b"\nrequests\n", self.request.as_bytes()];
        let derived = key.root.expand(&info, &AES_256_GCM)?;
        Ok(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// Nonce, ciphertext, tag. `None` only when the library fails.
pub(super) fn seal(key: &Key, position: &Position<'_>, plain: &[u8], random: &dyn Random) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce);
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let aad = Aad::from(position.text(key));
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = position.key(key).ok()?.seal_in_place_separate_tag(nonce, aad, &mut sealed[NONCE_LEN..]).ok()?;
    sealed.extend_from_slice(tag.as_ref());
    Some(sealed)
}

/// What was sealed at this position; `None`: it was not, or was changed.
pub(super) fn open(key: &Key, position: &Position<'_>, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let nonce = Nonce::try_assume_unique_for_key(sealed.get(..NONCE_LEN)?).ok()?;
    let aad = Aad::from(position.text(key));
    let opened = position.key(key).ok()?.open_within(nonce, aad, &mut sealed, NONCE_LEN..).ok()?.len();
    sealed.truncate(opened);
    Some(sealed)
}
