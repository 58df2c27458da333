//! The settings of resolvers that run a JAR: each kind's own, and those of the process, which all kinds share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, de};

use super::{JarDigest, SandboxMode, Target};
use crate::{AimVersion, CredentialId, LookupBy, RunAs};

/// `kind = "jar"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JarConfig {
    pub own: JarSettings,
    pub process: ProcessConfig,
}

/// `kind = "cyberark_sdk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CyberArkSdkConfig {
    pub own: CyberArkSdkSettings,
    pub process: ProcessConfig,
}

/// What only a customer's own resolver JAR has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JarSettings {
    /// The JAR's name on the instance, which gives it; in place of `jar`, and only with `sha256`.
    #[serde(default)]
    pub from_instance: Option<String>,
    #[serde(default = "default_class")]
    pub class: String,
    /// What the JAR gets as `type`.
    #[serde(default = "default_credential_type")]
    pub credential_type: String,
    /// MID parameters: `config(map)` gets those that begin with `ext.cred`, `Config.get()` sees all. No secrets.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// What only CyberArk's SDK has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CyberArkSdkSettings {
    #[serde(default = "default_app_id")]
    pub app_id: String,
    /// The safe for identifiers that name none.
    #[serde(default)]
    pub safe: Option<String>,
    #[serde(default = "default_folder")]
    pub folder: String,
    /// Between the parts of a credential identifier (`safe.cred.split.string` of a MID Server).
    #[serde(default = "default_separator")]
    pub separator: String,
    /// The provider's port, when it is not the default one.
    #[serde(default)]
    pub port: Option<u16>,
    /// The SDK's own connection time-out, in seconds.
    #[serde(default)]
    pub connection_timeout_s: Option<u32>,
    /// Shown in the vault's own audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// The platform (policy id) for identifiers that name none.
    #[serde(default)]
    pub platform: Option<String>,
    #[serde(default)]
    pub lookup_by: LookupBy,
    /// What the JAR's version must be: `installed`, `any`, or a version such as `14.2`.
    #[serde(default)]
    pub aim_version: AimVersion,
}

/// The JAR's files, and the JVM process that runs them: the same for every kind of JAR.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Empty until it is known where a JAR from the instance is kept.
    #[serde(default)]
    pub jar: PathBuf,
    /// Its `*.jar` files join the JAR's class path; by default `lib/` beside the JAR, when there is one.
    #[serde(default)]
    pub lib_dir: Option<PathBuf>,
    /// What the JAR and its libraries must be; others are not loaded.
    #[serde(default)]
    pub sha256: Option<JarDigest>,
    /// Names of environment variables of the MID that the JAR's process gets. It gets no others.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Further environment variables with their values. No secrets.
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    /// The `java` program for this resolver.
    #[serde(default)]
    pub java: Option<PathBuf>,
    /// The JVM's largest heap, in MiB.
    #[serde(default = "default_heap_mib")]
    pub heap_mib: u32,
    /// Longest call, in milliseconds; a call that takes longer is ended together with the JVM.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Calls side by side in the JVM, each on an object of its own.
    #[serde(default = "default_concurrency")]
    pub concurrency: u16,
    /// Calls after which the JVM is replaced.
    #[serde(default = "default_recycle_after_calls")]
    pub recycle_after_calls: u64,
    /// Resident size, in MiB, above which the JVM is replaced; the heap and 192 MiB unless set.
    #[serde(default)]
    pub resident_limit_mib: Option<u64>,
    /// The user that the JVM runs as, in place of the MID's.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    /// Whether the JAR must be isolated (`required`), as far as the kernel can (`best_effort`), or not at all (`off`).
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// What the JAR and its programs may connect to by TCP: hosts with their ports, in a network of their own.
    #[serde(default)]
    pub connect: Vec<Target>,
    /// TCP ports that the JAR and its programs may connect to, on any host. None unless listed, but for the AIM
    /// provider's with `cyberark_sdk`.
    #[serde(default)]
    pub connect_ports: Vec<u16>,
    /// UDP with any host and port. A look-up of a host name in DNS needs it.
    #[serde(default)]
    pub udp: bool,
    /// Any Unix socket that the MID's user may use.
    #[serde(default)]
    pub unix_sockets: bool,
    /// Files and folders, by absolute paths, that the JAR and its programs may read.
    #[serde(default)]
    pub readable_paths: Vec<PathBuf>,
    /// Folders, by absolute paths, in which they may change files.
    #[serde(default)]
    pub writable_paths: Vec<PathBuf>,
    /// Programs, or folders of programs, by absolute paths, that they may start. The AIM client is one already.
    #[serde(default)]
    pub executables: Vec<PathBuf>,
}

