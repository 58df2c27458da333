//! `kind = "cyberark_cli"` and `kind = "cyberark_ccp"`; what they share with each other, and with `cyberark_sdk`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use url::Url;

use super::criteria::{Content, LookupBy, QueryFormat, Search};
use crate::CredentialId;
use crate::parts::{Parts, keys};

pub(super) const CLI_KIND: &str = "cyberark_cli";
pub(super) const CCP_KIND: &str = "cyberark_ccp";

/// `kind = "cyberark_cli"`: the AIM client's command line program, without a JAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CyberArkCliConfig {
    pub own: CliSettings,
    pub account: AccountConfig,
    pub query: QueryConfig,
}

/// What only the command line has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CliSettings {
    /// The AIM client's program.
    #[serde(default = "default_path")]
    pub path: PathBuf,
    /// Properties that the provider must find, besides the one of the client id; an account without them is refused.
    #[serde(default)]
    pub required_properties: Vec<String>,
    /// The provider's port, when it is not the default one.
    #[serde(default)]
    pub port: Option<u16>,
    /// Environment of the program; it gets no other. No secrets.
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    /// Programs side by side.
    #[serde(default = "default_programs")]
    pub concurrency: u16,
}

/// `kind = "cyberark_ccp"`: the Central Credential Provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CyberArkCcpConfig {
    pub own: CcpSettings,
    pub account: AccountConfig,
    pub query: QueryConfig,
}

/// What only the Central Credential Provider has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CcpSettings {
    /// `https://HOST`, with a port if it is not 443.
    pub url: Url,
    /// The web service's name in IIS.
    #[serde(default = "default_service")]
    pub service: String,
    #[serde(default)]
    pub api: CcpApi,
    /// PEM, leaf first: the client certificate, together with `key_file`.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM without a passphrase, readable by its owner only.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// In place of the two: a PKCS #12 file (`.pfx`, `.p12`), readable by its owner only.
    #[serde(default)]
    pub pfx_file: Option<PathBuf>,
    /// Holds the PKCS #12 file's password; readable by its owner only. One line end at its end is dropped.
    #[serde(default)]
    pub pfx_password_file: Option<PathBuf>,
    /// Requests side by side.
    #[serde(default = "default_requests")]
    pub concurrency: u16,
}

/// Where accounts are looked up: the keys of every kind of CyberArk's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
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
    /// The platform (policy id) for identifiers that name none.
    #[serde(default)]
    pub platform: Option<String>,
    #[serde(default)]
    pub lookup_by: LookupBy,
    /// Shown in the vault's own audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// How long the provider waits for its vault, or the SDK for the provider, in seconds.
    #[serde(default)]
    pub connection_timeout_s: Option<u32>,
}

/// What is asked for, and what is made of an answer: the keys of those kinds that do it without a JAR.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// A further criterion of every query.
    #[serde(default)]
    pub user_name: Option<String>,
    /// A further criterion of every query.
    #[serde(default)]
    pub database: Option<String>,
    #[serde(default)]
    pub query_format: QueryFormat,
    /// The account's property that holds the client id.
    #[serde(default = "default_client_id_property")]
    pub client_id_property: String,
    #[serde(default)]
    pub content: Content,
    /// Whether an account whose password is being changed is refused, in place of being read again soon.
    #[serde(default)]
    pub fail_on_password_change: bool,
    /// Longest look-up, in milliseconds; a longer one is ended, together with its program.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// Which of the CCP's interfaces is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CcpApi {
    /// `GET /SERVICE/api/Accounts`.
    #[default]
    Rest,
    /// `POST /SERVICE/v1.1/AIM.asmx`, of old sites.
    Soap,
}

/// What `cyberark_sdk` compares its JAR's version to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum AimVersion {
    /// What the package manager says is installed.
    #[default]
    Installed,
    /// Not compared.
    Any,
    /// This one, as far as it is written out.
    Exactly(String),
}

impl From<String> for AimVersion {
    fn from(text: String) -> Self {
        match text.as_str() {
            "installed" => Self::Installed,
            "any" => Self::Any,
            _ => Self::Exactly(text),
        }
    }
}

impl AccountConfig {
    /// With the further criteria of `query`, where there are any.
    pub(crate) fn search(&self, query: Option<&QueryConfig>) -> Search {
        Search {
            separator: self.separator.clone(),
            safe: self.safe.clone(),
            folder: self.folder.clone(),
            platform: self.platform.clone(),
            user_name: query.and_then(|query| query.user_name.clone()),
            database: query.and_then(|query| query.database.clone()),
            lookup_by: self.lookup_by,
        }
    }
}

impl<'de> Deserialize<'de> for CyberArkCliConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (own, account, query) = section(deserializer)?;
        Ok(Self { own, account, query })
    }
}

impl<'de> Deserialize<'de> for CyberArkCcpConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (own, account, query) = section(deserializer)?;
        Ok(Self { own, account, query })
    }
}

impl CyberArkCcpConfig {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let own = &mut self.own;
        let files = [&mut own.certificate_file, &mut own.key_file, &mut own.pfx_file, &mut own.pfx_password_file];
        files.into_iter().filter_map(Option::as_mut).collect()
    }
}

/// Reads what only one kind has, and what both have.
fn section<'de, Own: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(Own, AccountConfig, QueryConfig), D::Error> {
    let known = [keys::<Own>(), keys::<AccountConfig>(), keys::<QueryConfig>()];
    let mut parts = Parts::read(deserializer, &known)?;
    Ok((parts.take()?, parts.take()?, parts.take()?))
}

fn default_path() -> PathBuf {
    "/opt/CARKaim/sdk/clipasswordsdk".into()
}

fn default_service() -> String {
    "AIMWebService".to_owned()
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

fn default_client_id_property() -> String {
    "UserName".to_owned()
}

const fn default_timeout_ms() -> u64 {
    10_000
}

/// Each is a process.
const fn default_programs() -> u16 {
    16
}

const fn default_requests() -> u16 {
    64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_little() {
        let cli: CyberArkCliConfig = toml::from_str("").expect("complete");
        assert_eq!(cli.own.path, PathBuf::from("/opt/CARKaim/sdk/clipasswordsdk"));
        let ccp: CyberArkCcpConfig = toml::from_str("url = 'https://ccp.example'").expect("complete");
        assert_eq!(
            (ccp.own.service.as_str(), ccp.own.api, ccp.account.app_id.as_str()),
            ("AIMWebService", CcpApi::Rest, "ServiceNow_MID_Server")
        );
        let soap =
            "url = 'https://ccp.example'\napi = 'soap'\nlookup_by = 'virtual_user_name'\ncontent = 'private_key'";
        let soap: CyberArkCcpConfig = toml::from_str(soap).expect("complete");
        assert_eq!(
            (soap.own.api, soap.account.lookup_by, soap.query.content),
            (CcpApi::Soap, LookupBy::VirtualUserName, Content::PrivateKey)
        );
        for bad in ["url = 'https://ccp'\npfx_password = 'x'", "url = 'https://ccp'\nlookup_by = 'x'"] {
            assert!(toml::from_str::<CyberArkCcpConfig>(bad).is_err(), "{bad}");
        }
        let error = |text| toml::from_str::<CyberArkCcpConfig>(text).expect_err("illegal").message().to_owned();
        assert_eq!(error(""), "missing field `url`");
        let unknown = toml::from_str::<CyberArkCliConfig>("pth = 'x'").expect_err("unknown").message().to_owned();
        assert!(unknown.starts_with("unknown field `pth`, expected one of `path`, ") && unknown.contains("`app_id`"));
    }
}
