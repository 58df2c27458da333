//! PKCS #12 files (RFC 7292): the private key and the certificates in them. Reads what OpenSSL 3, Windows and Java write
//! (PBES2 with AES) and what older programs wrote (triple DES, RC2). The cryptography is that of aws-lc-rs, and for the
//! two old ciphers, which that does not have, of the RustCrypto project.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::{digest, hmac, pbkdf2};
use des::cipher::consts::U8;
use des::cipher::{BlockCipherDecrypt, BlockSizeUser, KeyInit as _};
use zeroize::Zeroizing;

use crate::IdentityError;
use crate::ber::{Element, Reader};

type Bytes = Zeroizing<Vec<u8>>;

/// What a file holds.
pub(crate) struct Contents {
    /// PKCS #8, DER. The first one, should there be several.
    pub(crate) key: Bytes,
    /// X.509, DER.
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// A file that takes longer is not what it says it is.
const MAX_ITERATIONS: u32 = 10_000_000;

// Object identifiers, as DER has them.
const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
const ENCRYPTED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06";
const KEY_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x01";
const SHROUDED_KEY_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x02";
const CERTIFICATE_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03";
const X509: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01";
const PBE_SHA1_3DES: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x03";
const PBE_SHA1_RC2_128: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x05";
const PBE_SHA1_RC2_40: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x06";
const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
const PBKDF2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
const HMAC_SHA1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x07";
const HMAC_SHA256: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x09";
const HMAC_SHA384: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x0a";
const HMAC_SHA512: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x0b";
const AES_128_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x02";
const AES_192_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x16";
const AES_256_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a";
const SHA1: &[u8] = b"\x2b\x0e\x03\x02\x1a";
const SHA256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const SHA384: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x02";
const SHA512: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x03";

/// What a derived key is for (RFC 7292 B.3).
#[derive(Clone, Copy)]
enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// A password, as the old and the new schemes take it.
struct Password<'a> {
    /// For PBES2.
    plain: &'a [u8],
    /// UTF-16, big endian, with two zero bytes at its end (RFC 7292 B.1).
    wide: Bytes,
}

/// Reads a file with its password.
pub(crate) fn read(file: &[u8], password: &str) -> Result<Contents, IdentityError> {
    let mut wide = Zeroizing::new(Vec::with_capacity(2 * password.len() + 2));
    password.encode_utf16().chain([0]).for_each(|unit| wide.extend_from_slice(&unit.to_be_bytes()));
    let attempt = read_with(file, &Password { plain: password.as_bytes(), wide });
    match attempt {
        // Programs disagree on whether no password is an empty one.
        Err(IdentityError::Password) if password.is_empty() => {
            read_with(file, &Password { plain: b"", wide: Zeroizing::default() })
        }
        other => other,
    }
}

fn read_with(file: &[u8], password: &Password<'_>) -> Result<Contents, IdentityError> {
    let pfx = Reader::new(file).next_of(0x30).ok_or(IdentityError::Pfx)?;
    let mut parts = pfx.reader();
    parts.next_of(0x02).filter(|version| version.content == [3]).ok_or(IdentityError::Pfx)?;
    let safe = content_of(&mut parts, DATA)?;
    let safe = safe.reader().next_octets(0x04).ok_or(IdentityError::Pfx)?;
    if let Some(mac) = parts.next_of(0x30) {
        check_mac(mac, &safe, password)?;
    }
    let mut found = Contents { key: Zeroizing::default(), certificates: Vec::new() };
    let mut safes = Reader::new(&safe).next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    while let Some(info) = safes.next_of(0x30) {
        let kind = info.reader().next_of(0x06).ok_or(IdentityError::Pfx)?.content;
        let mut info = Reader::new(info.content);
        if kind == DATA {
            let content = content_of_parts(&mut info)?;
            let bags = content.reader().next_octets(0x04).ok_or(IdentityError::Pfx)?;
            read_bags(&bags, password, &mut found)?;
        } else if kind == ENCRYPTED_DATA {
            let content = content_of_parts(&mut info)?;
            let mut data = content.reader().next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
            let encrypted = data.next_of(0x02).and_then(|_| data.next_of(0x30)).ok_or(IdentityError::Pfx)?;
            let mut encrypted = encrypted.reader();
            let algorithm = encrypted.next_of(0x06).and_then(|_| encrypted.next_of(0x30)).ok_or(IdentityError::Pfx)?;
            let bytes = encrypted.next_octets(0x80).ok_or(IdentityError::Pfx)?;
            read_bags(&decrypt(algorithm, &bytes, password)?, password, &mut found)?;
        }
        // Data that is enveloped for somebody's public key is not for us.
    }
    if found.key.is_empty() || found.certificates.is_empty() {
        return Err(IdentityError::Pfx);
    }
    Ok(found)
}

