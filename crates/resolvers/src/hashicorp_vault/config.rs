//! `kind = "hashicorp_vault"`, or `"openbao"`.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use crate::cloud::{SecretFields, default_timeout_ms};

/// `kind = "hashicorp_vault"`, or `"openbao"`. A credential identifier is a path below the mount and its prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashiCorpVaultConfig {
    /// `https://vault.example.com:8200`; plain `http` only to this machine (an agent's listener).
    pub url: Url,
    pub auth: HashiCorpAuth,
    /// Where the key/value engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// 1 or 2.
    #[serde(default = "default_kv_version")]
    pub kv_version: u8,
    /// Comes before every credential identifier, so that nothing else of the mount can be asked for.
    #[serde(default)]
    pub path_prefix: Option<String>,
    /// The namespace of the secrets, and of the sign-in unless `auth_namespace` is given.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Namespace of the sign-in; empty for the root namespace.
    #[serde(default)]
    pub auth_namespace: Option<String>,
    /// The client id for secrets that do not bring one.
    #[serde(default)]
    pub client_id: Option<String>,
    /// The names of the fields in a secret.
    #[serde(default)]
    pub fields: SecretFields,
    /// Longest look-up, signing in included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// How the MID signs in, in the words of Vault's auth methods. Files must be readable by their owner only, but for
/// certificates and for what Kubernetes mounts; they are read at each sign-in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum HashiCorpAuth {
    /// A token that somebody else provides and replaces: an administrator, or Vault's own agent.
    Token { token_file: PathBuf },
    #[serde(rename = "approle")]
    AppRole {
        role_id: String,
        secret_id_file: PathBuf,
        /// The file holds a wrapping token, and the secret id is unwrapped once and kept in memory.
        #[serde(default)]
        wrapped: bool,
        #[serde(default = "default_approle_mount")]
        mount: String,
    },
    Jwt {
        /// Vault's default role unless set.
        #[serde(default)]
        role: Option<String>,
        token_file: PathBuf,
        #[serde(default = "default_jwt_mount")]
        mount: String,
    },
    /// The token of the pod's service account.
    Kubernetes {
        role: String,
        #[serde(default = "default_kubernetes_token_file")]
        token_file: PathBuf,
        #[serde(default = "default_kubernetes_mount")]
        mount: String,
    },
    /// A TLS client certificate.
    Cert {
        /// PEM, leaf first.
        certificate_file: PathBuf,
        /// PEM, without a passphrase.
        key_file: PathBuf,
        /// Name of the one role to try; any that fits unless set.
        #[serde(default)]
        role: Option<String>,
        #[serde(default = "default_cert_mount")]
        mount: String,
    },
}

impl HashiCorpAuth {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Token { token_file } | Self::Jwt { token_file, .. } | Self::Kubernetes { token_file, .. } => {
                vec![token_file]
            }
            Self::AppRole { secret_id_file, .. } => vec![secret_id_file],
            Self::Cert { certificate_file, key_file, .. } => vec![certificate_file, key_file],
        }
    }

    /// Where the method is mounted; a token needs none.
    pub(super) fn mount(&self) -> Option<&str> {
        match self {
            Self::Token { .. } => None,
            Self::AppRole { mount, .. }
            | Self::Jwt { mount, .. }
            | Self::Kubernetes { mount, .. }
            | Self::Cert { mount, .. } => Some(mount),
        }
    }
}

fn default_mount() -> String {
    "secret".to_owned()
}

const fn default_kv_version() -> u8 {
    2
}

fn default_approle_mount() -> String {
    "approle".to_owned()
}

fn default_jwt_mount() -> String {
    "jwt".to_owned()
}

fn default_kubernetes_mount() -> String {
    "kubernetes".to_owned()
}

fn default_kubernetes_token_file() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

fn default_cert_mount() -> String {
    "cert".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_an_address_and_a_way_to_sign_in() {
        let least = "url = 'https://vault.example:8200'\nauth = { method = 'token', token_file = 't' }";
        let config: HashiCorpVaultConfig = toml::from_str(least).expect("complete");
        assert_eq!((config.mount.as_str(), config.kv_version, config.timeout_ms), ("secret", 2, 10_000));
        let pod = "method = 'kubernetes'\nrole = 'midward'";
        let mut pod: HashiCorpAuth = toml::from_str(pod).expect("complete");
        assert_eq!(pod.mount(), Some("kubernetes"));
        assert_eq!(*pod.files_mut()[0], default_kubernetes_token_file());
        for bad in [
            "url = 'https://v'",
            "url = 'v'\nauth = { method = 'token', token_file = 't' }",
            "url = 'https://v'\nauth = { method = 'userpass', username = 'u' }",
            "url = 'https://v'\nauth = { method = 'approle', role_id = 'r', secret_id = 'hunter2' }",
            "url = 'https://v'\nmout = 'kv'\nauth = { method = 'token', token_file = 't' }",
        ] {
            assert!(toml::from_str::<HashiCorpVaultConfig>(bad).is_err(), "{bad}");
        }
    }
}