impl<'de> Deserialize<'de> for JarConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (own, process): (JarSettings, ProcessConfig) = split(deserializer)?;
        let has_file = !process.jar.as_os_str().is_empty();
        match &own.from_instance {
            None if !has_file => Err(D::Error::missing_field("jar")),
            Some(_) if has_file || process.lib_dir.is_some() => {
                Err(D::Error::custom("`from_instance` excludes `jar` and `lib_dir`"))
            }
            Some(_) if process.sha256.is_none() => Err(D::Error::custom("`from_instance` needs `sha256`")),
            _ => Ok(Self { own, process }),
        }
    }
}

impl<'de> Deserialize<'de> for CyberArkSdkConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (own, process): (CyberArkSdkSettings, ProcessConfig) = split(deserializer)?;
        if process.jar.as_os_str().is_empty() {
            return Err(D::Error::missing_field("jar"));
        }
        Ok(Self { own, process })
    }
}

/// Reads one section into two structs that know their keys. serde's `flatten` would do, but for unknown keys: with it
/// none is refused.
fn split<'de, D, Own>(deserializer: D) -> Result<(Own, ProcessConfig), D::Error>
where
    D: Deserializer<'de>,
    Own: DeserializeOwned,
{
    let (own_keys, process_keys) = (keys::<Own>(), keys::<ProcessConfig>());
    let (mut own, mut process) = (toml::Table::new(), toml::Table::new());
    for (key, value) in toml::Table::deserialize(deserializer)? {
        if process_keys.contains(&key.as_str()) {
            process.insert(key, value);
        } else if own_keys.contains(&key.as_str()) {
            own.insert(key, value);
        } else {
            let known: Vec<_> = own_keys.iter().chain(process_keys).map(|known| format!("`{known}`")).collect();
            // serde's own words, which whoever names the nearest key looks for.
            return Err(D::Error::custom(format!("unknown field `{key}`, expected one of {}", known.join(", "))));
        }
    }
    let read = |error: toml::de::Error| D::Error::custom(error.message());
    Ok((own.try_into().map_err(read)?, process.try_into().map_err(read)?))
}

/// The keys that a struct reads, from the list that its derived `Deserialize` hands over first.
fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // Nothing is there to read: the list is all that this is for.
    let _ = T::deserialize(Keys(&mut keys));
    keys
}

struct Keys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("no values"))
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn default_class() -> String {
    "com.snc.discovery.CredentialResolver".to_owned()
}

fn default_credential_type() -> String {
    "oauth_2_0".to_owned()
}

fn default_app_id() -> String {
    "ServiceNow_MID_Server".to_owned()
}

fn default_folder() -> String {
    "root".to_owned()
}

fn default_separator() -> String {
    CredentialId::DEFAULT_SEPARATOR.to_owned()
}

const fn default_heap_mib() -> u32 {
    64
}

const fn default_timeout_ms() -> u64 {
    10_000
}

/// As many as the MID runs calls, unless it is told otherwise: whoever waits for a slow account keeps nobody from
/// another one. Threads that nobody needs end after 30 s.
const fn default_concurrency() -> u16 {
    64
}

const fn default_recycle_after_calls() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_both_structs_stand_in_one_section() {
        let text = "jar = '/a.jar'\nclass = 'a.B'\nudp = true\nparameters = { x = 'y' }";
        let config: JarConfig = toml::from_str(text).expect("legal");
        assert_eq!((config.own.class.as_str(), config.process.udp), ("a.B", true));
        assert_eq!(config.process.jar, PathBuf::from("/a.jar"));
    }

    #[test]
    fn an_error_names_the_key_and_all_that_are_known() {
        let error = |text| toml::from_str::<JarConfig>(text).expect_err("illegal").message().to_owned();
        let unknown = error("jar = '/a.jar'\nclas = 'x'");
        assert!(unknown.starts_with("unknown field `clas`, expected one of `from_instance`, `class`, "), "{unknown}");
        assert!(unknown.contains("`connect_ports`") && !unknown.contains("`app_id`"), "{unknown}");
        assert_eq!(error("class = 'x'"), "missing field `jar`");
        assert_eq!(error("from_instance = 'x'"), "`from_instance` needs `sha256`");
        let both = format!("from_instance = 'x'\njar = '/a.jar'\nsha256 = '{}'", "0".repeat(64));
        assert_eq!(error(&both), "`from_instance` excludes `jar` and `lib_dir`");
    }
}