/// The content of a `ContentInfo` that must be of this kind.
fn content_of<'a>(parts: &mut Reader<'a>, kind: &[u8]) -> Result<Element<'a>, IdentityError> {
    let info = parts.next_of(0x30).ok_or(IdentityError::Pfx)?;
    info.reader().next_of(0x06).filter(|found| found.content == kind).ok_or(IdentityError::Pfx)?;
    content_of_parts(&mut info.reader())
}

fn content_of_parts<'a>(info: &mut Reader<'a>) -> Result<Element<'a>, IdentityError> {
    info.next_of(0x06).and_then(|_| info.next_of(0xa0)).ok_or(IdentityError::Pfx)
}

fn read_bags(bags: &[u8], password: &Password<'_>, found: &mut Contents) -> Result<(), IdentityError> {
    let mut bags = Reader::new(bags).next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    while let Some(bag) = bags.next_of(0x30) {
        let mut bag = bag.reader();
        let kind = bag.next_of(0x06).ok_or(IdentityError::Pfx)?.content;
        let value = bag.next_of(0xa0).ok_or(IdentityError::Pfx)?;
        if kind == CERTIFICATE_BAG {
            let mut certificate = value.reader().next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
            let x509 = certificate.next_of(0x06).is_some_and(|form| form.content == X509);
            let bytes = certificate.next_of(0xa0).and_then(|bytes| bytes.reader().next_octets(0x04));
            if let Some(bytes) = bytes.filter(|_| x509) {
                found.certificates.push(bytes.into_owned());
            }
        } else if found.key.is_empty() && kind == KEY_BAG {
            found.key.extend_from_slice(value.content);
        } else if found.key.is_empty() && kind == SHROUDED_KEY_BAG {
            let mut shrouded = value.reader().next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
            let algorithm = shrouded.next_of(0x30).ok_or(IdentityError::Pfx)?;
            let bytes = shrouded.next_octets(0x04).ok_or(IdentityError::Pfx)?;
            found.key = decrypt(algorithm, &bytes, password)?;
        }
    }
    Ok(())
}

