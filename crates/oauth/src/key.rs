//! What makes two tokens the same token.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::assertion::AssertionRules;
use crate::grant::GrantType;
use crate::request::{ClientAuth, TokenRequestSpec};

/// Everything that shapes a token, and nothing else. Two connections with equal keys share one token; anything that
/// differs keeps them apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Shared by all keys of one credential at one server.
    pub client: Arc<ClientKey>,
    /// In alphabetical order, each once: they have no order (RFC 6749 3.3).
    pub scopes: Box<[String]>,
    pub audience: Option<String>,
    /// In no order (RFC 8707 2).
    pub resource: BTreeSet<String>,
    pub extra_parameters: BTreeMap<String, String>,
    /// Whether the token is bound to a key that this process makes for it (RFC 9449).
    pub dpop: bool,
}

/// One credential at one authorization server: what shares a circuit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    pub instance: String,
    pub credential_id: String,
    /// Host that the look-up in the vault is for.
    pub address: Option<String>,
    /// Name of the resolver.
    pub resolver: String,
    /// Where the token endpoint is found by metadata: the issuer's identifier.
    pub token_url: String,
    /// The token endpoint is looked up at the issuer.
    pub is_discovered: bool,
    pub client_auth: ClientAuth,
    /// A wrong audience is refused like a wrong secret.
    pub assertion: AssertionRules,
    /// What one subject or one subject token is refused says nothing about another.
    pub grant: GrantType,
    /// Whether the token is bound to the client's certificate.
    pub certificate_bound: bool,
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
                instance,
                credential_id,
                address,
                resolver,
                token_url: spec.token_url.as_str().to_owned(),
                is_discovered: false,
                client_auth: spec.client_auth,
                assertion: spec.assertion.clone(),
                grant: spec.grant.clone(),
                certificate_bound: spec.certificate_bound,
            }),
            scopes: spec.scopes.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            audience: spec.audience.clone(),
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
        issuer.clone_into(&mut client.token_url);
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
