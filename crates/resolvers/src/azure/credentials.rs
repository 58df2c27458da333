//! How the MID signs in, by the one way that is configured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientMethodOptions, ClientOptions};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use midward_core::{Clock, Failure, Random, new_id};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::config::{AzureConfig, AzureCredentials};
use super::failures::{self, WHO_ENTRA, WHO_METADATA};
use super::transport::Client;
use crate::ResolverContext;
use crate::cloud::{Network, Why, check_endpoint, misconfigured, read_private};

/// Where Azure's instance metadata service listens.
const METADATA: &str = "http://169.254.169.254";
/// Of an assertion that proves who the MID is.
const ASSERTION_LIFE: Duration = Duration::from_secs(300);

/// Gets tokens for the configured resource only, and tells failures in our words.
#[derive(Debug)]
struct Pinned {
    inner: Arc<dyn TokenCredential>,
    scope: String,
    who: &'static str,
}

#[async_trait]
impl TokenCredential for Pinned {
    async fn get_token(&self, _: &[&str], options: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        self.inner.get_token(&[&self.scope], options).await.map_err(|error| {
            azure_core::Error::new(ErrorKind::Credential, Why(failures::of_credentials(self.who, &error)))
        })
    }
}

pub(super) fn credential(config: &AzureConfig, context: &ResolverContext) -> Result<Arc<dyn TokenCredential>, Failure> {
    let limit = Duration::from_millis(config.timeout_ms);
    let entra = |authority: &Url| {
        check_endpoint("credentials.authority", authority)?;
        let network = Network::to_vault(&context.vaults, Some(authority));
        let mut custom = CustomConfiguration::default();
        authority.as_str().clone_into(&mut custom.authority_host);
        let cloud = Some(Arc::new(CloudConfiguration::from(custom)));
        Ok::<_, Failure>(ClientOptions { cloud, ..Client::new(network, limit, authority).options() })
    };
    let (inner, who) = match &config.credentials {
        AzureCredentials::ManagedIdentity { client_id, endpoint } => {
            (managed(client_id.as_deref(), endpoint.as_ref(), limit)?, WHO_METADATA)
        }
        AzureCredentials::WorkloadIdentity { tenant_id, client_id, token_file, authority } => {
            read_private("credentials.token_file", token_file)?;
            let assertion = TokenFile(token_file.clone());
            (application(tenant_id, client_id, assertion, entra(authority)?)?, WHO_ENTRA)
        }
        AzureCredentials::ClientCertificate { tenant_id, client_id, certificate_file, key_file, authority } => {
            let audience = format!("{}/{tenant_id}/oauth2/v2.0/token", authority.as_str().trim_end_matches('/'));
            let assertion = Signed::new(certificate_file, key_file, client_id, audience, context)?;
            (application(tenant_id, client_id, assertion, entra(authority)?)?, WHO_ENTRA)
        }
    };
    let scope = format!("{}/.default", config.resource.trim_end_matches('/'));
    Ok(Arc::new(Pinned { inner, scope, who }))
}

fn managed(
    client_id: Option<&str>,
    endpoint: Option<&Url>,
    limit: Duration,
) -> Result<Arc<dyn TokenCredential>, Failure> {
    if let Some(url) = endpoint {
        check_endpoint("credentials.endpoint", url)?;
    }
    let metadata = Url::parse(METADATA).map_err(|_| misconfigured("credentials.endpoint is not a URL"))?;
    let client = Client { instead: endpoint.cloned(), ..Client::new(Network::to_metadata()?, limit, &metadata) };
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: client_id.map(|id| UserAssignedId::ClientId(id.to_owned())),
        client_options: client.options(),
    };
    let credential = ManagedIdentityCredential::new(Some(options)).map_err(|_| {
        misconfigured("the environment names another service for managed identities than that of a virtual machine")
    })?;
    Ok(credential)
}

fn application<A: ClientAssertion + 'static>(
    tenant_id: &str,
    client_id: &str,
    assertion: A,
    client_options: ClientOptions,
) -> Result<Arc<dyn TokenCredential>, Failure> {
    let options = ClientAssertionCredentialOptions { client_options };
    let credential =
        ClientAssertionCredential::new(tenant_id.to_owned(), client_id.to_owned(), assertion, Some(options))
            .map_err(|_| misconfigured("credentials: tenant_id or client_id is not legal"))?;
    Ok(credential)
}

/// Another issuer's token, as it lies in its file.
#[derive(Debug)]
struct TokenFile(PathBuf);

#[async_trait]
impl ClientAssertion for TokenFile {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let why = |failure| azure_core::Error::new(ErrorKind::Credential, Why(failure));
        let text = read_private("credentials.token_file", &self.0).map_err(why)?;
        let token = text.expose_str().unwrap_or_default().trim();
        if token.is_empty() {
            return Err(why(misconfigured("credentials.token_file is empty")));
        }
        Ok(token.to_owned())
    }
}

/// "Microsoft identity platform application authentication certificate credentials": PS256, `x5t#S256`. The SDK's own
/// `ClientCertificateCredential` would bring OpenSSL.
struct Signed {
    header: Header,
    key: EncodingKey,
    client_id: String,
    audience: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Signed {
    fn new(
        certificate: &Path,
        key: &Path,
        client_id: &str,
        audience: String,
        context: &ResolverContext,
    ) -> Result<Self, Failure> {
        let pem = std::fs::read(certificate).map_err(|error| {
            misconfigured(format!(
                "credentials.certificate_file: {} cannot be read: {}",
                certificate.display(),
                error.kind()
            ))
        })?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|_| misconfigured("credentials.certificate_file holds no PEM certificate"))?;
        let key = EncodingKey::from_rsa_pem(read_private("credentials.key_file", key)?.expose())
            .map_err(|_| misconfigured("credentials.key_file holds no RSA key as PEM without a passphrase"))?;
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(base64_url(&Sha256::digest(&certificate)));
        let (clock, random) = (Arc::clone(&context.clock), Arc::clone(&context.random));
        Ok(Self { header, key, client_id: client_id.to_owned(), audience, clock, random })
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[async_trait]
impl ClientAssertion for Signed {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let now = self.clock.wall();
        let claims = json!({
            "aud": self.audience,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": new_id(now, &*self.random),
            "iat": now.unix_seconds(),
            "nbf": now.unix_seconds(),
            "exp": (now + ASSERTION_LIFE).unix_seconds(),
        });
        jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| {
            let why = misconfigured("credentials.key_file's key cannot sign: use RSA from 2048 bits");
            azure_core::Error::new(ErrorKind::Credential, Why(why))
        })
    }
}

/// RFC 4648, section 5, without padding.
fn base64_url(bytes: &[u8]) -> String {
    azure_core::base64::encode_url_safe(bytes).trim_end_matches('=').to_owned()
}
