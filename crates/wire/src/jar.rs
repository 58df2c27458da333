//! Resolver JARs on their way through an instance.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Bytes64;

/// Largest JAR that an instance keeps, in bytes.
pub const MAX_JAR_LEN: usize = 16 * 1024 * 1024;

/// A JAR's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JarDocument {
    pub version: u32,
    pub content: Bytes64,
}

/// What names a JAR that has no libraries beside it: SHA-256 over its SHA-256, as 64 lower-case hexadecimal digits. The
/// same as `midward-mid jar hash` says.
pub fn jar_digest(content: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(Sha256::digest(content)) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_digest_is_that_of_the_resolvers() {
        // printf one | sha256sum | cut -c1-64 | xxd -r -p | sha256sum
        assert_eq!(super::jar_digest(b"one"), "fe8d7a873dc48961a6af334c996b2cb3ce37149d5ce9c9253952a54c6a92c1ad");
    }
}
