//! `kind = "cyberark_cli"` and `kind = "cyberark_ccp"`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::criteria::{Content, LookupBy, QueryFormat, Search};
use crate::CredentialId;

pub(super) const CLI_KIND: &str = "cyberark_cli";
pub(super) const CCP_KIND: &str = "cyberark_ccp";

/// `kind = "cyberark_cli"`: the AIM client's command line program, without a JAR.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CyberArkCliConfig {
    /// The AIM client's program.
    #[serde(default = "default_path")]
    pub path: PathBuf,
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
    /// A further criterion of every query.
    #[serde(default)]
    pub user_name: Option<String>,
    /// A further criterion of every query.
    #[serde(default)]
    pub database: Option<String>,
    #[serde(default)]
    pub lookup_by: LookupBy,
    #[serde(default)]
    pub query_format: QueryFormat,
    /// The account's property that holds the client id.
    #[serde(default = "default_client_id_property")]
    pub client_id_property: String,
    #[serde(default)]
    pub content: Content,
    /// Properties that the provider must find, besides the one of the client id; an account without them is refused.
    #[serde(default)]
    pub required_properties: Vec<String>,
    /// Whether an account whose password is being changed is refused, in place of being read again soon.
    #[serde(default)]
    pub fail_on_password_change: bool,
    /// Shown in the vault's own audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// The provider's port, when it is not the default one.
    #[serde(default)]
    pub port: Option<u16>,
    /// The AIM client's own connection time-out, in seconds.
    #[serde(default)]
    pub connection_timeout_s: Option<u32>,
    /// Environment of the program; it gets no other. No secrets.
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    /// Longest look-up, in milliseconds; a longer one is ended together with the program.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Programs side by side.
    #[serde(default = "default_programs")]
    pub concurrency: u16,
}

/// `kind = "cyberark_ccp"`: the Central Credential Provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CyberArkCcpConfig {
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
    /// A further criterion of every query.
    #[serde(default)]
    pub user_name: Option<String>,
    /// A further criterion of every query.
    #[serde(default)]
    pub database: Option<String>,
    #[serde(default)]
    pub lookup_by: LookupBy,
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
    /// Shown in the vault's own audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// How long the CCP waits for its vault, in seconds.
    #[serde(default)]
    pub connection_timeout_s: Option<u32>,
    /// Longest look-up, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Requests side by side.
    #[serde(default = "default_requests")]
    pub concurrency: u16,
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

impl CyberArkCliConfig {
    pub(crate) fn search(&self) -> Search {
        Search {
            separator: self.separator.clone(),
            safe: self.safe.clone(),
            folder: self.folder.clone(),
            platform: self.platform.clone(),
            user_name: self.user_name.clone(),
            database: self.database.clone(),
            lookup_by: self.lookup_by,
        }
    }
}

impl CyberArkCcpConfig {
    pub(crate) fn search(&self) -> Search {
        Search {
            separator: self.separator.clone(),
            safe: self.safe.clone(),
            folder: self.folder.clone(),
            platform: self.platform.clone(),
            user_name: self.user_name.clone(),
            database: self.database.clone(),
            lookup_by: self.lookup_by,
        }
    }

    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let files = [&mut self.certificate_file, &mut self.key_file, &mut self.pfx_file, &mut self.pfx_password_file];
        files.into_iter().filter_map(Option::as_mut).collect()
    }
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
        assert_eq!(cli.path, PathBuf::from("/opt/CARKaim/sdk/clipasswordsdk"));
        let ccp: CyberArkCcpConfig = toml::from_str("url = 'https://ccp.example'").expect("complete");
        assert_eq!(
            (ccp.service.as_str(), ccp.api, ccp.app_id.as_str()),
            ("AIMWebService", CcpApi::Rest, "ServiceNow_MID_Server")
        );
        let soap =
            "url = 'https://ccp.example'\napi = 'soap'\nlookup_by = 'virtual_user_name'\ncontent = 'private_key'";
        let soap: CyberArkCcpConfig = toml::from_str(soap).expect("complete");
        assert_eq!(
            (soap.api, soap.lookup_by, soap.content),
            (CcpApi::Soap, LookupBy::VirtualUserName, Content::PrivateKey)
        );
        for bad in ["", "url = 'https://ccp'\npfx_password = 'x'", "url = 'https://ccp'\nlookup_by = 'x'"] {
            assert!(toml::from_str::<CyberArkCcpConfig>(bad).is_err(), "{bad}");
        }
        assert!(toml::from_str::<CyberArkCliConfig>("pth = 'x'").is_err());
    }
}