fn check_mac(mac: Element<'_>, safe: &[u8], password: &Password<'_>) -> Result<(), IdentityError> {
    let mut parts = mac.reader();
    let mut info = parts.next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    let kind = info.next_of(0x30).and_then(|algorithm| algorithm.reader().next_of(0x06)).ok_or(IdentityError::Pfx)?;
    let expected = info.next_octets(0x04).ok_or(IdentityError::Pfx)?;
    let salt = parts.next_octets(0x04).ok_or(IdentityError::Pfx)?;
    let iterations = parts.next_of(0x02).map_or(Some(NonZeroU32::MIN), count).ok_or(IdentityError::Pfx)?;
    let (hash, hmac) = match kind.content {
        SHA1 => (&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        SHA256 => (&digest::SHA256, hmac::HMAC_SHA256),
        SHA384 => (&digest::SHA384, hmac::HMAC_SHA384),
        SHA512 => (&digest::SHA512, hmac::HMAC_SHA512),
        _ => return Err(IdentityError::Pfx),
    };
    let key = derive(hash, &password.wide, &salt, iterations, Purpose::Mac, hash.output_len());
    hmac::verify(&hmac::Key::new(hmac, &key), safe, &expected).map_err(|_| IdentityError::Password)
}

fn decrypt(algorithm: Element<'_>, bytes: &[u8], password: &Password<'_>) -> Result<Bytes, IdentityError> {
    let mut parts = algorithm.reader();
    let kind = parts.next_of(0x06).ok_or(IdentityError::Pfx)?;
    let parameters = parts.next_of(0x30).ok_or(IdentityError::Pfx)?;
    if kind.content == PBES2 {
        return decrypt_pbes2(parameters, bytes, password);
    }
    let mut parameters = parameters.reader();
    let salt = parameters.next_octets(0x04).ok_or(IdentityError::Pfx)?;
    let iterations = parameters.next_of(0x02).and_then(count).ok_or(IdentityError::Pfx)?;
    let part =
        |purpose, len| derive(&digest::SHA1_FOR_LEGACY_USE_ONLY, &password.wide, &salt, iterations, purpose, len);
    let iv = part(Purpose::Iv, 8);
    let wrong = |_| IdentityError::Pfx;
    match kind.content {
        PBE_SHA1_3DES => cbc(&des::TdesEde3::new_from_slice(&part(Purpose::Key, 24)).map_err(wrong)?, &iv, bytes),
        PBE_SHA1_RC2_128 => cbc(&rc2::Rc2::new_from_slice(&part(Purpose::Key, 16)).map_err(wrong)?, &iv, bytes),
        PBE_SHA1_RC2_40 => cbc(&rc2::Rc2::new_from_slice(&part(Purpose::Key, 5)).map_err(wrong)?, &iv, bytes),
        _ => Err(IdentityError::Pfx),
    }
}

/// RFC 8018 6.2.
fn decrypt_pbes2(parameters: Element<'_>, bytes: &[u8], password: &Password<'_>) -> Result<Bytes, IdentityError> {
    let mut parts = parameters.reader();
    let mut kdf = parts.next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    kdf.next_of(0x06).filter(|kind| kind.content == PBKDF2).ok_or(IdentityError::Pfx)?;
    let mut kdf = kdf.next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    let salt = kdf.next_octets(0x04).ok_or(IdentityError::Pfx)?;
    let iterations = kdf.next_of(0x02).and_then(count).ok_or(IdentityError::Pfx)?;
    kdf.next_of(0x02); // The key's length is the cipher's.
    let function = kdf.next_of(0x30).and_then(|algorithm| algorithm.reader().next_of(0x06));
    let function = match function.map_or(HMAC_SHA1, |kind| kind.content) {
        HMAC_SHA1 => pbkdf2::PBKDF2_HMAC_SHA1,
        HMAC_SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
        HMAC_SHA384 => pbkdf2::PBKDF2_HMAC_SHA384,
        HMAC_SHA512 => pbkdf2::PBKDF2_HMAC_SHA512,
        _ => return Err(IdentityError::Pfx),
    };
    let mut cipher = parts.next_of(0x30).ok_or(IdentityError::Pfx)?.reader();
    let (algorithm, key_len) = match cipher.next_of(0x06).ok_or(IdentityError::Pfx)?.content {
        AES_128_CBC => (&AES_128, 16),
        AES_192_CBC => (&AES_192, 24),
        AES_256_CBC => (&AES_256, 32),
        _ => return Err(IdentityError::Pfx),
    };
    let iv = cipher.next_octets(0x04).ok_or(IdentityError::Pfx)?;
    let iv: [u8; 16] = iv.as_ref().try_into().map_err(|_| IdentityError::Pfx)?;
    let mut key = Zeroizing::new(vec![0; key_len]);
    pbkdf2::derive(function, iterations, &salt, password.plain, &mut key);
    let key = UnboundCipherKey::new(algorithm, &key).map_err(|_| IdentityError::Pfx)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| IdentityError::Pfx)?;
    let mut buffer = Zeroizing::new(bytes.to_vec());
    let plain = key.decrypt(&mut buffer, DecryptionContext::Iv128(iv.into())).map_err(|_| IdentityError::Password)?;
    let len = plain.len();
    buffer.truncate(len);
    Ok(buffer)
}

/// CBC with the padding of PKCS #7, for the ciphers of old files.
fn cbc<C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U8>>(
    cipher: &C,
    iv: &[u8],
    bytes: &[u8],
) -> Result<Bytes, IdentityError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut previous = iv;
    for chunk in bytes.chunks(8) {
        let block: [u8; 8] = chunk.try_into().map_err(|_| IdentityError::Pfx)?;
        let mut block = block.into();
        cipher.decrypt_block(&mut block);
        plain.extend(block.iter().zip(previous).map(|(byte, before)| byte ^ before));
        previous = chunk;
    }
    let padding = usize::from(plain.last().copied().unwrap_or_default());
    let cut = plain.len().checked_sub(padding).filter(|_| (1..=8).contains(&padding)).ok_or(IdentityError::Password)?;
    if plain[cut..].iter().any(|byte| usize::from(*byte) != padding) {
        return Err(IdentityError::Password);
    }
    plain.truncate(cut);
    Ok(plain)
}

