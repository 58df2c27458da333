//! The way to a vault.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use midward_core::{Failure, Secret};
use midward_net::{AddressGuard, ClientIdentity, IpNet, SendError, SendErrorKind, SendOptions, WayConfig, WayOut};
use url::Url;

use super::misconfigured;

/// Most bytes of an answer: a secret has at most 64 KiB, and JSON or base64 makes it longer.
const MAX_ANSWER: usize = 512 * 1024;

/// A way out with the addresses that it may dial. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    way: WayOut,
    guard: AddressGuard,
}

impl Network {
    /// To a cloud's public endpoint, or to the one that `endpoint` names: that may also be on this machine.
    pub(crate) fn to_vault(way: &WayOut, endpoint: Option<&Url>) -> Self {
        Self { way: way.clone(), guard: endpoint.map_or_else(AddressGuard::default, |_| anywhere()) }
    }

    /// The same way, on which this certificate is shown.
    pub(crate) fn identified(&self, identity: &ClientIdentity) -> Self {
        Self { way: self.way.identified(identity), guard: self.guard.clone() }
    }

    /// To the service on a link-local address that gives a machine its identity. Never through a proxy.
    pub(crate) fn to_metadata() -> Result<Self, Failure> {
        let config = WayConfig { system_roots: Some(true), connect_timeout_ms: Some(2_000), ..WayConfig::default() };
        let way = WayOut::new(&config, Path::new("/"))
            .map_err(|error| misconfigured(format!("the way to the instance metadata cannot be set up: {error}")))?;
        Ok(Self { way, guard: anywhere() })
    }

    /// A connection that the other side closed while it lay idle costs one more try: what is sent here only reads.
    pub(crate) async fn send(&self, request: Request<Bytes>, limit: Duration) -> Result<Response<Bytes>, SendError> {
        let again = request.clone();
        match self.send_once(request, limit).await {
            Err(SendError { kind: SendErrorKind::Closed, .. }) => self.send_once(again, limit).await,
            other => other,
        }
    }

    /// For what counts: an order that may have been carried out is not given again.
    pub(crate) async fn send_once(
        &self,
        request: Request<Bytes>,
        limit: Duration,
    ) -> Result<Response<Bytes>, SendError> {
        let options = SendOptions { deadline: limit, max_body: MAX_ANSWER, guard: self.guard.clone() };
        self.way.send(request, &options).await
    }
}

/// The owner of the MID named the host; the instance has no say in it.
fn anywhere() -> AddressGuard {
    let all = |address: IpAddr| IpNet::new(address, 0).ok();
    AddressGuard::new([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].into_iter().filter_map(all))
}

/// `https` with a host and nothing after it but a path; `http` only to this machine or a link-local address.
pub(crate) fn check_endpoint(name: &str, url: &Url) -> Result<(), Failure> {
    let near = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_link_local(),
        Some(url::Host::Ipv6(address)) => address.is_loopback() || address.segments()[0] == 0xfd00,
        _ => false,
    };
    let legal = url.host().is_some()
        && (url.scheme() == "https" || (url.scheme() == "http" && near))
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if legal {
        return Ok(());
    }
    Err(misconfigured(format!(
        "{name} must be https://HOST (http only for a loopback or link-local address), without user, query or fragment"
    )))
}

/// A file with something secret in it: an absolute path, readable by its owner only, at most 64 KiB of text.
pub(crate) fn read_private(name: &str, path: &Path) -> Result<Secret, Failure> {
    read(name, path, true)
}

/// The same for a file that is not text.
pub(crate) fn read_private_bytes(name: &str, path: &Path) -> Result<Secret, Failure> {
    read_bytes(name, path, true)
}

/// A private file with one line in it, of visible ASCII: a token, a key.
pub(crate) fn read_line(name: &str, path: &Path) -> Result<Secret, Failure> {
    one_line(name, path, &read(name, path, true)?)
}

/// The same for a file whose mode is not its owner's choice, as Kubernetes mounts them.
pub(crate) fn read_shared_line(name: &str, path: &Path) -> Result<Secret, Failure> {
    one_line(name, path, &read(name, path, false)?)
}

fn one_line(name: &str, path: &Path, text: &Secret) -> Result<Secret, Failure> {
    let line = text.expose().trim_ascii_end();
    if line.is_empty() || !line.iter().all(u8::is_ascii_graphic) {
        return Err(misconfigured(format!("{name}: {} does not hold one line of visible ASCII", path.display())));
    }
    Ok(Secret::new(line.to_vec()))
}

fn read(name: &str, path: &Path, private: bool) -> Result<Secret, Failure> {
    let secret = read_bytes(name, path, private)?;
    if secret.expose_str().is_none() {
        return Err(misconfigured(format!("{name}: {} is no text", path.display())));
    }
    Ok(secret)
}

fn read_bytes(name: &str, path: &Path, private: bool) -> Result<Secret, Failure> {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    const LIMIT: u64 = 64 * 1024;
    if !path.is_absolute() {
        return Err(misconfigured(format!("{name} must be an absolute path")));
    }
    let unread =
        |error: std::io::Error| misconfigured(format!("{name}: {} cannot be read: {}", path.display(), error.kind()));
    let file = std::fs::File::open(path).map_err(unread)?;
    let metadata = file.metadata().map_err(unread)?;
    if private && metadata.mode() & 0o077 != 0 {
        return Err(misconfigured(format!("{name}: {} can be read by others; chmod 600 it", path.display())));
    }
    // Enough room from the start, so that no unwiped copy is left behind by growing.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(LIMIT)).unwrap_or(0) + 2);
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(unread)?;
    let secret = Secret::new(bytes);
    if secret.len() as u64 > LIMIT {
        return Err(misconfigured(format!("{name}: {} is larger than 64 KiB", path.display())));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_nearby_http_are_endpoints() {
        for (url, legal) in [
            ("https://vault.example", true),
            ("https://10.0.0.1:8443/", true),
            ("http://127.0.0.1:5000", true),
            ("http://169.254.169.254", true),
            ("http://vault.example", false),
            ("http://localhost:1", false),
            ("https://u:p@vault.example", false),
            ("https://vault.example/?a=b", false),
            ("ftp://vault.example", false),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(check_endpoint("endpoint", &url).is_ok(), legal, "{url}");
        }
    }

    #[test]
    fn a_private_file_is_read_from_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        std::fs::write(&path, "hunter2").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
        let refused = read_private("file", &path).expect_err("others can read it");
        assert!(refused.detail.contains("chmod 600"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        assert_eq!(read_private("file", &path).expect("private").expose(), b"hunter2");
        std::fs::write(&path, "hunter2\r\n").expect("written");
        assert_eq!(read_line("file", &path).expect("a line").expose(), b"hunter2");
        for bad in ["\n", "two lines\n", "two\nlines", "\u{e9}"] {
            std::fs::write(&path, bad).expect("written");
            assert!(read_line("file", &path).is_err(), "{bad:?}");
        }
        std::fs::write(&path, "hunter2").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
        assert!(read_line("file", &path).is_err());
        assert_eq!(read_shared_line("file", &path).expect("a line").expose(), b"hunter2");
        assert!(read_private("file", Path::new("key")).is_err());
        assert!(read_private("file", &folder.path().join("none")).is_err());
    }
}
