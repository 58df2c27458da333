//! The instance's own secrets: files that only their owner can read, and values of which only a hash is stored.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_core::{Random, Secret};
use midward_wire::{MidState, SignedState, state_signing_input};
use sha2::{Digest, Sha256};

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} can be read by others than its owner: run `chmod 600` on it")]
    Exposed(PathBuf),
    #[error("{0} does not hold an Ed25519 key that this program wrote")]
    Unusable(PathBuf),
}

/// Signs what MIDs are told about their state, and access tokens of the API's clients.
pub(crate) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads the key, or makes it.
    pub(crate) fn open(path: &Path, random: &dyn Random) -> Result<Self, KeyError> {
        let seed = if let Some(seed) = read_private(path)? {
            seed
        } else {
            let mut seed = vec![0; 32];
            random.fill(&mut seed);
            let seed = Secret::new(seed);
            write_private(path, seed.expose())?;
            seed
        };
        Ed25519KeyPair::from_seed_unchecked(seed.expose()).map(Self).map_err(|_| KeyError::Unusable(path.to_owned()))
    }

    /// 32 bytes, base64url.
    pub(crate) fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())
    }

    /// Names the key among those of all instances on one database.
    pub(crate) fn id(&self) -> String {
        hash_text(&hash(&self.public())).chars().take(16).collect()
    }

    /// Over bytes that say themselves what they are for. Base64url.
    pub(crate) fn sign(&self, input: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sign(input).as_ref())
    }

    pub(crate) fn sign_state(&self, mid_id: &str, state: MidState, jti: &str) -> SignedState {
        SignedState { state, signature: self.sign(&state_signing_input(mid_id, state, jti)) }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// A new secret of 256 bits behind a prefix that tells what it is.
pub(crate) fn new_secret(prefix: &str, random: &dyn Random) -> String {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What is stored of a secret. The secrets have 256 random bits, so a plain hash cannot be searched.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

pub(crate) fn hash_text(hash: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(hash)
}

/// The content of a private file; `None` when there is none. A file that others can read is refused.
pub(crate) fn read_private(path: &Path) -> Result<Option<Secret>, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Err(KeyError::Exposed(path.to_owned())),
        Ok(_) => Ok(Some(Secret::new(std::fs::read(path).map_err(io)?))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(error)),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)
}
