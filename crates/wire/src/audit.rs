//! The instance's audit: blocks in chains of hashes, and checkpoints that MIDs keep, so that a chain cannot be written
//! anew without their seeing it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Says, signed by the instance, what a chain was at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCheckpoint {
    pub chain: String,
    /// Number of the last block.
    pub seq: i64,
    /// Its [`block_hash`].
    pub hash: String,
    /// Unix milliseconds.
    pub at: i64,
    /// Names the instance's key.
    pub key: String,
    /// Ed25519 over [`checkpoint_signing_input`], base64url.
    pub signature: String,
}

/// The newest checkpoint of each chain that grew lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointsReply {
    pub version: u32,
    pub checkpoints: Vec<AuditCheckpoint>,
}

/// What is signed of a checkpoint.
pub fn checkpoint_signing_input(chain: &str, seq: i64, hash: &str, at: i64) -> Vec<u8> {
    format!("midward-audit-checkpoint-v1\n{chain}\n{seq}\n{hash}\n{at}").into_bytes()
}

/// SHA-256, hexadecimal, of a block and of everything before it. `previous` is the hash of the block before; empty for
/// the first one. `entries` is the text as it is stored.
pub fn block_hash(previous: &str, chain: &str, seq: i64, at: i64, entries: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("midward-audit-block-v1\n{previous}\n{chain}\n{seq}\n{at}\n"));
    hash.update(entries);
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_block_counts() {
        let hash = block_hash("p", "c", 2, 3, "[]");
        for other in [
            block_hash("q", "c", 2, 3, "[]"),
            block_hash("p", "d", 2, 3, "[]"),
            block_hash("p", "c", 3, 3, "[]"),
            block_hash("p", "c", 2, 4, "[]"),
            block_hash("p", "c", 2, 3, "[1]"),
        ] {
            assert_ne!(hash, other);
        }
        assert_eq!(hash.len(), 64);
    }
}
