//! What is stored of calls and answers: encrypted when a key is configured, and in pieces when it is large, so that the
//! rows of the queue stay small. Rows that were written before stay readable.

mod column;
mod keys;
mod known;
mod read;
mod reduce;
mod seal;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midward_core::Random;
use sha2::{Digest, Sha256};

use self::column::Pieces;
use self::keys::Key;
use self::seal::Position;
use crate::config::EncryptionConfig;
use crate::store::StoreError;

pub use keys::EncryptionError;
pub(crate) use known::remember_keys;
pub(crate) use read::{Unreadable, not_kept};
pub(crate) use reduce::{reduce_delivered, reduced};

/// A longer text is stored in pieces of this length, in bytes.
pub(crate) const PIECE: usize = 256 * 1024;

/// Which text of a request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Call,
    /// Of the epoch.
    Outcome(i64),
    Path,
}

impl Part {
    /// An outcome stays what it is when its request gets another epoch.
    const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Outcome(_) => "outcome",
            Self::Path => "path",
        }
    }

    /// Names its pieces: those of two attempts never mix.
    fn set(self) -> String {
        match self {
            Self::Outcome(epoch) => format!("outcome-{epoch}"),
            Self::Call | Self::Path => self.name().to_owned(),
        }
    }
}

/// A text as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What stands in its column.
    pub(crate) column: Arc<String>,
    /// The pieces' set; empty: it is in one.
    pub(crate) set: String,
    pub(crate) pieces: Arc<Vec<Vec<u8>>>,
}

impl Kept {
    /// What it takes in the database, in bytes.
    pub(crate) fn size(&self) -> i64 {
        let pieces: usize = self.pieces.iter().map(Vec::len).sum();
        i64::try_from(self.column.len() + pieces).unwrap_or(i64::MAX)
    }
}

/// Writes and reads what is stored of calls.
pub(crate) struct AtRest {
    /// The first one is written with.
    keys: Vec<Key>,
    /// Names of keys that are given up.
    lost: Vec<String>,
    instance: String,
    random: Arc<dyn Random>,
}

impl std::fmt::Debug for AtRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtRest").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl AtRest {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key's file is not there, is none, or can be read by others.
    pub(crate) fn open(
        config: &EncryptionConfig,
        instance: &str,
        random: Arc<dyn Random>,
    ) -> Result<Self, EncryptionError> {
        let lost = config.lost_keys.clone();
        Ok(Self { keys: keys::read(config)?, lost, instance: instance.to_owned(), random })
    }

    /// The name of the key that is written with; None: nothing is encrypted.
    pub(crate) fn current(&self) -> Option<&str> {
        self.keys.first().map(|key| key.id.as_str())
    }

    /// The names of the keys that are only read by.
    pub(crate) fn older(&self) -> Vec<&str> {
        self.keys.iter().skip(1).map(|key| key.id.as_str()).collect()
    }

    fn key(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// A text as it is stored: without a key, and when it is not large, the same text and no copy.
    pub(crate) fn keep(&self, request: &str, part: Part, text: &Arc<String>) -> Result<Kept, StoreError> {
        let key = self.keys.first();
        if text.len() <= PIECE {
            let column = match key {
                None => Arc::clone(text),
                Some(key) => {
                    let position = self.position(request, part.name(), (0, 0));
                    let sealed = self.seal(key, &position, text.as_bytes())?;
                    Arc::new(column::sealed(&key.id, &STANDARD.encode(sealed)))
                }
            };
            return Ok(Kept { column, set: String::new(), pieces: Arc::default() });
        }
        let (set, count) = (part.set(), text.len().div_ceil(PIECE));
        let mut pieces = Vec::with_capacity(count);
        for (number, piece) in text.as_bytes().chunks(PIECE).enumerate() {
            pieces.push(match key {
                None => piece.to_vec(),
                Some(key) => self.seal(key, &self.position(request, &set, (number, count)), piece)?,
            });
        }
        let column = Pieces { key: key.map(|key| key.id.as_str()), set: &set, count }.text();
        Ok(Kept { column: Arc::new(column), set, pieces: Arc::new(pieces) })
    }

    /// A path as it is stored.
    pub(crate) fn keep_path(&self, request: &str, path: &str) -> Result<String, StoreError> {
        let Some(key) = self.keys.first() else { return Ok(path.to_owned()) };
        let sealed = self.seal(key, &self.position(request, Part::Path.name(), (0, 0)), path.as_bytes())?;
        Ok(column::sealed(&key.id, &STANDARD.encode(sealed)))
    }

    /// What tells two calls of one client apart. With a key, nobody without it can find out by trying which call it was.
    pub(crate) fn fingerprint(&self, connection: &str, call: &str) -> Result<String, StoreError> {
        let Some(key) = self.keys.first() else { return Ok(plain_fingerprint(connection, call)) };
        let print = keyed_fingerprint(key, connection, call);
        print.ok_or_else(|| StoreError::Corrupt("the cryptographic library did not derive a fingerprint".to_owned()))
    }

    /// Whether a stored fingerprint is the one of a call, whichever key it was made with.
    pub(crate) fn is_fingerprint(&self, stored: &str, connection: &str, call: &str) -> bool {
        match stored.split_once('.') {
            None => stored == plain_fingerprint(connection, call),
            Some((id, _)) => {
                let print = self.key(id).and_then(|key| keyed_fingerprint(key, connection, call));
                print.is_some_and(|print| stored == print)
            }
        }
    }

    fn position<'a>(&'a self, request: &'a str, part: &'a str, piece: (usize, usize)) -> Position<'a> {
        Position { instance: &self.instance, request, part, piece }
    }

    fn seal(&self, key: &Key, position: &Position<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let sealed = seal::seal(key, position, plain, &*self.random);
        // Nothing is ever stored in the clear in its place.
        sealed.ok_or_else(|| StoreError::Corrupt("the cryptographic library did not encrypt".to_owned()))
    }
}

fn digest(connection: &str, call: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(connection);
    hash.update([0]);
    hash.update(call);
    hash.finalize().into()
}

fn plain_fingerprint(connection: &str, call: &str) -> String {
    crate::keys::hash_text(&digest(connection, call))
}

/// `None` only when the library fails.
fn keyed_fingerprint(key: &Key, connection: &str, call: &str) -> Option<String> {
    let digest = digest(connection, call);
    let mut out = [0; 32];
    let info: [&[u8]; 2] = [b"fingerprint\n", &digest];
    key.root.expand(&info, aws_lc_rs::hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).ok()?;
    Some(format!("{}.{}", key.id, crate::keys::hash_text(&out)))
}