/// RFC 7292 B.2.
fn derive(
    hash: &'static digest::Algorithm,
    password: &[u8],
    salt: &[u8],
    iterations: NonZeroU32,
    purpose: Purpose,
    len: usize,
) -> Bytes {
    let block = hash.block_len();
    let filled =
        |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().cycle().take(bytes.len().div_ceil(block) * block).collect() };
    let mut state = Zeroizing::new(filled(salt));
    state.extend_from_slice(&Zeroizing::new(filled(password)));
    let mut derived = Zeroizing::new(Vec::with_capacity(len + hash.output_len()));
    while derived.len() < len {
        let mut first = digest::Context::new(hash);
        first.update(&vec![purpose as u8; block]);
        first.update(&state);
        let mut round = first.finish();
        for _ in 1..iterations.get() {
            round = digest::digest(hash, round.as_ref());
        }
        derived.extend_from_slice(round.as_ref());
        let addend: Vec<u8> = round.as_ref().iter().copied().cycle().take(block).collect();
        for part in state.chunks_mut(block) {
            let mut carry = 1_u16;
            for (byte, more) in part.iter_mut().zip(&addend).rev() {
                let sum = u16::from(*byte) + u16::from(*more) + carry;
                [_, *byte] = sum.to_be_bytes();
                carry = sum >> 8;
            }
        }
    }
    derived.truncate(len);
    derived
}

fn count(number: Element<'_>) -> Option<NonZeroU32> {
    let digits = number.content.strip_prefix(&[0]).unwrap_or(number.content);
    if digits.len() > 4 {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| (count << 8) | u32::from(*digit));
    NonZeroU32::new(count).filter(|count| count.get() <= MAX_ITERATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pfx");

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{FOLDER}/{name}")).expect(name)
    }

    /// See `tests/pfx/README.md` for how each was made.
    #[test]
    fn files_of_every_kind_of_writer_hold_the_same_key_and_certificates() {
        let (key, leaf) = (file("key.der"), file("leaf.der"));
        for name in [
            "openssl3.pfx",
            "legacy.pfx",
            "rc2-128.pfx",
            "triple-des.pfx",
            "sha512.pfx",
            "unencrypted-certificates.pfx",
        ] {
            let found = read(&file(name), "p\u{e4}ss \u{20ac}").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(*found.key, key, "{name}");
            assert!(found.certificates.contains(&leaf) && found.certificates.len() == 2, "{name}");
        }
        assert_eq!(*read(&file("no-password.pfx"), "").expect("read").key, key);
        assert_eq!(*read(&file("indefinite.pfx"), "p\u{e4}ss \u{20ac}").expect("read").key, key);
    }

    #[test]
    fn a_wrong_password_and_a_broken_file_are_told_apart() {
        for name in ["openssl3.pfx", "legacy.pfx", "no-mac.pfx"] {
            assert_eq!(read(&file(name), "hunter2").err(), Some(IdentityError::Password), "{name}");
        }
        let good = file("openssl3.pfx");
        for bad in [&b""[..], b"hunter2", &good[..good.len() / 2], &good[1..], b"\x30\x80\x02\x01\x03\x00\x00"] {
            assert_eq!(read(bad, "x").err(), Some(IdentityError::Pfx));
        }
    }

    /// RFC 7292 has no vectors; these are OpenSSL's (`PKCS12KDF`, test 1 of evpkdf_pkcs12.txt).
    #[test]
    fn the_key_derivation_has_published_values() {
        let password = b"\0s\0m\0e\0g\0\0";
        let salt = b"\x0a\x58\xcf\x64\x53\x0d\x82\x3f";
        let one = NonZeroU32::MIN;
        let key = derive(&digest::SHA1_FOR_LEGACY_USE_ONLY, password, salt, one, Purpose::Key, 24);
        let expected = [
            0x8a, 0xaa, 0xe6, 0x29, 0x7b, 0x6c, 0xb0, 0x46, 0x42, 0xab, 0x5b, 0x07, 0x78, 0x51, 0x28, 0x4e, 0xb7, 0x12,
            0x8f, 0x1a, 0x2a, 0x7f, 0xbc, 0xa3,
        ];
        assert_eq!(*key, expected);
    }
}
