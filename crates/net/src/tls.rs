//! TLS: what is trusted, and what a failed handshake means.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{TlsFault, WayConfig, WayError};

/// Where Linux distributions keep their bundle. `SSL_CERT_FILE` and its like are not asked: nothing is taken from the
/// environment.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(crate) fn client_config(config: &WayConfig, base_dir: &Path) -> Result<Arc<ClientConfig>, WayError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &config.ca_file {
        add_bundle(&mut roots, base_dir.join(file))?;
    }
    if config.system_roots.unwrap_or(config.ca_file.is_none()) {
        add_system_roots(&mut roots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let inner = if roots.is_empty() {
        None
    } else {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Some(builder.build().map_err(|_| Error::General("no usable CA".to_owned()))?)
    };
    let verifier =
        Arc::new(Verifier { inner, schemes: provider.signature_verification_algorithms.supported_schemes() });
    // The verifier adds nothing that is trusted: it only tells a self-signed certificate from an unknown issuer.
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add_bundle(roots: &mut RootCertStore, path: PathBuf) -> Result<(), WayError> {
    let pem = std::fs::read(&path).map_err(|source| WayError::Read { path: path.clone(), source })?;
    let mut count = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().and_then(|der| roots.add(der).ok());
        added.ok_or_else(|| WayError::NotPem { path: path.clone() })?;
        count += 1;
    }
    if count == 0 { Err(WayError::NotPem { path }) } else { Ok(()) }
}

/// Takes the first bundle there is. Without one every https target fails as of an unknown issuer, and plain http works.
fn add_system_roots(roots: &mut RootCertStore) {
    let Some(pem) = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) else {
        tracing::warn!("this system has no bundle of CA certificates: only a ca_file makes https work");
        return;
    };
    // A distribution's bundle may hold a certificate that cannot be parsed; the others count.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
}

/// Which fault a TLS error is.
pub(crate) fn fault(error: &Error) -> TlsFault {
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFault::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::WrongHost,
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
            CertificateError::Revoked => TlsFault::Revoked,
            CertificateError::Other(other) if other.0.is::<SelfSigned>() => TlsFault::SelfSigned,
            _ => TlsFault::BadCertificate,
        },
        Error::InvalidMessage(_) => TlsFault::NotTls,
        // RFC 8446 6.2: the alert is what a server sends that knows only older versions; others choose one of them.
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => TlsFault::OldVersion,
        Error::AlertReceived(_) => TlsFault::Alert,
        _ => TlsFault::Handshake,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the certificate is self-signed")]
struct SelfSigned;

/// webpki's verifier; names a refused self-signed certificate as such.
#[derive(Debug)]
struct Verifier {
    /// `None`: nothing is trusted.
    inner: Option<Arc<WebPkiServerVerifier>>,
    schemes: Vec<SignatureScheme>,
}

impl Verifier {
    fn inner(&self) -> Result<&WebPkiServerVerifier, Error> {
        self.inner.as_deref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .inner()
            .and_then(|inner| inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now));
        match verdict {
            // A self-signed CA certificate used as a server's fails as `Other` (CA used as end entity).
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if is_self_issued(end_entity) =>
            {
                Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(SelfSigned)))))
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Whether issuer and subject are the same (RFC 5280 4.1). Only words an error: nothing is trusted by it.
fn is_self_issued(der: &[u8]) -> bool {
    let names = || {
        let (_, certificate, _) = element(der)?;
        let (_, tbs, _) = element(certificate)?;
        let (tag, _, after_first) = element(tbs)?;
        // `[0]` version is optional; serialNumber follows it.
        let rest = if tag == 0xa0 { element(after_first)?.2 } else { after_first };
        let (_, _, rest) = element(rest)?; // signature
        let (_, issuer, rest) = element(rest)?;
        let (_, _, rest) = element(rest)?; // validity
        let (_, subject, _) = element(rest)?;
        Some(issuer == subject)
    };
    names().unwrap_or(false)
}

/// Tag, content and what follows of the first DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut len = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        len = digits.iter().fold(0, |len, digit| (len << 8) | usize::from(*digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}
