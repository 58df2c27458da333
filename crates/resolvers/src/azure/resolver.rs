//! The adapter: one `GET /secrets/NAME` for each look-up.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use azure_security_keyvault_secrets::models::Secret as SdkSecret;
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient, SecretClientOptions};
use midward_core::{Failure, Hop, Secret, Trace};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::config::AzureConfig;
use super::credentials::credential;
use super::failures::{WHO, of_vault};
use super::transport::Client;
use crate::cloud::{Network, check_endpoint, limit, material, misconfigured, timeout_failure, told, version};
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

pub(crate) struct AzureResolver {
    name: String,
    config: AzureConfig,
    context: ResolverContext,
    /// Replaced when its access token was refused: the SDK keeps tokens until shortly before they end.
    client: RwLock<Arc<SecretClient>>,
}

impl AzureResolver {
    pub(crate) fn new(name: &str, config: &AzureConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let client = RwLock::new(Arc::new(client(config, context)?));
        Ok(Self { name: name.to_owned(), config: config.clone(), context: context.clone(), client })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        check_id(&lookup.credential_id)?;
        let begin = self.context.clock.boot();
        let client = Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner));
        let ask = async {
            let answer = client.get_secret(&lookup.credential_id, None).await?;
            answer.into_model()
        };
        // Whatever the SDK writes into its messages: nobody may read them.
        let ask = ask.with_subscriber(NoSubscriber::default());
        let answer = tokio::time::timeout(limit, ask).await.map_err(|_| timeout_failure(WHO, Some(limit)))?;
        let answer: SdkSecret = answer.map_err(|error| of_vault(&error))?;
        let mut trace = Trace::default();
        let id = answer.resource_id().ok().and_then(|id| id.version);
        let what = format!("{WHO} answered{}", version(id.as_deref()));
        trace.push(Hop::Vault, what, self.context.clock.boot().saturating_since(begin));
        let value = Secret::from(answer.value.unwrap_or_default());
        let material = material(value, &self.config.fields, self.config.client_id.as_deref())?;
        Ok(Resolution { material, changing: false, trace })
    }

    fn sign_in_anew(&self, failure: &Failure) {
        if failure.code == "vault_login_refused"
            && let Ok(fresh) = client(&self.config, &self.context)
        {
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
    }
}

impl fmt::Debug for AzureResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for AzureResolver {
    fn kind(&self) -> &'static str {
        super::KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        let limit = limit(self.config.timeout_ms, deadline);
        told(
            &self.name,
            async move { self.look_up(lookup, limit).await.inspect_err(|failure| self.sign_in_anew(failure)) },
        )
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Ready
    }
}

fn client(config: &AzureConfig, context: &ResolverContext) -> Result<SecretClient, Failure> {
    check_endpoint("the vault_url", &config.vault_url)?;
    let network = Network::to_vault(&context.vaults, Some(&config.vault_url));
    let transport = Client::new(network, Duration::from_millis(config.timeout_ms), &config.vault_url);
    let options = SecretClientOptions {
        client_options: transport.options(),
        verify_challenge_resource: Some(config.verify_challenge_resource),
        ..SecretClientOptions::default()
    };
    let credential = credential(config, context)?;
    SecretClient::new(config.vault_url.as_str(), credential, Some(options))
        .map_err(|_| misconfigured("vault_url is not the URL of a vault"))
}

/// "Objects, identifiers, and versioning": 1 to 127 letters, digits and hyphens.
fn check_id(id: &str) -> Result<(), Failure> {
    CredentialId::check(id)?;
    if !(1..=127).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier is not the name of an Azure Key Vault secret",
            "Use 1 to 127 letters, digits and hyphens.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_asked_for() {
        assert!(check_id("crm-Prod-1").is_ok());
        for bad in ["", "a b", "a;b", "a\"b", "a\nb", "a\0b", "a/b", "../a", "a?b", "-a", "é", "a%2f", &"a".repeat(128)]
        {
            assert_eq!(check_id(bad).expect_err(bad).code, "invalid_credential_id");
        }
    }
}
