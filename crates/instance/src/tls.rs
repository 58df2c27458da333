//! The server's certificate: the customer's own files, or one signed by a CA that the instance makes for itself.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use midward_core::WallTime;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::config::TlsFiles;
use crate::keys::{KeyError, read_private, write_private};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} does not hold the PEM that belongs there")]
    NotPem(PathBuf),
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the certificate and key cannot be used: {0}")]
    Use(#[from] rustls::Error),
}

/// What the listeners need, and what MIDs are given to know the instance by.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    /// Where `server` came from, when it did not come from the instance itself.
    pub(crate) files: Option<TlsFiles>,
    /// PEM of the CA, unless it is a public one.
    pub(crate) ca_pem: Option<String>,
    /// Where the CA's PEM is.
    pub(crate) ca_path: Option<PathBuf>,
}

/// Uses the files of the configuration.
pub(crate) fn from_files(files: &TlsFiles) -> Result<Tls, TlsError> {
    let not_pem = |path: &Path| TlsError::NotPem(path.to_owned());
    let chain = read(&files.cert)?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(|_| not_pem(&files.cert))?;
    let key = read_private(&files.key)?.ok_or_else(|| not_pem(&files.key))?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| not_pem(&files.key))?;
    let ca_pem = files.ca.as_deref().map(read).transpose()?;
    Ok(Tls { server: server(chain, key)?, files: Some(files.clone()), ca_pem, ca_path: files.ca.clone() })
}

/// Signs a certificate for `hosts` with the CA in `folder`, which is made when there is none. The certificate's own
/// key is new at every start and never leaves memory.
pub(crate) fn self_signed(folder: &Path, hosts: &[String], now: WallTime) -> Result<Tls, TlsError> {
    let (cert_path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
    let key = if let Some(pem) = read_private(&key_path)? {
        KeyPair::from_pem(pem.expose_str().ok_or_else(|| TlsError::NotPem(key_path.clone()))?)?
    } else {
        let key = KeyPair::generate()?;
        write_private(&key_path, key.serialize_pem().as_bytes())?;
        key
    };
    let year = i32::try_from(1970 + now.unix_seconds() / 31_556_952).unwrap_or(2026);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Midward instance CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = rcgen::date_time_ymd(year + 20, 1, 1);
    let ca_pem = if cert_path.exists() {
        read(&cert_path)?
    } else {
        let pem = params.self_signed(&key)?.pem();
        std::fs::write(&cert_path, &pem).map_err(|source| TlsError::Io { path: cert_path.clone(), source })?;
        pem
    };
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(hosts.to_vec())?;
    leaf.distinguished_name.push(DnType::CommonName, "Midward instance");
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    leaf.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    let leaf = leaf.signed_by(&leaf_key, &issuer)?;
    let leaf_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let server = server(vec![leaf.der().clone()], leaf_key)?;
    Ok(Tls { server, files: None, ca_pem: Some(ca_pem), ca_path: Some(cert_path) })
}

/// Names and addresses that a self-signed certificate is for.
pub(crate) fn hosts(addresses: &[IpAddr], public_url: Option<&str>) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let public = public_url.and_then(|url| url::Url::parse(url).ok());
    let public = public.as_ref().and_then(url::Url::host_str).map(|host| host.trim_matches(['[', ']']).to_owned());
    let listened = addresses.iter().filter(|address| !address.is_unspecified()).map(ToString::to_string);
    for host in listened.chain(public) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}
