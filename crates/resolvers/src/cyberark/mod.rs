//! CyberArk without a JAR: the AIM client's command line, and the Central Credential Provider over HTTPS.

mod account;
mod aim_client;
mod ccp;
mod cli;
mod config;
mod criteria;
mod door;
mod rest;
mod run;
mod soap;
mod version;

pub(crate) use ccp::CcpResolver;
pub(crate) use cli::CliResolver;
pub use config::{
    AccountConfig, AimVersion, CcpApi, CcpSettings, CliSettings, CyberArkCcpConfig, CyberArkCliConfig, QueryConfig,
};
pub(crate) use criteria::Search;
pub use criteria::{Content, LookupBy, QueryFormat};
pub(crate) use version::{Verdict, VersionCheck};
