//! The settings of one way out.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use midward_core::Secret;
use serde::{Deserialize, Serialize};
use url::Url;

/// One way out: to the instance, to vaults, to authorization servers, or to APIs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayConfig {
    /// PEM bundle of the CAs to trust. The system's CAs are then no longer trusted, unless `system_roots = true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether the system's CAs are trusted; default: only when there is no `ca_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_roots: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyConfig>,
    /// Milliseconds for name resolution, TCP, TLS and the proxy together; default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
}

/// An HTTP proxy: `CONNECT` for https, absolute-form requests for http.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// `http://host:port` or `https://host:port`, nothing more.
    pub url: String,
    /// For Basic authentication, together with `password_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File that holds the password, readable by its owner only (0600 or 0400). One line end at its end is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    #[error("the file {path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no PEM certificate, or a broken one")]
    NotPem { path: PathBuf },
    #[error("the proxy's URL must be http://host:port or https://host:port, without user, password, path or query")]
    ProxyUrl,
    #[error("the proxy needs both username and password_file, or neither")]
    ProxyCredentials,
    #[error("the proxy's username must not hold a colon or a control character")]
    ProxyUser,
    #[error("{path} can be read by others: chmod 600 it")]
    PasswordFileMode { path: PathBuf },
    #[error("{path} holds no password, or one longer than 4096 bytes")]
    PasswordFile { path: PathBuf },
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_PASSWORD_LEN: u64 = 4096;

impl WayConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout_ms.map_or(DEFAULT_CONNECT_TIMEOUT, Duration::from_millis)
    }
}

/// A proxy that is ready to be dialled.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `scheme://host:port`, for policy.
    pub(crate) origin: String,
    /// Value of `Proxy-Authorization`, marked sensitive.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    pub(crate) fn new(config: &ProxyConfig, base_dir: &Path) -> Result<Self, WayError> {
        let url = Url::parse(&config.url).map_err(|_| WayError::ProxyUrl)?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(WayError::ProxyUrl),
        };
        let (Some(host), Some(port), true) = (url.host_str(), url.port_or_known_default(), bare) else {
            return Err(WayError::ProxyUrl);
        };
        let authorization = match (&config.username, &config.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some(basic(user, &base_dir.join(file))?),
            _ => return Err(WayError::ProxyCredentials),
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            origin: format!("{}://{host}:{port}", url.scheme()),
            authorization,
        })
    }
}

/// RFC 7617.
fn basic(user: &str, path: &Path) -> Result<HeaderValue, WayError> {
    if user.contains(':') || user.chars().any(char::is_control) {
        return Err(WayError::ProxyUser);
    }
    let password = read_password(path)?;
    let mut pair = zeroize::Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
    pair.extend_from_slice(user.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(password.expose());
    let text = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(&pair)));
    let mut value = HeaderValue::from_str(&text).map_err(|_| WayError::PasswordFile { path: path.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_password(path: &Path) -> Result<Secret, WayError> {
    let read = |source| WayError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.mode() & 0o077 != 0 {
        return Err(WayError::PasswordFileMode { path: path.to_owned() });
    }
    // Enough room from the start, so that no unwiped copy is left behind by growing.
    let mut bytes = Vec::with_capacity(8192);
    file.take(MAX_PASSWORD_LEN + 2).read_to_end(&mut bytes).map_err(read)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let password = Secret::new(bytes);
    if password.is_empty() || password.len() as u64 > MAX_PASSWORD_LEN {
        return Err(WayError::PasswordFile { path: path.to_owned() });
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn proxy(url: &str) -> ProxyConfig {
        ProxyConfig { url: url.to_owned(), username: None, password_file: None }
    }

    fn write(dir: &Path, text: &str, mode: u32) -> PathBuf {
        let path = dir.join("password");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        path
    }

    #[test]
    fn only_a_bare_origin_is_a_proxy() {
        let dir = Path::new("/");
        let good = Proxy::new(&proxy("HTTP://Proxy.Example:3128"), dir).expect("a proxy");
        assert_eq!((good.origin.as_str(), good.tls), ("http://proxy.example:3128", false));
        assert_eq!(Proxy::new(&proxy("https://p"), dir).expect("a proxy").port, 443);
        for bad in ["p:3128", "socks5://p:1", "http://u:p@p:1", "http://u@p:1", "http://p:1/x", "http://p:1/?q", ""] {
            assert!(matches!(Proxy::new(&proxy(bad), dir), Err(WayError::ProxyUrl)), "{bad:?}");
        }
    }

    #[test]
    fn a_password_comes_from_a_file_of_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = proxy("http://p:1");
        config.username = Some("user".into());
        assert!(matches!(Proxy::new(&config, dir.path()), Err(WayError::ProxyCredentials)));
        config.password_file = Some("password".into());
        assert!(matches!(Proxy::new(&config, dir.path()), Err(WayError::Read { .. })));
        write(dir.path(), "pass:word\n", 0o640);
        assert!(matches!(Proxy::new(&config, dir.path()), Err(WayError::PasswordFileMode { .. })));
        std::fs::remove_file(dir.path().join("password")).expect("removed");
        write(dir.path(), "pass:word\n", 0o600);
        let value = Proxy::new(&config, dir.path()).expect("a proxy").authorization.expect("credentials");
        assert_eq!(value.as_bytes(), b"Basic dXNlcjpwYXNzOndvcmQ=");
        assert!(!format!("{value:?}").contains("dXNl"));
        write(dir.path(), "\n", 0o600);
        assert!(matches!(Proxy::new(&config, dir.path()), Err(WayError::PasswordFile { .. })));
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(toml::from_str::<WayConfig>("ca_file = 'x'\n[proxy]\nurl = 'http://p:1'").is_ok());
        assert!(toml::from_str::<WayConfig>("ca = 'x'").is_err());
        assert!(toml::from_str::<WayConfig>("[proxy]\nurl = 'http://p:1'\npassword = 'x'").is_err());
    }
}
