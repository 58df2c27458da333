//! Which resolvers a MID has: the `[resolvers.NAME]` sections of `mid.toml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use midward_core::{Clock, Random};
use midward_net::WayOut;
use serde::Deserialize;

use crate::jar::{JarResolver, SandboxMode};
use crate::{AwsConfig, AzureConfig, CredentialId, Resolver};

/// One resolver's configuration, told apart by `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ResolverConfig {
    /// A customer's own resolver JAR.
    Jar(JarConfig),
    /// CyberArk's `JavaPasswordSDK.jar`, from the AIM client's installation folder.
    #[serde(rename = "cyberark_sdk")]
    CyberArkSdk(CyberArkSdkConfig),
    /// AWS Secrets Manager (cargo feature `aws`).
    AwsSecretsManager(AwsConfig),
    /// Azure Key Vault (cargo feature `azure`).
    AzureKeyVault(AzureConfig),
}

/// `kind = "jar"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JarConfig {
    pub jar: PathBuf,
    /// Its `*.jar` files join the JAR's class path; by default `lib/` beside the JAR, when there is one.
    #[serde(default)]
    pub lib_dir: Option<PathBuf>,
    #[serde(default = "default_class")]
    pub class: String,
    /// What the JAR gets as `type`.
    #[serde(default = "default_credential_type")]
    pub credential_type: String,
    /// MID parameters: `config(map)` gets those that begin with `ext.cred`, `Config.get()` sees all. No secrets.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
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
    /// Whether the JAR must be isolated (`required`), as far as the kernel can (`best_effort`), or not at all (`off`).
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// TCP ports that the JAR and its programs may connect to, on any host. None unless listed.
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

/// `kind = "cyberark_sdk"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CyberArkSdkConfig {
    pub jar: PathBuf,
    #[serde(default)]
    pub lib_dir: Option<PathBuf>,
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
    #[serde(default)]
    pub environment: Vec<String>,
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    #[serde(default)]
    pub java: Option<PathBuf>,
    #[serde(default = "default_heap_mib")]
    pub heap_mib: u32,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default = "default_concurrency")]
    pub concurrency: u16,
    #[serde(default = "default_recycle_after_calls")]
    pub recycle_after_calls: u64,
    #[serde(default)]
    pub resident_limit_mib: Option<u64>,
    /// Whether the JAR must be isolated (`required`), as far as the kernel can (`best_effort`), or not at all (`off`).
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// TCP ports that the JAR and its programs may connect to, on any host. None unless listed, but for the provider's.
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

/// What a resolver needs of the MID around it.
#[derive(Clone)]
pub struct ResolverContext {
    /// Given to JARs as `mid`.
    pub mid_name: String,
    /// Holds `midward-jar-host.jar`, `midward-mid-classes.jar` and optionally `lib/*.jar` (gson and the like).
    pub jar_host_dir: PathBuf,
    /// A private folder (0700), for copies of the JARs in use.
    pub state_dir: PathBuf,
    /// Program and arguments that come before `java`: something that calls [`crate::jar::trampoline::run`].
    pub trampoline: Vec<OsString>,
    /// The `java` program, unless a resolver names another.
    pub java: PathBuf,
    /// The way out to vaults.
    pub vaults: WayOut,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

impl fmt::Debug for ResolverContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverContext").field("jar_host_dir", &self.jar_host_dir).finish_non_exhaustive()
    }
}

/// Makes the resolver. Starts nothing: [`Resolver::warm_up`] or the first call does, and [`Resolver::report`] tells
/// what is wrong.
pub fn build(name: &str, config: &ResolverConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match config {
        ResolverConfig::AwsSecretsManager(aws) => crate::aws::build(name, aws, context),
        ResolverConfig::AzureKeyVault(azure) => crate::azure::build(name, azure, context),
        ResolverConfig::Jar(jar) => Arc::new(JarResolver::jar(name, jar, context)),
        ResolverConfig::CyberArkSdk(sdk) => Arc::new(JarResolver::sdk(name, sdk, context)),
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

const fn default_concurrency() -> u16 {
    8
}

const fn default_recycle_after_calls() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_each_kind_needs_is_its_jar() {
        let jar: ResolverConfig = toml::from_str("kind = 'jar'\njar = '/a.jar'").expect("complete");
        assert!(matches!(jar, ResolverConfig::Jar(jar) if jar.class == default_class() && jar.timeout_ms == 10_000));
        let sdk: ResolverConfig = toml::from_str("kind = 'cyberark_sdk'\njar = '/a.jar'").expect("complete");
        assert!(matches!(sdk, ResolverConfig::CyberArkSdk(sdk) if sdk.app_id == "ServiceNow_MID_Server"));
    }

    #[test]
    fn an_unknown_key_or_kind_is_refused() {
        for bad in ["kind = 'jar'\njar = '/a.jar'\nclas = 'x'", "kind = 'javascript'\njar = 'a'", "jar = 'a'"] {
            assert!(toml::from_str::<ResolverConfig>(bad).is_err(), "{bad}");
        }
    }
}
