//! Which resolvers a MID has: the `[resolvers.NAME]` sections of `mid.toml`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use midward_core::{Clock, Random};
use midward_net::WayOut;
use serde::Deserialize;

use crate::cyberark::{CcpResolver, CliResolver};
use crate::jar::{CyberArkSdkConfig, JarConfig, JarResolver};
use crate::unusable::Unusable;
use crate::{
    AgeFileConfig, AwsConfig, AzureConfig, ConjurConfig, CyberArkCcpConfig, CyberArkCliConfig, ExecConfig, FilesConfig,
    GoogleConfig, HashiCorpVaultConfig, Resolver, RouteConfig, SystemdCredentialsConfig,
};

/// One resolver's configuration, told apart by `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ResolverConfig {
    /// A customer's own resolver JAR.
    Jar(JarConfig),
    /// CyberArk's `JavaPasswordSDK.jar`, from the AIM client's installation folder.
    #[serde(rename = "cyberark_sdk")]
    CyberArkSdk(CyberArkSdkConfig),
    /// The AIM client's command line, without a JAR.
    #[serde(rename = "cyberark_cli")]
    CyberArkCli(CyberArkCliConfig),
    /// CyberArk's Central Credential Provider, over HTTPS.
    #[serde(rename = "cyberark_ccp")]
    CyberArkCcp(CyberArkCcpConfig),
    /// AWS Secrets Manager (cargo feature `aws`).
    AwsSecretsManager(AwsConfig),
    /// Azure Key Vault (cargo feature `azure`).
    AzureKeyVault(AzureConfig),
    /// Google Secret Manager.
    GoogleSecretManager(GoogleConfig),
    /// Any program.
    Exec(ExecConfig),
    /// A folder for each credential, a file for each field.
    Files(FilesConfig),
    /// What systemd gave to the MID's service.
    SystemdCredentials(SystemdCredentialsConfig),
    /// A file encrypted with age, for development.
    AgeFile(AgeFileConfig),
    /// HashiCorp Vault or OpenBao.
    #[serde(rename = "hashicorp_vault", alias = "openbao")]
    HashiCorpVault(HashiCorpVaultConfig),
    /// CyberArk Conjur (Secrets Manager).
    Conjur(ConjurConfig),
    /// Other resolvers, by rules over credential identifiers.
    Route(RouteConfig),
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

/// Makes the adapter alone, without limits and cache. Starts nothing: [`Resolver::warm_up`] or the first call does, and [`Resolver::report`] tells
/// what is wrong.
pub fn build(name: &str, config: &ResolverConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match config {
        ResolverConfig::AgeFile(age) => crate::age_file::build(name, age, context),
        ResolverConfig::AwsSecretsManager(aws) => crate::aws::build(name, aws, context),
        ResolverConfig::AzureKeyVault(azure) => crate::azure::build(name, azure, context),
        ResolverConfig::Exec(exec) => crate::exec::build(name, exec, context),
        ResolverConfig::Files(files) => crate::files::build(name, files, context),
        ResolverConfig::GoogleSecretManager(google) => crate::google::build(name, google, context),
        ResolverConfig::SystemdCredentials(systemd) => crate::files::build_systemd(name, systemd, context),
        ResolverConfig::HashiCorpVault(vault) => crate::hashicorp_vault::build(name, vault, context),
        ResolverConfig::Conjur(conjur) => crate::conjur::build(name, conjur, context),
        ResolverConfig::Jar(jar) => Arc::new(JarResolver::jar(name, jar, context)),
        ResolverConfig::CyberArkSdk(sdk) => Arc::new(JarResolver::sdk(name, sdk, context)),
        ResolverConfig::CyberArkCli(cli) => match CliResolver::new(name, cli, context) {
            Ok(resolver) => Arc::new(resolver),
            Err(failure) => Arc::new(Unusable::new("cyberark_cli", failure)),
        },
        ResolverConfig::CyberArkCcp(ccp) => match CcpResolver::new(name, ccp, context) {
            Ok(resolver) => Arc::new(resolver),
            Err(failure) => Arc::new(Unusable::new("cyberark_ccp", failure)),
        },
        ResolverConfig::Route(_) => Arc::new(Unusable::route()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_each_kind_needs_is_its_jar() {
        let jar: ResolverConfig = toml::from_str("kind = 'jar'\njar = '/a.jar'").expect("complete");
        assert!(
            matches!(jar, ResolverConfig::Jar(jar) if jar.own.class == "com.snc.discovery.CredentialResolver" && jar.process.timeout_ms == 10_000)
        );
        let sdk: ResolverConfig = toml::from_str("kind = 'cyberark_sdk'\njar = '/a.jar'").expect("complete");
        assert!(matches!(sdk, ResolverConfig::CyberArkSdk(sdk) if sdk.account.app_id == "ServiceNow_MID_Server"));
    }

    #[test]
    fn an_unknown_key_or_kind_is_refused() {
        for bad in ["kind = 'jar'\njar = '/a.jar'\nclas = 'x'", "kind = 'javascript'\njar = 'a'", "jar = 'a'"] {
            assert!(toml::from_str::<ResolverConfig>(bad).is_err(), "{bad}");
        }
    }
}
