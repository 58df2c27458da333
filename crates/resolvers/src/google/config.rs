//! `kind = "google_secret_manager"`.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use crate::cloud::{SecretFields, default_timeout_ms};

/// `kind = "google_secret_manager"`. A credential identifier is a secret's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoogleConfig {
    /// The project's id or number.
    pub project: String,
    /// Of regional secrets: `europe-west3`, ... They have endpoints of their own.
    #[serde(default)]
    pub location: Option<String>,
    /// In place of Google's public endpoint.
    #[serde(default)]
    pub endpoint: Option<Url>,
    pub credentials: GoogleCredentials,
    /// Number or alias of the version to read.
    #[serde(default = "default_secret_version")]
    pub secret_version: String,
    /// The client id for secrets that do not bring one.
    #[serde(default)]
    pub client_id: Option<String>,
    /// The names of the fields in a secret's JSON object.
    #[serde(default)]
    pub fields: SecretFields,
    /// Longest look-up, signing in included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// How the MID signs in at Google. Nothing else is tried: no environment variables, no developer's tools.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum GoogleCredentials {
    /// A service account's key, as Google hands it out (JSON).
    ServiceAccountKey {
        /// Readable by its owner only; read whenever a new access token is needed.
        file: PathBuf,
        /// Where the signed assertion goes, whatever the file says.
        #[serde(default = "default_token_url")]
        token_url: Url,
    },
    /// The service account of the machine that the MID runs on.
    Metadata {
        /// Its e-mail address, or `default`.
        #[serde(default = "default_service_account")]
        service_account: String,
        /// In place of `http://169.254.169.254`.
        #[serde(default)]
        endpoint: Option<Url>,
    },
}

impl GoogleCredentials {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::ServiceAccountKey { file, .. } => Some(file),
            Self::Metadata { .. } => None,
        }
    }
}

fn default_secret_version() -> String {
    "latest".to_owned()
}

fn default_service_account() -> String {
    "default".to_owned()
}

#[expect(clippy::unwrap_used, reason = "a constant, read by a test")]
fn default_token_url() -> Url {
    Url::parse("https://oauth2.googleapis.com/token").unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_sign_in_must_be_named() {
        let least = "project = 'crm'\n[credentials]\nsource = 'service_account_key'\nfile = '/k'";
        let config: GoogleConfig = toml::from_str(least).expect("complete");
        assert_eq!(config.secret_version, "latest");
        let GoogleCredentials::ServiceAccountKey { token_url, .. } = config.credentials else { panic!("a key") };
        assert_eq!(token_url, default_token_url());
        for bad in [
            "project = 'crm'",
            "project = 'crm'\n[credentials]\nsource = 'environment'",
            "project = 'crm'\n[credentials]\nsource = 'metadata'\nfile = '/k'",
            "[credentials]\nsource = 'metadata'",
        ] {
            assert!(toml::from_str::<GoogleConfig>(bad).is_err(), "{bad}");
        }
    }
}
