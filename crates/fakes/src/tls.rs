//! A certificate authority for tests, and the TLS set-ups made from it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private CA, made at start; nothing of it is kept.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key, both as PEM.
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// How a fake's listener speaks.
#[derive(Clone, Default)]
pub enum Tls {
    #[default]
    Plain,
    /// A certificate for `localhost` and 127.0.0.1 from this CA.
    Server(Arc<Ca>),
    /// The same, and clients must show a certificate from the same CA.
    Mutual(Arc<Ca>),
    /// The same, and clients may show one.
    Optional(Arc<Ca>),
}

impl Ca {
    pub fn generate(common_name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Strict clients (OpenSSL 3 with X509_STRICT, Python 3.13) refuse a CA without keyUsage.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate, for a client's trust bundle.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A client's certificate.
    pub fn issue_client(&self, common_name: &str) -> io::Result<Identity> {
        let (certificate, key) = self.issue(common_name, &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A server's certificate for these DNS names and addresses.
    pub fn issue_server(&self, names: &[&str]) -> io::Result<Identity> {
        let (certificate, key) = self.issue("server", names, ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A client's set-up that trusts this CA and nothing else.
    pub fn client_config(&self) -> io::Result<Arc<ClientConfig>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(io::Error::other)?;
        Ok(roots)
    }

    fn issue(
        &self,
        common_name: &str,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> io::Result<(rcgen::Certificate, KeyPair)> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok((certificate, key))
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Tls {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Server(_) | Self::Mutual(_) | Self::Optional(_) => "https",
        }
    }

    /// The CA, when there is one.
    pub fn ca(&self) -> Option<&Arc<Ca>> {
        match self {
            Self::Plain => None,
            Self::Server(ca) | Self::Mutual(ca) | Self::Optional(ca) => Some(ca),
        }
    }

    pub(crate) fn server_config(&self) -> io::Result<Option<Arc<ServerConfig>>> {
        let Some(ca) = self.ca() else { return Ok(None) };
        let (certificate, key) =
            ca.issue("localhost", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let verifier =
            || Ok::<_, io::Error>(WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()?), provider()));
        let builder = match self {
            Self::Plain | Self::Server(_) => builder.with_no_client_auth(),
            Self::Mutual(_) => builder.with_client_cert_verifier(verifier()?.build().map_err(io::Error::other)?),
            Self::Optional(_) => {
                let optional = verifier()?.allow_unauthenticated();
                builder.with_client_cert_verifier(optional.build().map_err(io::Error::other)?)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).map_err(io::Error::other)?;
        Ok(Some(Arc::new(config)))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
