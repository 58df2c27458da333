//! Keys for what is stored: the current one, and older ones to read by.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use midward_core::Secret;
use sha2::{Digest, Sha256};

use crate::config::EncryptionConfig;

/// Set by systemd for a service with `LoadCredential=` and the like (systemd.exec(5)).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
const KEY_LEN: usize = 32;
/// Longer than any way of writing a key.
const LONGEST_FILE: u64 = 1024;

/// Why what is stored cannot be encrypted, or read.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} can be read or changed by others than its owner: run `chmod 600` on it")]
    Exposed(PathBuf),
    #[error("{0} does not hold 32 bytes in hexadecimal or base64, or holds no random ones")]
    NotAKey(PathBuf),
    #[error("systemd gave this service no credentials: the unit has no LoadCredential= or SetCredentialEncrypted=")]
    NoCredentials,
    #[error("encryption.{0} is not the name of a credential")]
    BadName(&'static str),
    #[error("encryption names both a file and a credential as its key")]
    Two,
    #[error("encryption names older keys and none to write with")]
    OnlyOlder,
    #[error(
        "the database holds what is encrypted with the key {0}, for which encryption names neither file nor credential"
    )]
    Missing(String),
}

/// One key: a key for each request is derived from it.
pub(super) struct Key {
    /// Eight letters, from a hash of the key.
    pub(super) id: String,
    pub(super) root: Prk,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// The keys, the one to write with first. Empty: nothing is encrypted.
pub(super) fn read(config: &EncryptionConfig) -> Result<Vec<Key>, EncryptionError> {
    let mut files = Vec::new();
    match (&config.key_file, &config.key_credential) {
        (Some(_), Some(_)) => return Err(EncryptionError::Two),
        (Some(file), None) => files.push((file.clone(), false)),
        (None, Some(name)) => files.push((credential("key_credential", name)?, true)),
        (None, None) if config.older_key_files.is_empty() && config.older_key_credentials.is_empty() => {}
        (None, None) => return Err(EncryptionError::OnlyOlder),
    }
    files.extend(config.older_key_files.iter().map(|file| (file.clone(), false)));
    for name in &config.older_key_credentials {
        files.push((credential("older_key_credentials", name)?, true));
    }
    files.iter().map(|(path, from_systemd)| key(path, *from_systemd)).collect()
}

fn credential(what: &'static str, name: &str) -> Result<PathBuf, EncryptionError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(EncryptionError::BadName(what));
    }
    let folder = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from).filter(|folder| folder.is_absolute());
    Ok(folder.ok_or(EncryptionError::NoCredentials)?.join(name))
}

fn key(path: &Path, from_systemd: bool) -> Result<Key, EncryptionError> {
    let io = |source| EncryptionError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    // systemd lets a service read root's files by an access control list, whose mask stands in the group's place.
    let group = from_systemd && metadata.uid() == 0;
    let others = if group { 0o027 } else { 0o077 };
    if metadata.permissions().mode() & others != 0 {
        return Err(EncryptionError::Exposed(path.to_owned()));
    }
    if metadata.len() > LONGEST_FILE {
        return Err(EncryptionError::NotAKey(path.to_owned()));
    }
    let text = Secret::new(std::fs::read(path).map_err(io)?);
    let bytes = decode(text.expose()).ok_or_else(|| EncryptionError::NotAKey(path.to_owned()))?;
    let mut hash = Sha256::new();
    hash.update(b"midward: the name of a key at rest\0");
    hash.update(bytes.expose());
    let id = URL_SAFE_NO_PAD.encode(&hash.finalize()[..6]);
    let root = Salt::new(HKDF_SHA256, b"midward: at rest, version 1").extract(bytes.expose());
    Ok(Key { id, root })
}

/// Hexadecimal or base64, with white space around it.
fn decode(text: &[u8]) -> Option<Secret> {
    let text = text.trim_ascii();
    let bytes = if text.len() == 2 * KEY_LEN {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = Vec::with_capacity(KEY_LEN);
        for pair in text.chunks_exact(2) {
            bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
        }
        Secret::new(bytes)
    } else {
        Secret::new(STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok()?)
    };
    let first = bytes.expose().first()?;
    let is_random = bytes.expose().iter().any(|byte| byte != first);
    (bytes.expose().len() == KEY_LEN && is_random).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_random_bytes_in_hexadecimal_or_base64() {
        let bytes: Vec<u8> = (0..32).collect();
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        for text in [hex.to_owned(), hex.to_uppercase(), format!("{hex}\n"), STANDARD.encode(&bytes)] {
            assert_eq!(decode(text.as_bytes()).expect("a key").expose(), bytes, "{text}");
        }
        for text in ["", "abc", &hex[2..], &hex.replace('0', "g"), &"00".repeat(32), &STANDARD.encode([1; 33])] {
            assert!(decode(text.as_bytes()).is_none(), "{text}");
        }
    }
}
