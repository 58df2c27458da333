//! What a lease refers to, named by the digest of its bytes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of a [`ConfigDocument`]'s bytes, as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigDigest(pub String);

impl ConfigDigest {
    pub fn of(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }
}

impl fmt::Display for ConfigDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Connection, credential and entity profile of a request. The MID trusts none of it: policy decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigDocument {
    pub version: u32,
    pub connection: ConnectionConfig,
    pub credential: CredentialConfig,
    pub profile: ProfileConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    pub alias: String,
    /// Absolute http or https URL; the path of a call is appended to its path.
    pub base_url: String,
    /// How long the API may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// Methods whose calls may be sent a second time; absent: GET, HEAD and OPTIONS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_methods: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    pub name: String,
    pub credential_id: String,
    /// Name of a resolver on the MID.
    pub resolver: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    pub name: String,
    pub grant_type: GrantType,
    /// For [`GrantType::JwtBearer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_bearer: Option<JwtBearerConfig>,
    /// For [`GrantType::TokenExchange`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<TokenExchangeConfig>,
    /// Absent: the MID looks it up in the metadata of `issuer` (RFC 8414).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// RFC 7009.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_url: Option<String>,
    pub client_auth: ClientAuth,
    #[serde(default)]
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// RFC 8707.
    #[serde(default)]
    pub resource: Vec<String>,
    #[serde(default)]
    pub extra_parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `aud` of a signed assertion (RFC 7523 3); absent: the issuer, else the token URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion_audience: Option<String>,
    /// `alg` of a signed assertion; absent: what the key's type suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion_algorithm: Option<AssertionAlgorithm>,
    /// Tokens are bound to the client's certificate, which the API is shown too (RFC 8705 3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub certificate_bound_tokens: bool,
    /// Tokens are bound to a key of the MID's, which each call of the API proves (RFC 9449).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dpop_bound_tokens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    ClientCredentials,
    /// RFC 7523 2.1.
    JwtBearer,
    /// RFC 8693.
    TokenExchange,
}

impl GrantType {
    /// As in `connections.yaml` and in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "jwt_bearer",
            Self::TokenExchange => "token_exchange",
        }
    }
}

/// The assertion of a [`GrantType::JwtBearer`]. The MID's policy decides what may be claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtBearerConfig {
    /// `iss`; absent: the client id from the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `sub`; absent: the client id from the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `aud`; absent: the entity's issuer, else its token URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Further claims, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// `alg`; absent: what the key's type suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<AssertionAlgorithm>,
    /// Whether the client authenticates besides (RFC 7521 4.1).
    #[serde(default = "yes")]
    pub client_authentication: bool,
}

impl Default for JwtBearerConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            subject: None,
            audience: None,
            claims: BTreeMap::new(),
            algorithm: None,
            client_authentication: true,
        }
    }
}

fn yes() -> bool {
    true
}

/// What a [`GrantType::TokenExchange`] names; the tokens themselves come from the vault. The types are those of
/// RFC 8693 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenExchangeConfig {
    pub subject_token_type: String,
    /// Present: the vault holds an actor token too, and it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_token_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_token_type: Option<String>,
}

/// Client authentication method at the token endpoint, by its name in the IANA registry. `*_raw` is for servers that
/// do not decode RFC 6749 2.3.1's form encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    ClientSecretBasic,
    ClientSecretBasicRaw,
    ClientSecretPost,
    /// A JWT with a MAC by the client secret (RFC 7523 2.2).
    ClientSecretJwt,
    /// A JWT with a signature by the client's private key (RFC 7523 2.2).
    PrivateKeyJwt,
    /// The TLS connection's client certificate, by its subject and issuer (RFC 8705 2.1).
    TlsClientAuth,
    /// The same, with a certificate that the server knows itself (RFC 8705 2.2).
    SelfSignedTlsClientAuth,
}

impl ClientAuth {
    /// Whether the client proves itself by a signed assertion.
    pub const fn is_assertion(self) -> bool {
        matches!(self, Self::ClientSecretJwt | Self::PrivateKeyJwt)
    }

    /// Whether the connection's certificate is the proof.
    pub const fn is_by_certificate(self) -> bool {
        matches!(self, Self::TlsClientAuth | Self::SelfSignedTlsClientAuth)
    }
}

/// How a private key signs an assertion, by its name in the IANA registry (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AssertionAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_names_bytes() {
        // FIPS 180-4 example.
        assert_eq!(ConfigDigest::of(b"abc").0, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
