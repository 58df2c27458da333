//! `instance.toml`: one struct per section, unknown keys refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use midward_core::config_error;
use midward_telemetry::{LogFormat, TelemetryConfig};
use serde::Deserialize;

/// Most that `limits.body_bytes` can be: in base64, with others in the same answer, a MID still takes it.
const LARGEST_BODY: usize = 32 * 1024 * 1024;

/// The largest message of all, with room: a body of the largest size in base64, among others.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// ```
/// let config: midward_instance::InstanceConfig = toml::from_str(
///     r#"
///     [server]
///     listen = "127.0.0.1:8440"
///     call_listen = "127.0.0.1:8441"
///     tls = "self_signed"
///     [store]
///     path = "/var/lib/midward"
///     [limits]
///     body_bytes = 4194304
///     [retention]
///     finished_hours = 24
///     [encryption]
///     key_file = "/etc/midward/at-rest.key"
///     [audit]
///     keep_days = 3650
///     [log]
///     format = "json"
///     [telemetry]
///     endpoint = "https://collector.example.com:4318"
///     "#,
/// )?;
/// assert_eq!(config.server.listen.port(), 8440);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceConfig {
    pub server: ServerConfig,
    pub store: StoreConfig,
    pub limits: LimitsConfig,
    pub retention: RetentionConfig,
    pub encryption: EncryptionConfig,
    pub audit: AuditConfig,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the API and of the MIDs' side. Port 0: any free one.
    pub listen: SocketAddr,
    /// Address of the synchronous calls: another origin than the API's, because it answers with what APIs answered.
    pub call_listen: SocketAddr,
    /// How MIDs reach `listen`, `https://host:port`. Default: the address itself.
    pub public_url: Option<String>,
    pub tls: TlsConfig,
    /// How long `/readyz` says no before the instance takes nothing new, once it is to stop, in seconds: so that a
    /// balancer has turned away by then.
    pub leave_seconds: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8440)),
            call_listen: SocketAddr::from(([127, 0, 0, 1], 8441)),
            public_url: None,
            tls: TlsConfig::Mode(TlsMode::SelfSigned),
            leave_seconds: 0,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum TlsConfig {
    Mode(TlsMode),
    Files(TlsFiles),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// A CA of the instance's own, in its data folder.
    SelfSigned,
    /// Plain HTTP; only on loopback addresses.
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM; readable by its owner only.
    pub key: PathBuf,
    /// PEM of the CA that signed `cert`, handed to MIDs at enrollment; absent when it is a public one.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Data folder: keys, certificates, and the SQLite database unless `postgres` is given.
    pub path: PathBuf,
    /// Folder of `instance.key`, `ca.key` and `ca.pem`. Default: the data folder. Replicas are given the same files.
    pub keys: Option<PathBuf>,
    /// A PostgreSQL database in place of the embedded SQLite.
    pub postgres: Option<PostgresConfig>,
}

/// `[store.postgres]`.
///
/// ```
/// let config: midward_instance::PostgresConfig = toml::from_str(
///     r#"
///     url = "postgres://midward@db.example.com/midward?sslmode=verify-full&sslrootcert=/etc/midward/db-ca.pem"
///     password_file = "/etc/midward/db-password"
///     "#,
/// )?;
/// assert_eq!(config.connections, 10);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database`, with libpq's parameters behind `?`; never with a password.
    pub url: String,
    /// Holds the password and nothing else; readable by its owner only. None: the server asks for none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Most connections that this instance opens.
    #[serde(default = "ten")]
    pub connections: u32,
}

fn ten() -> u32 {
    10
}

impl StoreConfig {
    /// Where the instance's own keys are.
    pub(crate) fn keys(&self) -> &Path {
        self.keys.as_deref().unwrap_or(&self.path)
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("midward-data"), keys: None, postgres: None }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest body of a call, in bytes.
    pub body_bytes: usize,
    /// Most bytes of bodies that are read or looked at, of callers and of MIDs each.
    pub bodies_in_memory_bytes: usize,
    /// Most connections open at once, per listener.
    pub connections: usize,
    /// Most requests in the queue, of all instances on the database.
    pub queued_requests: u64,
    /// Most bytes of their calls, as they are stored.
    pub queued_bytes: u64,
    /// Default expiry of queued requests, in milliseconds.
    pub expires_in_ms: u64,
    /// Longest wait of a synchronous caller, in milliseconds.
    pub call_wait_ms: u64,
    /// Most requests a second of each client without a limit of its own, per instance; 0: no limit.
    pub requests_per_second: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body_bytes: 4 * 1024 * 1024,
            bodies_in_memory_bytes: 256 * 1024 * 1024,
            connections: 10_000,
            queued_requests: 1_000_000,
            queued_bytes: 4 * 1024 * 1024 * 1024,
            expires_in_ms: 15 * 60 * 1000,
            call_wait_ms: 30_000,
            requests_per_second: 0,
        }
    }
}

