//! The settings of resolvers that run a JAR: each kind's own, and those of the JVM, which both share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};

use super::{JarDigest, Target};
use crate::cyberark::AccountConfig;
use crate::parts::{Parts, keys};
use crate::{AimVersion, IsolationConfig};

/// `kind = "jar"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JarConfig {
    pub own: JarSettings,
    pub process: ProcessConfig,
    pub isolation: IsolationConfig,
}

/// `kind = "cyberark_sdk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CyberArkSdkConfig {
    pub own: CyberArkSdkSettings,
    pub account: AccountConfig,
    pub process: ProcessConfig,
    pub isolation: IsolationConfig,
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
    /// The provider's port, when it is not the default one.
    #[serde(default)]
    pub port: Option<u16>,
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
    /// What the JAR and its programs may connect to by TCP: hosts with their ports, in a network of their own.
    #[serde(default)]
    pub connect: Vec<Target>,
}

impl<'de> Deserialize<'de> for JarConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut parts, own) = section::<JarSettings, D>(deserializer, &[])?;
        let (process, isolation): (ProcessConfig, _) = (parts.take()?, parts.take()?);
        let has_file = !process.jar.as_os_str().is_empty();
        match &own.from_instance {
            None if !has_file => Err(D::Error::missing_field("jar")),
            Some(_) if has_file || process.lib_dir.is_some() => {
                Err(D::Error::custom("`from_instance` excludes `jar` and `lib_dir`"))
            }
            Some(_) if process.sha256.is_none() => Err(D::Error::custom("`from_instance` needs `sha256`")),
            _ => Ok(Self { own, process, isolation }),
        }
    }
}

impl<'de> Deserialize<'de> for CyberArkSdkConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut parts, own) = section::<CyberArkSdkSettings, D>(deserializer, keys::<AccountConfig>())?;
        let (account, process): (_, ProcessConfig) = (parts.take()?, parts.take()?);
        if process.jar.as_os_str().is_empty() {
            return Err(D::Error::missing_field("jar"));
        }
        Ok(Self { own, account, process, isolation: parts.take()? })
    }
}

/// Reads what only one kind has, which `more` belongs to; the rest is left.
fn section<'de, Own: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
    more: &'static [&'static str],
) -> Result<(Parts, Own), D::Error> {
    let known = [keys::<Own>(), more, keys::<ProcessConfig>(), keys::<IsolationConfig>()];
    let mut parts = Parts::read(deserializer, &known)?;
    let own = parts.take()?;
    Ok((parts, own))
}

fn default_class() -> String {
    "com.snc.discovery.CredentialResolver".to_owned()
}

fn default_credential_type() -> String {
    "oauth_2_0".to_owned()
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
    fn settings_of_all_structs_stand_in_one_section() {
        let text = "jar = '/a.jar'\nclass = 'a.B'\nudp = true\nparameters = { x = 'y' }";
        let config: JarConfig = toml::from_str(text).expect("legal");
        assert_eq!((config.own.class.as_str(), config.isolation.udp), ("a.B", true));
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
