//! Decrypts age files, version 1, for X25519 recipients (<https://age-encryption.org/v1>, C2SP `age.md`). The format is
//! read here; its primitives are those of the TLS library's cryptographic provider.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

const VERSION: &str = "age-encryption.org/v1";
const X25519_INFO: &str = "age-encryption.org/v1/X25519";
const ARMOR_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";
/// Characters of a full line of base64, of a stanza's body and of the armour.
const LINE: usize = 64;
const MAX_STANZAS: usize = 64;
const TAG_LEN: usize = 16;
const FILE_KEY_LEN: usize = 16;
const NONCE_LEN: usize = 16;
const CHUNK_LEN: usize = 64 * 1024 + TAG_LEN;

/// Why a file gives no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecryptError {
    #[error("it is no age file")]
    Malformed,
    #[error("it is encrypted for none of the identities (recipients of other kinds than X25519 are not known)")]
    NoRecipient,
    #[error("it was altered or cut off")]
    Altered,
}

/// The whole text, once all of it is known to be genuine.
pub(super) fn decrypt(file: &[u8], identities: &[PrivateKey]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let binary;
    let file = if file.trim_ascii_start().starts_with(b"-----") {
        binary = dearmor(file)?;
        binary.as_slice()
    } else {
        file
    };
    let header = Header::read(file)?;
    let file_key = header.file_key(identities)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &*derive(&[], &file_key, b"header")?);
    hmac::verify(&key, header.authenticated, &header.mac).map_err(|_| DecryptError::Altered)?;
    let (nonce, chunks) = header.payload.split_at_checked(NONCE_LEN).ok_or(DecryptError::Altered)?;
    open_all(&*derive(nonce, &file_key, b"payload")?, chunks)
}

struct Header<'a> {
    /// Ephemeral shares and wrapped file keys of the X25519 stanzas.
    stanzas: Vec<([u8; 32], Vec<u8>)>,
    mac: Vec<u8>,
    /// What the MAC is over.
    authenticated: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(file: &'a [u8]) -> Result<Self, DecryptError> {
        let mut rest = file;
        if line(&mut rest)? != VERSION {
            return Err(DecryptError::Malformed);
        }
        let mut stanzas = Vec::new();
        for _ in 0..=MAX_STANZAS {
            let before = file.len() - rest.len();
            let first = line(&mut rest)?;
            if let Some(mac) = first.strip_prefix("--- ") {
                let mac = base64(mac).filter(|mac| mac.len() == 32).ok_or(DecryptError::Malformed)?;
                return Ok(Self { stanzas, mac, authenticated: &file[..before + 3], payload: rest });
            }
            let arguments: Vec<&str> = first.strip_prefix("-> ").ok_or(DecryptError::Malformed)?.split(' ').collect();
            if arguments.iter().any(|word| word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic())) {
                return Err(DecryptError::Malformed);
            }
            let body = body(&mut rest)?;
            // Other kinds of recipients may stand beside ours.
            if let ["X25519", share] = arguments[..] {
                let share = base64(share).and_then(|share| share.try_into().ok()).ok_or(DecryptError::Malformed)?;
                if body.len() != FILE_KEY_LEN + TAG_LEN {
                    return Err(DecryptError::Malformed);
                }
                stanzas.push((share, body));
            } else if arguments[0] == "X25519" {
                return Err(DecryptError::Malformed);
            }
        }
        Err(DecryptError::Malformed)
    }

    fn file_key(&self, identities: &[PrivateKey]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let pairs = self.stanzas.iter().flat_map(|stanza| identities.iter().map(move |identity| (stanza, identity)));
        for ((share, wrapped), identity) in pairs {
            let ours = identity.compute_public_key().map_err(|_| DecryptError::NoRecipient)?;
            let salt = [share.as_slice(), ours.as_ref()].concat();
            // A share of low order is refused here (RFC 7748 6.1).
            let key = agree(identity, UnparsedPublicKey::new(&X25519, share), DecryptError::Malformed, |shared| {
                derive(&salt, shared, X25519_INFO.as_bytes())
            })?;
            let mut wrapped = Zeroizing::new(wrapped.clone());
            if let Ok(opened) =
                aead(&*key)?.open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut wrapped)
            {
                return Ok(Zeroizing::new(opened.to_vec()));
            }
        }
        Err(DecryptError::NoRecipient)
    }
}

/// One line of the header, which ends with a line feed.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, DecryptError> {
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or(DecryptError::Malformed)?;
    let (line, behind) = rest.split_at(end);
    *rest = &behind[1..];
    std::str::from_utf8(line).map_err(|_| DecryptError::Malformed)
}

/// A stanza's body: full lines, and a last one that is not full.
fn body(rest: &mut &[u8]) -> Result<Vec<u8>, DecryptError> {
    let mut text = String::new();
    loop {
        let line = line(rest)?;
        if line.len() > LINE {
            return Err(DecryptError::Malformed);
        }
        text.push_str(line);
        if line.len() < LINE {
            return base64(&text).ok_or(DecryptError::Malformed);
        }
    }
}

/// Canonical and without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text).ok()
}

fn dearmor(file: &[u8]) -> Result<Vec<u8>, DecryptError> {
    let text = std::str::from_utf8(file).map_err(|_| DecryptError::Malformed)?.trim();
    // Nothing stands beside a line's characters, but the carriage return of other systems.
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect::<Vec<_>>();
    let [ARMOR_BEGIN, lines @ .., ARMOR_END] = lines.as_slice() else { return Err(DecryptError::Malformed) };
    let (last, full) = lines.split_last().ok_or(DecryptError::Malformed)?;
    if full.iter().any(|line| line.len() != LINE) || last.is_empty() || last.len() > LINE {
        return Err(DecryptError::Malformed);
    }
    STANDARD.decode(lines.concat()).map_err(|_| DecryptError::Malformed)
}

/// HKDF-SHA-256.
fn derive(salt: &[u8], from: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, DecryptError> {
    let mut key = Zeroizing::new([0; 32]);
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(from);
    let info = [info];
    let expanded = pseudorandom.expand(&info, hkdf::HKDF_SHA256).map_err(|_| DecryptError::Altered)?;
    expanded.fill(&mut *key).map_err(|_| DecryptError::Altered)?;
    Ok(key)
}

fn aead(key: &[u8]) -> Result<LessSafeKey, DecryptError> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| DecryptError::Altered)
}

/// STREAM: each chunk has its number and whether it is the last one in its nonce.
fn open_all(key: &[u8], chunks: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let key = aead(key)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(chunks.len()));
    let count = chunks.len().div_ceil(CHUNK_LEN);
    for (number, chunk) in chunks.chunks(CHUNK_LEN).enumerate() {
        let is_last = number + 1 == count;
        // Only an empty file has an empty last chunk.
        if number > 0 && chunk.len() == TAG_LEN {
            return Err(DecryptError::Altered);
        }
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
        nonce[11] = u8::from(is_last);
        let mut chunk = Zeroizing::new(chunk.to_vec());
        let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut chunk);
        plain.extend_from_slice(opened.map_err(|_| DecryptError::Altered)?);
    }
    if count == 0 {
        return Err(DecryptError::Altered);
    }
    Ok(plain)
}
