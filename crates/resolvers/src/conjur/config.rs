//! `kind = "conjur"`.

use std::path::PathBuf;

use midward_core::MaterialField;
use serde::Deserialize;
use url::Url;

use crate::cloud::default_timeout_ms;

/// Where the credential identifier stands in the name of a variable.
pub(super) const PLACE: &str = "{id}";

/// `kind = "conjur"`. A credential identifier is put into the names of variables.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConjurConfig {
    /// `https://conjur.example.com`, with the path of the API if it has one (`/api`).
    pub url: Url,
    pub account: String,
    pub auth: ConjurAuth,
    #[serde(default)]
    pub variables: ConjurVariables,
    /// The client id, where it is not a variable: then `variables.client_id` is not asked for.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Longest look-up, signing in included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// How the MID signs in. Files must be readable by their owner only, and are read at each sign-in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConjurAuth {
    ApiKey {
        /// `host/NAME`, or a user's name.
        login: String,
        api_key_file: PathBuf,
    },
    /// The authn-jwt authenticator.
    Jwt {
        service_id: String,
        /// Where the identity is not a claim of the token.
        #[serde(default)]
        host: Option<String>,
        token_file: PathBuf,
        /// The file may be readable by others, as Kubernetes mounts it.
        #[serde(default)]
        shared_token_file: bool,
    },
}

impl ConjurAuth {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::ApiKey { api_key_file: file, .. } | Self::Jwt { token_file: file, .. } => Some(file),
        }
    }
}

/// The names of the variables, with `{id}` for the credential identifier. Those that are not named are not asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConjurVariables {
    #[serde(default)]
    pub client_id: Option<String>,
    #[serde(default)]
    pub client_secret: Option<String>,
    #[serde(default)]
    pub private_key: Option<String>,
    #[serde(default)]
    pub certificate: Option<String>,
    #[serde(default)]
    pub key_id: Option<String>,
}

impl Default for ConjurVariables {
    fn default() -> Self {
        Self {
            client_id: Some("{id}/client_id".to_owned()),
            client_secret: Some("{id}/client_secret".to_owned()),
            private_key: None,
            certificate: None,
            key_id: None,
        }
    }
}

impl ConjurVariables {
    pub(super) fn named(&self) -> impl Iterator<Item = (MaterialField, &str)> {
        [
            (MaterialField::ClientId, &self.client_id),
            (MaterialField::ClientSecret, &self.client_secret),
            (MaterialField::PrivateKey, &self.private_key),
            (MaterialField::Certificate, &self.certificate),
            (MaterialField::KeyId, &self.key_id),
        ]
        .into_iter()
        .filter_map(|(field, name)| Some((field, name.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_an_address_an_account_and_a_way_to_sign_in() {
        let least = "url = 'https://conjur.example'\naccount = 'acme'\n[auth]\nmethod = 'api_key'\nlogin = 'host/midward'\napi_key_file = 'k'";
        let config: ConjurConfig = toml::from_str(least).expect("complete");
        let named: Vec<_> = config.variables.named().collect();
        let expected =
            [(MaterialField::ClientId, "{id}/client_id"), (MaterialField::ClientSecret, "{id}/client_secret")];
        assert_eq!(named, expected);
        for bad in [
            "url = 'https://c'\naccount = 'a'",
            "url = 'https://c'\naccount = 'a'\nauth = { method = 'api_key', login = 'l', api_key = 'hunter2' }",
            "url = 'https://c'\naccount = 'a'\nauth = { method = 'ldap', login = 'l' }",
            "url = 'https://c'\nauth = { method = 'jwt', service_id = 's', token_file = 't' }",
        ] {
            assert!(toml::from_str::<ConjurConfig>(bad).is_err(), "{bad}");
        }
    }
}
