//! What a resolver returns: the named secret fields of one OAuth client, alive for one token request.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{Random, Secret};

/// The fields that client authentication can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MaterialField {
    ClientId,
    ClientSecret,
    /// PEM (PKCS #8, SEC 1 or PKCS #1).
    PrivateKey,
    /// PEM, leaf first.
    Certificate,
    /// `kid` of the private key.
    KeyId,
    /// What a token exchange is about (RFC 8693 2.1).
    SubjectToken,
    /// Who acts, in a token exchange.
    ActorToken,
}

impl MaterialField {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientId => "client_id",
            Self::ClientSecret => "client_secret",
            Self::PrivateKey => "private_key",
            Self::Certificate => "certificate",
            Self::KeyId => "key_id",
            Self::SubjectToken => "subject_token",
            Self::ActorToken => "actor_token",
        }
    }
}

/// The named secret fields that a resolver returned. Wiped when dropped.
#[derive(Clone, Default)]
pub struct ClientMaterial {
    fields: Vec<(MaterialField, Secret)>,
}

impl ClientMaterial {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field, or replaces it.
    #[must_use]
    pub fn with(mut self, field: MaterialField, value: Secret) -> Self {
        self.fields.retain(|(known, _)| *known != field);
        self.fields.push((field, value));
        self
    }

    /// The field, unless it is absent or empty: an empty value is never used.
    pub fn field(&self, field: MaterialField) -> Option<&Secret> {
        self.fields.iter().find(|(known, value)| *known == field && !value.is_empty()).map(|(_, value)| value)
    }

    /// Which fields came, and how long each is. For explanations.
    pub fn lengths(&self) -> impl Iterator<Item = (MaterialField, usize)> + '_ {
        self.fields.iter().map(|(field, value)| (*field, value.len()))
    }

    /// A keyed hash over all fields: the secret's version, without the secret. Two materials with equal fields have
    /// equal fingerprints under one key.
    pub fn fingerprint(&self, key: &FingerprintKey) -> Fingerprint {
        let mut sorted: Vec<_> = self.fields.iter().collect();
        sorted.sort_by_key(|(field, _)| *field);
        // The key has a fixed length and comes first and last (envelope MAC), every part is length-prefixed.
        let mut hash = Sha256::new();
        hash.update(key.0);
        for (field, value) in sorted {
            hash.update(field.name());
            hash.update(u64::try_from(value.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(value.expose());
        }
        hash.update(key.0);
        let digest = hash.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Fingerprint(short)
    }
}

impl fmt::Debug for ClientMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields.iter().map(|(field, _)| field.name())).finish()
    }
}

/// The per-process key of [`ClientMaterial::fingerprint`]; made at start, so fingerprints mean nothing elsewhere.
#[derive(Clone)]
pub struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    pub fn generate(random: &dyn Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        Self(key)
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(redacted)")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl fmt::Display for Fingerprint {
    /// The first 32 bits in hexadecimal: enough to see a rotation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    fn pair(id: &str, secret: &str) -> ClientMaterial {
        ClientMaterial::new()
            .with(MaterialField::ClientId, Secret::from(id))
            .with(MaterialField::ClientSecret, Secret::from(secret))
    }

    #[test]
    fn an_empty_field_counts_as_absent() {
        assert!(pair("id", "").field(MaterialField::ClientSecret).is_none());
        assert_eq!(pair("id", "s").field(MaterialField::ClientSecret).map(Secret::len), Some(1));
    }

    #[test]
    fn a_fingerprint_changes_with_the_secret_and_with_the_key() {
        let random = SeededRandom::new(3);
        let (key, other) = (FingerprintKey::generate(&random), FingerprintKey::generate(&random));
        let print = pair("id", "a").fingerprint(&key);
        assert_eq!(print, pair("id", "a").fingerprint(&key));
        assert_ne!(print, pair("id", "b").fingerprint(&key));
        assert_ne!(print, pair("ida", "").fingerprint(&key));
        assert_ne!(print, pair("id", "a").fingerprint(&other));
    }

    #[test]
    fn debug_names_fields_only() {
        assert_eq!(format!("{:?}", pair("visible", "hunter2")), r#"["client_id", "client_secret"]"#);
    }
}
