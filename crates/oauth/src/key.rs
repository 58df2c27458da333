//! What makes two tokens the same token.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::assertion::AssertionRules;
use crate::grant::GrantType;
use crate::request::{ClientAuth, TokenRequestSpec};

/// Everything that shapes a token, and nothing else. Two connections with equal keys share one token; anything that
/// differs keeps them apart. Texts have no room to grow: there may be 100,000 of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Shared by all keys of one credential at one server.
    pub client: Arc<ClientKey>,
    /// In alphabetical order, each once: they have no order (RFC 6749 3.3).
    pub scopes: Box<[Box<str>]>,
    pub audience: Option<Box<str>>,
    /// In no order (RFC 8707 2).
    pub resource: BTreeSet<String>,
    pub extra_parameters: BTreeMap<String, String>,
    /// Whether the token is bound to a key that this process makes for it (RFC 9449).
    pub dpop: bool,
}

/// One credential at one authorization server: what shares a circuit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    pub instance: Box<str>,
    pub credential_id: Box<str>,
    /// Host that the look-up in the vault is for.
    pub address: Option<Box<str>>,
    /// Name of the resolver.
    pub resolver: Box<str>,
    /// Where the token endpoint is found by metadata: the issuer's identifier.
    pub token_url: Box<str>,
    /// The token endpoint is looked up at the issuer.
    pub is_discovered: bool,
    pub client_auth: ClientAuth,
    /// A wrong audience is refused like a wrong secret. `None`: as by default.
    assertion: Option<Box<AssertionRules>>,
    /// What one subject or one subject token is refused says nothing about another. `None`: client credentials.
    grant: Option<Box<GrantType>>,
    /// Whether the token is bound to the client's certificate.
    pub certificate_bound: bool,
}

impl ClientKey {
    pub fn grant(&self) -> &GrantType {
        self.grant.as_deref().unwrap_or(&GrantType::ClientCredentials)
    }
}

/// Where a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialRef {
    pub instance: String,
    pub credential_id: String,
    pub address: Option<String>,
    pub resolver: String,
}

impl TokenKey {
    pub fn new(credential: CredentialRef, spec: &TokenRequestSpec) -> Self {
        let CredentialRef { instance, credential_id, address, resolver } = credential;
        Self {
            client: Arc::new(ClientKey {
                instance: instance.into(),
                credential_id: credential_id.into(),
                address: address.map(String::into_boxed_str),
                resolver: resolver.into(),
                token_url: spec.token_url.as_str().into(),
                is_discovered: false,
                client_auth: spec.client_auth,
                assertion: Some(&spec.assertion)
                    .filter(|rules| **rules != AssertionRules::default())
                    .map(|rules| Box::new(rules.clone())),
                grant: Some(&spec.grant)
                    .filter(|grant| **grant != GrantType::ClientCredentials)
                    .map(|grant| Box::new(grant.clone())),
                certificate_bound: spec.certificate_bound,
            }),
            scopes: spec
                .scopes
                .iter()
                .map(|scope| scope.as_str().into())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            audience: spec.audience.as_deref().map(Box::from),
            resource: spec.resource.iter().cloned().collect(),
            extra_parameters: spec.extra_parameters.clone(),
            dpop: spec.dpop,
        }
    }

    /// The same, with the token endpoint to be looked up at an issuer. The issuer stands for it: which of the endpoints
    /// that policy allows it names is the same for all who ask it.
    #[must_use]
    pub fn discovered_at(mut self, issuer: &str) -> Self {
        let client = Arc::make_mut(&mut self.client);
        client.token_url = issuer.into();
        client.is_discovered = true;
        self
    }

    /// Tells this key from others where all of it would be too long: 16 hexadecimal digits, the same in every run of
    /// one version of the program.
    pub fn short_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}
