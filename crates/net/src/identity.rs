//! A client certificate for TLS.

use std::fmt;
use std::sync::Arc;

use midward_core::Secret;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

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
    #[error("it is no PKCS #12 file with a private key and its certificate, or encrypted in a way that is not known")]
    Pfx,
    #[error("the password is not that of the PKCS #12 file")]
    Password,
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

    /// A PKCS #12 file (`.pfx`, `.p12`) with its password, which is empty where there is none.
    pub fn from_pfx(file: &[u8], password: &Secret) -> Result<Self, IdentityError> {
        let contents = crate::pfx::read(file, password.expose_str().ok_or(IdentityError::Password)?)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(contents.key.as_slice()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| IdentityError::Key)?;
        let chain: Vec<_> = contents.certificates.into_iter().map(CertificateDer::from).collect();
        // The order in the file says nothing.
        for leaf in 0..chain.len() {
            let mut ordered = chain.clone();
            ordered[..=leaf].rotate_right(1);
            let certified = CertifiedKey::new(ordered, Arc::clone(&key));
            if certified.keys_match().is_ok() {
                return Ok(Self(Arc::new(certified)));
            }
        }
        Err(IdentityError::Mismatch)
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(redacted)")
    }
}
