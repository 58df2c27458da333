//! The way to a Central Credential Provider, with the client certificate from its files. They are looked at for each
//! look-up, so that a renewed certificate is used without a restart.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use midward_core::{Failure, Secret};
use midward_net::{ClientIdentity, WayOut};
use url::Url;

use super::config::CyberArkCcpConfig;
use crate::cloud::{Network, misconfigured, read_private, read_private_bytes};

/// Where the client certificate comes from.
#[derive(Clone, Debug)]
enum Source {
    None,
    Pem { certificate: PathBuf, key: PathBuf },
    Pfx { file: PathBuf, password: Option<PathBuf> },
}

/// What tells that a file is another one than before.
type Mark = Vec<Option<(SystemTime, u64)>>;

pub(super) struct Door {
    way: WayOut,
    url: Url,
    source: Source,
    open: Mutex<Option<(Mark, Network)>>,
}

impl Door {
    pub(super) fn new(way: &WayOut, config: &CyberArkCcpConfig) -> Result<Self, Failure> {
        let own = &config.own;
        let source = match (&own.certificate_file, &own.key_file, &own.pfx_file, &own.pfx_password_file) {
            (None, None, None, None) => Source::None,
            (Some(certificate), Some(key), None, None) => {
                Source::Pem { certificate: certificate.clone(), key: key.clone() }
            }
            (None, None, Some(file), password) => Source::Pfx { file: file.clone(), password: password.clone() },
            _ => {
                return Err(misconfigured(
                    "a client certificate is either certificate_file with key_file, or pfx_file with pfx_password_file",
                ));
            }
        };
        Ok(Self { way: way.clone(), url: own.url.clone(), source, open: Mutex::new(None) })
    }

    /// Whether a client certificate is shown at all.
    pub(super) fn is_identified(&self) -> bool {
        !matches!(self.source, Source::None)
    }

    /// The connections to use now. Reads files: small ones, on the MID's own disk.
    pub(super) fn network(&self) -> Result<Network, Failure> {
        let mark: Mark = self.source.files().map(mark).collect();
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, network)) = known.filter(|(known, _)| *known == mark) {
            return Ok(network);
        }
        // Two who come at once both read the files, and one's connections are kept: no lock is held meanwhile.
        let way = match self.source.identity()? {
            Some(identity) => self.way.identified(&identity),
            None => self.way.clone(),
        };
        let network = Network::to_vault(&way, Some(&self.url));
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((mark, network.clone()));
        Ok(network)
    }
}

impl Source {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let (one, two) = match self {
            Self::None => (None, None),
            Self::Pem { certificate, key } => (Some(certificate), Some(key)),
            Self::Pfx { file, password } => (Some(file), password.as_ref()),
        };
        one.into_iter().chain(two).map(PathBuf::as_path)
    }

    fn identity(&self) -> Result<Option<ClientIdentity>, Failure> {
        let unusable = |name: &str, error: midward_net::IdentityError| {
            misconfigured(format!("the client certificate of {name} cannot be used: {error}"))
        };
        match self {
            Self::None => Ok(None),
            Self::Pem { certificate, key } => {
                let chain = std::fs::read(certificate).map_err(|error| {
                    misconfigured(format!(
                        "certificate_file: {} cannot be read: {}",
                        certificate.display(),
                        error.kind()
                    ))
                })?;
                let key = read_private("key_file", key)?;
                ClientIdentity::from_pem(&chain, key.expose())
                    .map(Some)
                    .map_err(|error| unusable("certificate_file", error))
            }
            Self::Pfx { file, password } => {
                let pfx = read_private_bytes("pfx_file", file)?;
                let password = password.as_deref().map(|path| read_private("pfx_password_file", path)).transpose()?;
                let password = password.map_or_else(|| Secret::from(""), |password| without_line_end(&password));
                ClientIdentity::from_pfx(pfx.expose(), &password).map(Some).map_err(|error| unusable("pfx_file", error))
            }
        }
    }
}

fn mark(path: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn without_line_end(secret: &Secret) -> Secret {
    let bytes = secret.expose();
    let line = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
    Secret::new(line.to_vec())
}