/// `[retention]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// How long a finished request is kept, with its answer and its idempotency key, in hours.
    pub finished_hours: u32,
    /// Most bytes of calls and answers of finished requests; the oldest go first. None: no limit.
    pub finished_bytes: Option<u64>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { finished_hours: 7 * 24, finished_bytes: None }
    }
}

/// `[encryption]`: of calls and answers in the database. A key is 32 random bytes, in hexadecimal or base64, in a file
/// of its owner's only, or a credential of systemd's.
///
/// ```
/// let config: midward_instance::EncryptionConfig = toml::from_str(
///     r#"
///     key_credential = "midward-at-rest"
///     older_key_files = ["/etc/midward/at-rest-2025.key"]
///     "#,
/// )?;
/// assert_eq!(config.older_key_files.len(), 1);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncryptionConfig {
    /// The key that is written with. None, and no credential: nothing is encrypted.
    pub key_file: Option<PathBuf>,
    /// The same as the name of a credential (`LoadCredential=`).
    pub key_credential: Option<String>,
    /// Keys to read by.
    pub older_key_files: Vec<PathBuf>,
    pub older_key_credentials: Vec<String>,
    /// Names of keys that are gone for good: what was written with them is given up.
    pub lost_keys: Vec<String>,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// How long entries are kept, in days.
    pub keep_days: u32,
    /// How often a checkpoint is signed, in seconds.
    pub checkpoint_seconds: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { keep_days: 400, checkpoint_seconds: 60 }
    }
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
}

impl InstanceConfig {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| {
            // Its own text repeats the line, in which there may be a secret.
            let reason = config_error(error.message(), &text, error.span().map(|span| span.start));
            ConfigError::Invalid { path: path.to_owned(), reason }
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.store.path = folder.join(&config.store.path);
        config.telemetry.make_absolute(folder);
        config.store.keys = config.store.keys.map(|keys| folder.join(keys));
        if let Some(file) = config.store.postgres.as_mut().and_then(|postgres| postgres.password_file.as_mut()) {
            *file = folder.join(&*file);
        }
        for file in config.encryption.key_file.iter_mut().chain(&mut config.encryption.older_key_files) {
            *file = folder.join(&*file);
        }
        if config.limits.body_bytes > LARGEST_BODY {
            let reason = format!("limits.body_bytes is larger than {LARGEST_BODY}, which is the most that a MID takes");
            return Err(ConfigError::Invalid { path: path.to_owned(), reason });
        }
        if config.limits.bodies_in_memory_bytes < LARGEST_MESSAGE {
            let reason =
                format!("limits.bodies_in_memory_bytes is less than {LARGEST_MESSAGE}: one message may need it");
            return Err(ConfigError::Invalid { path: path.to_owned(), reason });
        }
        if let TlsConfig::Files(files) = &mut config.server.tls {
            for file in [Some(&mut files.cert), Some(&mut files.key), files.ca.as_mut()].into_iter().flatten() {
                *file = folder.join(&*file);
            }
        }
        Ok(config)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a valid configuration: {reason}")]
    Invalid { path: PathBuf, reason: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_a_word_or_files() {
        let tls = |text: &str| toml::from_str::<InstanceConfig>(text).map(|config| config.server.tls);
        assert!(matches!(tls("[server]\ntls = \"off\""), Ok(TlsConfig::Mode(TlsMode::Off))));
        assert!(matches!(tls("[server.tls]\ncert = \"a\"\nkey = \"b\""), Ok(TlsConfig::Files(_))));
        assert!(tls("[server]\ntls = \"none\"").is_err());
        assert!(tls("[server]\npasword = \"x\"").is_err());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_what_stands_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("instance.toml");
        for (line, told) in [
            ("password = \"hunter2\"", "line 2: unknown field `password`, expected one of `url`"),
            ("connections = \"hunter2\"", "line 2: invalid type: string, expected u32"),
            ("url = hunter2", "line 2: "),
        ] {
            std::fs::write(&file, format!("[store.postgres]\n{line}\n")).expect("written");
            let error = InstanceConfig::read(&file).expect_err(line).to_string();
            assert!(error.contains(&format!("is not a valid configuration: {told}")), "{error}");
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
    }
}
