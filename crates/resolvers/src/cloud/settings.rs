//! Settings that several vaults have in common.

use serde::Deserialize;

/// How a secret's value becomes client material, and how long a look-up may take.
///
/// A value that is a JSON object gives its fields by these names. Any other value is the client secret itself, and
/// `client_id` must be set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFields {
    #[serde(default = "client_id")]
    pub client_id: String,
    #[serde(default = "client_secret")]
    pub client_secret: String,
    #[serde(default = "private_key")]
    pub private_key: String,
    #[serde(default = "certificate")]
    pub certificate: String,
    #[serde(default = "key_id")]
    pub key_id: String,
}

impl Default for SecretFields {
    fn default() -> Self {
        Self {
            client_id: client_id(),
            client_secret: client_secret(),
            private_key: private_key(),
            certificate: certificate(),
            key_id: key_id(),
        }
    }
}

pub(crate) const fn default_timeout_ms() -> u64 {
    10_000
}

pub(crate) fn limit(timeout_ms: u64, deadline: std::time::Duration) -> std::time::Duration {
    deadline.min(std::time::Duration::from_millis(timeout_ms))
}

fn client_id() -> String {
    "client_id".to_owned()
}

fn client_secret() -> String {
    "client_secret".to_owned()
}

fn private_key() -> String {
    "private_key".to_owned()
}

fn certificate() -> String {
    "certificate".to_owned()
}

fn key_id() -> String {
    "key_id".to_owned()
}
