//! A client certificate for TLS.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its private key, ready for handshakes. Cheap to clone. The key lies in the TLS library for
/// as long as a clone lives.
#[derive(Clone)]
pub struct ClientIdentity(pub(crate) Arc<CertifiedKey>);

/// Why a certificate and its key cannot be used. Nothing of either is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate is not PEM, or broken")]
    Certificate,
    #[error("the private key is not PEM, or of a kind that is not known (RSA, EC and Ed25519 are)")]
    Key,
    #[error("the private key is not the certificate's")]
    Mismatch,
}

impl ClientIdentity {
    /// `chain`: PEM, leaf first. `private_key`: PEM (PKCS #8, SEC 1 or PKCS #1).
    pub fn from_pem(chain: &[u8], private_key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|_| IdentityError::Certificate)?;
        let leaf = chain.first().ok_or(IdentityError::Certificate)?;
        // Looked at now, so that a broken one is told from a wrong key.
        rustls::server::ParsedCertificate::try_from(leaf).map_err(|_| IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(private_key).map_err(|_| IdentityError::Key)?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| IdentityError::Mismatch)?;
        Ok(Self(Arc::new(certified)))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(redacted)")
    }
}
