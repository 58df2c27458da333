//! `kind = "azure_key_vault"`.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use crate::cloud::{SecretFields, default_timeout_ms};

/// `kind = "azure_key_vault"`. A credential identifier is a secret's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureConfig {
    /// `https://NAME.vault.azure.net`, or that of a private endpoint.
    pub vault_url: Url,
    pub credentials: AzureCredentials,
    /// What the MID asks access tokens for, whatever the vault's challenge says.
    #[serde(default = "default_resource")]
    pub resource: String,
    /// Whether the vault's host name must be below that of the `resource` in its challenge. Switch it off for a private
    /// endpoint under a name of one's own.
    #[serde(default = "default_verify")]
    pub verify_challenge_resource: bool,
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

/// How the MID signs in at Microsoft Entra ID. Nothing else is tried: no environment variables, no developer's tools.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum AzureCredentials {
    /// The identity of the virtual machine that the MID runs on.
    ManagedIdentity {
        /// Client id of a user-assigned identity; the system-assigned one unless set.
        #[serde(default)]
        client_id: Option<String>,
        /// In place of `http://169.254.169.254`.
        #[serde(default)]
        endpoint: Option<Url>,
    },
    /// A token in a file (of Kubernetes, for example), exchanged for the access token of an application that trusts it.
    WorkloadIdentity {
        tenant_id: String,
        client_id: String,
        /// Readable by its owner only; read whenever a new access token is needed.
        token_file: PathBuf,
        #[serde(default = "default_authority")]
        authority: Url,
    },
    /// An application's certificate with its RSA key.
    ClientCertificate {
        tenant_id: String,
        client_id: String,
        /// PEM.
        certificate_file: PathBuf,
        /// PEM, PKCS #8 or PKCS #1, without a passphrase; readable by its owner only.
        key_file: PathBuf,
        #[serde(default = "default_authority")]
        authority: Url,
    },
}

impl AzureCredentials {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::ManagedIdentity { .. } => Vec::new(),
            Self::WorkloadIdentity { token_file, .. } => vec![token_file],
            Self::ClientCertificate { certificate_file, key_file, .. } => vec![certificate_file, key_file],
        }
    }
}

fn default_resource() -> String {
    "https://vault.azure.net".to_owned()
}

const fn default_verify() -> bool {
    true
}

#[expect(clippy::unwrap_used, reason = "a constant, read by a test")]
fn default_authority() -> Url {
    Url::parse("https://login.microsoftonline.com").unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_sign_in_must_be_named() {
        let least = "vault_url = 'https://crm.vault.azure.net'\n[credentials]\nsource = 'managed_identity'";
        let config: AzureConfig = toml::from_str(least).expect("complete");
        assert!(config.verify_challenge_resource && config.resource == "https://vault.azure.net");
        let federated = "source = 'workload_identity'\ntenant_id = 't'\nclient_id = 'c'\ntoken_file = '/t'";
        let federated: AzureCredentials = toml::from_str(federated).expect("complete");
        assert!(
            matches!(federated, AzureCredentials::WorkloadIdentity { authority, .. } if authority == default_authority())
        );
        for bad in [
            "vault_url = 'https://crm.vault.azure.net'",
            "vault_url = 'crm'\n[credentials]\nsource = 'managed_identity'",
            "vault_url = 'https://v'\n[credentials]\nsource = 'environment'",
            "vault_url = 'https://v'\n[credentials]\nsource = 'client_certificate'\ntenant_id = 't'\nclient_id = 'c'",
        ] {
            assert!(toml::from_str::<AzureConfig>(bad).is_err(), "{bad}");
        }
    }
}
