//! Private keys as vaults hold them: PEM in, signatures out. Every buffer that holds a key is wiped.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::assertion::AssertionAlgorithm;

/// Vaults and their clients lose padding at times.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a key cannot sign. Holds nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is not a PEM block of a private key")]
    NotPem,
    #[error("it is encrypted with a passphrase, which is not supported")]
    Encrypted,
    #[error("it is in OpenSSH's own format, not PKCS #8, PKCS #1 or SEC 1")]
    OpenSsh,
    #[error("it is not an RSA key of 2048 to 8192 bits, an EC key on P-256 or an Ed25519 key")]
    Unsupported,
    #[error("its type does not fit the algorithm {}", .0.name())]
    WrongType(AssertionAlgorithm),
    #[error("signing failed")]
    Signing,
}

/// A key with the algorithm that it signs by.
pub(crate) enum SigningKey {
    Rsa(RsaKeyPair, AssertionAlgorithm),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// The first private key of the text; without `wanted` the algorithm follows from its type.
    pub(crate) fn from_pem(pem: &[u8], wanted: Option<AssertionAlgorithm>) -> Result<Self, KeyError> {
        let block = blocks(pem).find(|block| block.label.ends_with(b"PRIVATE KEY")).ok_or(KeyError::NotPem)?;
        let key = match block.label {
            b"ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            b"OPENSSH PRIVATE KEY" => return Err(KeyError::OpenSsh),
            // RFC 1421 headers, as OpenSSL's traditional format has them.
            _ if contains(block.body, b"ENCRYPTED") => return Err(KeyError::Encrypted),
            b"RSA PRIVATE KEY" => Self::rsa(RsaKeyPair::from_der(&block.decode()?).ok()),
            b"EC PRIVATE KEY" => EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &block.decode()?)
                .ok()
                .map(Self::Ec),
            _ => Self::from_pkcs8(&block.decode()?),
        }
        .ok_or(KeyError::Unsupported)?;
        key.by(wanted)
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        Self::rsa(RsaKeyPair::from_pkcs8(der).ok())
            .or_else(|| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok().map(Self::Ec))
            .or_else(|| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Self::Ed))
    }

    fn rsa(key: Option<RsaKeyPair>) -> Option<Self> {
        key.map(|key| Self::Rsa(key, AssertionAlgorithm::Rs256))
    }

    fn by(self, wanted: Option<AssertionAlgorithm>) -> Result<Self, KeyError> {
        match (self, wanted) {
            (key, None) => Ok(key),
            (Self::Rsa(key, _), Some(wanted @ (AssertionAlgorithm::Rs256 | AssertionAlgorithm::Ps256))) => {
                Ok(Self::Rsa(key, wanted))
            }
            (key, Some(wanted)) if key.algorithm() == wanted => Ok(key),
            (_, Some(wanted)) => Err(KeyError::WrongType(wanted)),
        }
    }

    pub(crate) const fn algorithm(&self) -> AssertionAlgorithm {
        match self {
            Self::Rsa(_, algorithm) => *algorithm,
            Self::Ec(_) => AssertionAlgorithm::Es256,
            Self::Ed(_) => AssertionAlgorithm::EdDsa,
        }
    }

    /// A signature in JWS form (RFC 7518 3.3 to 3.5, RFC 8037 3.1).
    pub(crate) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, KeyError> {
        match self {
            Self::Rsa(key, algorithm) => {
                let encoding: &dyn RsaEncoding =
                    if *algorithm == AssertionAlgorithm::Ps256 { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &SystemRandom::new(), input, &mut signature).map_err(|_| KeyError::Signing)?;
                Ok(signature)
            }
            Self::Ec(key) => {
                let signature = key.sign(&SystemRandom::new(), input).map_err(|_| KeyError::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Ed(key) => Ok(key.sign(input).as_ref().to_vec()),
        }
    }
}

/// DER of the first certificate (the leaf).
pub(crate) fn first_certificate(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    blocks(pem).find(|block| block.label == b"CERTIFICATE").and_then(|block| block.decode().ok())
}

/// One PEM block (RFC 7468), borrowed.
struct Block<'a> {
    label: &'a [u8],
    body: &'a [u8],
}

impl Block<'_> {
    /// White space counts nowhere, nor does a `\n` or `\r` that was written out: vaults keep a key in one line.
    fn decode(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(self.body.len()));
        let mut rest = self.body;
        while let Some((&byte, after)) = rest.split_first() {
            rest = match (byte, after.first()) {
                (b'\\', Some(b'n' | b'r')) => &after[1..],
                _ => after,
            };
            if byte != b'\\' && !byte.is_ascii_whitespace() {
                text.push(byte);
            }
        }
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let written = BASE64.decode_slice(&*text, &mut der).map_err(|_| KeyError::NotPem)?;
        der.truncate(written);
        Ok(der)
    }
}

fn blocks(pem: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut rest = pem;
    std::iter::from_fn(move || {
        let (_, after) = cut(rest, b"-----BEGIN ")?;
        let (label, after) = cut(after, b"-----")?;
        let (body, after) = cut(after, b"-----END ")?;
        rest = after;
        Some(Block { label, body })
    })
}

fn cut<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some((&text[..at], &text[at + mark.len()..]))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    cut(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ed25519 key of RFC 8410 10.3.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

    fn error(pem: &str) -> KeyError {
        SigningKey::from_pem(pem.as_bytes(), None).map(|key| key.algorithm()).expect_err("no key")
    }

    #[test]
    fn a_key_survives_what_vaults_do_to_lines() {
        let written_out = KEY.replace('\n', "\\n");
        for text in
            [KEY.to_owned(), KEY.replace('\n', "\r\n"), KEY.replace('\n', " "), KEY.replace('\n', ""), written_out]
        {
            let key = SigningKey::from_pem(text.as_bytes(), None).expect("a key");
            assert_eq!(key.algorithm(), AssertionAlgorithm::EdDsa, "{text:?}");
        }
        let after_its_certificate = format!("-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n{KEY}");
        assert!(SigningKey::from_pem(after_its_certificate.as_bytes(), None).is_ok());
        assert_eq!(
            first_certificate(after_its_certificate.as_bytes()).as_deref().map(Vec::as_slice),
            Some(&b"abc"[..])
        );
    }

    #[test]
    fn what_cannot_sign_says_why() {
        let labelled = |label: &str| KEY.replace("PRIVATE KEY", label);
        assert_eq!(error("hunter2"), KeyError::NotPem);
        assert_eq!(error(&KEY[..60]), KeyError::NotPem);
        assert_eq!(error(&KEY.replace("MC4C", "M?4C")), KeyError::NotPem);
        assert_eq!(error(&labelled("PUBLIC KEY")), KeyError::NotPem);
        assert_eq!(error(&labelled("ENCRYPTED PRIVATE KEY")), KeyError::Encrypted);
        let traditional = labelled("RSA PRIVATE KEY").replace("MC4C", "Proc-Type: 4,ENCRYPTED\n\nMC4C");
        assert_eq!(error(&traditional), KeyError::Encrypted);
        assert_eq!(error(&labelled("OPENSSH PRIVATE KEY")), KeyError::OpenSsh);
        for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            assert_eq!(error(&labelled(label)), KeyError::Unsupported, "{label}");
        }
        let wrong = SigningKey::from_pem(KEY.as_bytes(), Some(AssertionAlgorithm::Rs256)).map(|key| key.algorithm());
        assert_eq!(wrong, Err(KeyError::WrongType(AssertionAlgorithm::Rs256)));
    }
}
