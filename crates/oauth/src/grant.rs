//! How a token is asked for: the grant, and what shapes the tokens that it brings.

use std::collections::BTreeMap;

use crate::assertion::AssertionAlgorithm;

/// The grants that need no user. There is no password grant (RFC 9700 2.4): it hands a person's password to whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrantType {
    /// RFC 6749 4.4.
    ClientCredentials,
    /// RFC 7523 2.1.
    JwtBearer(BearerAssertion),
    /// RFC 8693.
    TokenExchange(TokenExchange),
}

/// The assertion that is the grant itself, signed by the private key from the vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BearerAssertion {
    /// `iss`; `None`: the client id.
    pub issuer: Option<String>,
    /// `sub`; `None`: the client id.
    pub subject: Option<String>,
    /// `aud`. Policy must have allowed it: with an assertion for another server's audience this server could get a
    /// token there.
    pub audience: String,
    /// Further claims, as text. See [`is_own_claim`].
    pub claims: BTreeMap<String, String>,
    /// `None`: by the key's type, RS256 for RSA.
    pub algorithm: Option<AssertionAlgorithm>,
    /// Whether the client proves itself besides (RFC 7521 4.1 leaves it to the server).
    pub authenticates_client: bool,
}

/// A token from the vault, exchanged for another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenExchange {
    /// What the resolver's `subject_token` is (RFC 8693 3).
    pub subject_token_type: String,
    /// What the resolver's `actor_token` is; `None`: no actor token is sent.
    pub actor_token_type: Option<String>,
    /// `None`: the server chooses an access token.
    pub requested_token_type: Option<String>,
}

impl GrantType {
    /// `grant_type` in the token request.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer(_) => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::TokenExchange(_) => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }

    /// Whether the client proves itself in the token request.
    pub const fn authenticates_client(&self) -> bool {
        match self {
            Self::ClientCredentials | Self::TokenExchange(_) => true,
            Self::JwtBearer(assertion) => assertion.authenticates_client,
        }
    }
}

impl TokenExchange {
    /// The types of token (RFC 8693 3) that can be sent to an API.
    pub const USABLE: [&str; 2] =
        ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"];

    /// Whether a reply's `issued_token_type` is what was asked for.
    pub(crate) fn is_answered_by(&self, issued: &str) -> bool {
        match &self.requested_token_type {
            Some(requested) => requested == issued,
            None => Self::USABLE.contains(&issued),
        }
    }
}

/// Claims that an assertion gets by other fields or by itself: they are no further claims.
pub fn is_own_claim(name: &str) -> bool {
    ["", "iss", "sub", "aud", "exp", "iat", "nbf", "jti"].contains(&name)
}
