//! Certificates that are renewed while the instance runs: new connections get the new one.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;
use crate::tls::{self, Tls};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// What new connections are served with.
#[derive(Clone, Debug)]
pub(crate) struct CurrentTls(Arc<RwLock<Arc<ServerConfig>>>);

impl CurrentTls {
    pub(crate) fn new(tls: &Tls) -> Self {
        Self(Arc::new(RwLock::new(Arc::clone(&tls.server))))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files until `shutdown`. Files that do not go together, as in the middle of a renewal, change nothing.
    pub(crate) async fn follow(self, files: TlsFiles, shutdown: CancellationToken) {
        let mut known = state(&files);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            self.look(&files, &mut known);
        }
    }

    fn look(&self, files: &TlsFiles, known: &mut (FileState, FileState)) {
        let now = state(files);
        if now == *known {
            return;
        }
        *known = now;
        match tls::from_files(files) {
            Ok(tls) => {
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = tls.server;
                tracing::info!(cert = %files.cert.display(), "the certificate was read anew");
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate or key cannot be used; the one before goes on being served");
            }
        }
    }
}

type FileState = Option<(SystemTime, u64)>;

fn state(files: &TlsFiles) -> (FileState, FileState) {
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    (of(&files.cert), of(&files.key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    fn renew(files: &TlsFiles) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&files.cert, made.cert.pem()).expect("written");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        made.cert.der().clone()
    }

    /// Whether a client that trusts only `cert` gets a connection.
    async fn serves(current: &CurrentTls, cert: &CertificateDer<'static>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(cert.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from("localhost").expect("a name");
        let (client, _) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, ours),
            TlsAcceptor::from(current.config()).accept(theirs)
        );
        client.is_ok()
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), ca: None };
        let first = renew(&files);
        let current = CurrentTls::new(&tls::from_files(&files).expect("files"));
        let mut known = state(&files);
        assert!(serves(&current, &first).await);
        std::fs::write(&files.cert, "half of a certifi").expect("written");
        current.look(&files, &mut known);
        assert!(serves(&current, &first).await, "what cannot be used changes nothing");
        let second = renew(&files);
        current.look(&files, &mut known);
        assert!(serves(&current, &second).await && !serves(&current, &first).await);
    }
}
