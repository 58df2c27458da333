//! The records that the instance keeps, as its API shows them. None has a field that could hold a secret.

use std::collections::BTreeMap;

use midward_wire::{AssertionAlgorithm, ClientAuth, GrantType, JwtBearerConfig, TokenExchangeConfig};
use serde::{Deserialize, Serialize};

use crate::retry::RetryPolicy;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuthEntity {
    pub(crate) name: String,
    /// Absent: the MID Server looks it up in the metadata of `issuer` (RFC 8414).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_url: Option<String>,
    pub(crate) client_auth: ClientAuth,
    /// RFC 7009.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revocation_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// `aud` of signed assertions, where the server wants neither its issuer identifier nor the token URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) assertion_audience: Option<String>,
    /// `alg` of signed assertions, where the key's type leaves a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) assertion_algorithm: Option<AssertionAlgorithm>,
    /// Tokens are bound to the client's certificate (RFC 8705 3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) certificate_bound_tokens: bool,
    /// Tokens are bound to a key of the MID's (RFC 9449).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) dpop_bound_tokens: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuthEntityProfile {
    pub(crate) name: String,
    pub(crate) oauth_entity: String,
    #[serde(default, skip_serializing_if = "GrantName::is_default")]
    pub(crate) grant_type: GrantName,
    /// For the grant of that name, as the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jwt_bearer: Option<JwtBearerConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_exchange: Option<TokenExchangeConfig>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// RFC 8707.
    #[serde(default)]
    pub(crate) resource: Vec<String>,
    #[serde(default)]
    pub(crate) extra_parameters: BTreeMap<String, String>,
}

/// A grant by name. Those that are not [`GrantType`]s are known only to be refused with their reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GrantName {
    #[default]
    ClientCredentials,
    #[serde(alias = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
    #[serde(alias = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
    Password,
    AuthorizationCode,
    Implicit,
    RefreshToken,
}

impl GrantName {
    /// The grant, or why there is none.
    pub(crate) const fn grant(self) -> Result<GrantType, &'static str> {
        match self {
            Self::ClientCredentials => Ok(GrantType::ClientCredentials),
            Self::JwtBearer => Ok(GrantType::JwtBearer),
            Self::TokenExchange => Ok(GrantType::TokenExchange),
            Self::Password => {
                Err("the password grant hands a person's password to a program, knows no second factor, and is \
                                   forbidden by RFC 9700 2.4: use client_credentials, jwt_bearer or token_exchange")
            }
            Self::AuthorizationCode | Self::Implicit => {
                Err("it needs a person at a browser, and there is none here: use \
                                                             client_credentials, jwt_bearer or token_exchange")
            }
            Self::RefreshToken => {
                Err("tokens are refreshed by asking for a new one, so no refresh token is kept: use \
                                       client_credentials, jwt_bearer or token_exchange")
            }
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "credential_id is the name that everybody uses")]
pub(crate) struct Credential {
    pub(crate) name: String,
    pub(crate) credential_id: String,
    #[serde(default = "default_resolver")]
    pub(crate) resolver: String,
    pub(crate) oauth_entity_profile: String,
    #[serde(default)]
    pub(crate) applies_to: AppliesTo,
}

/// For a credential that names none: a route, say, or a MID's only resolver.
fn default_resolver() -> String {
    "default".to_owned()
}

/// Which MIDs may use a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AppliesTo {
    #[default]
    All,
    /// Names of MIDs.
    Mids(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connection {
    pub(crate) alias: String,
    pub(crate) base_url: String,
    pub(crate) credential: String,
    /// Name of the one MID that may serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mid: Option<String>,
    /// Name of the cluster whose MIDs serve it. With neither: any MID that has the resolver, or those of the cluster in
    /// whose networks the base URL's address is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// How long the API may take to answer, in milliseconds.
    #[serde(default = "default_timeout")]
    pub(crate) timeout_ms: u64,
    /// Methods whose calls may be sent twice; absent: GET, HEAD and OPTIONS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replay_methods: Option<Vec<String>>,
    /// When queued requests are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<RetryPolicy>,
    /// Most calls at a time, over all MIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_concurrent: Option<u32>,
    /// Most calls a minute, over all MIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Keep::is_default")]
    pub(crate) keep: Keep,
}

/// What is kept of a connection's requests after they have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Keep {
    #[default]
    Everything,
    /// Who asked what when and how it ended; no body, no header, no query.
    Metadata,
}

impl Keep {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// MIDs that serve connections together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) mode: ClusterMode,
    /// Names of MIDs; in order, for failover.
    pub(crate) mids: Vec<String>,
    /// In CIDR notation: connections to addresses in there are this cluster's, unless they say otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) networks: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClusterMode {
    /// Each takes what it can take now.
    #[default]
    LoadBalance,
    /// The first that can serve takes all.
    Failover,
}

fn default_timeout() -> u64 {
    30_000
}

/// The whole of what `midward apply` sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyDocument {
    pub(crate) version: u32,
    #[serde(default)]
    pub(crate) oauth_entities: Vec<OAuthEntity>,
    #[serde(default)]
    pub(crate) oauth_entity_profiles: Vec<OAuthEntityProfile>,
    #[serde(default)]
    pub(crate) credentials: Vec<Credential>,
    #[serde(default)]
    pub(crate) clusters: Vec<Cluster>,
    #[serde(default)]
    pub(crate) connections: Vec<Connection>,
}
