//! Resolvers: how a credential identifier becomes a client's secret fields.

mod age_file;
mod aws;
mod azure;
mod cache;
pub mod cgroup;
mod cloud;
mod config;
mod conjur;
mod credential_id;
mod cyberark;
mod cyberark_codes;
mod exec;
mod fields;
mod files;
pub mod frame;
mod google;
mod hashicorp_vault;
mod isolation;
pub mod jar;
mod limits;
mod parts;
mod resolver;
mod route;
mod run_as;
mod section;
mod session;
mod set;
#[cfg(test)]
mod testing;
mod unusable;

pub use age_file::AgeFileConfig;
pub use aws::{AwsConfig, AwsCredentials};
pub use azure::{AzureConfig, AzureCredentials};
pub use cloud::SecretFields;
pub use config::{ResolverConfig, ResolverContext, build};
pub use conjur::{ConjurAuth, ConjurConfig, ConjurVariables};
pub use credential_id::{CredentialId, InvalidCredentialId, MAX_CREDENTIAL_ID_LEN};
pub use cyberark::{
    AccountConfig, AimVersion, CcpApi, CcpSettings, CliSettings, Content, CyberArkCcpConfig, CyberArkCliConfig,
    LookupBy, QueryConfig, QueryFormat,
};
pub use cyberark_codes::{aim_client_failure, cyberark_failure, is_cyberark_code, is_known_cyberark_code};
pub use exec::{ExecConfig, ExecSettings};
pub use files::{FilesConfig, SystemdCredentialsConfig};
pub use google::{GoogleConfig, GoogleCredentials};
pub use hashicorp_vault::{HashiCorpAuth, HashiCorpVaultConfig};
pub use isolation::IsolationConfig;
pub use jar::{CyberArkSdkConfig, JarConfig, JarDigest, ProcessConfig};
pub use resolver::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverReport};
pub use route::{RouteConfig, RouteRule};
pub use run_as::RunAs;
pub use section::{CacheConfig, LimitsConfig, ResolverSection};
pub use set::{ResolverSet, SetChanges, check_routes};
