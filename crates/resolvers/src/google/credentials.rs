//! How the MID signs in, by the one way that is configured.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use midward_core::{AccessToken, Failure, Secret, WallTime};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::answer::{WHO_METADATA, WHO_TOKENS, token};
use super::config::{GoogleConfig, GoogleCredentials};
use crate::ResolverContext;
use crate::cloud::{Meaning, Network, check_endpoint, misconfigured, read_private, send_failure};

/// Where the metadata service listens; its name would need DNS.
const METADATA: &str = "http://169.254.169.254";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Of the assertion: Google's longest.
const ASSERTION_LIFE: Duration = Duration::from_hours(1);

/// Gets access tokens.
#[derive(Debug)]
pub(super) struct SignIn {
    credentials: GoogleCredentials,
    network: Network,
    metadata: Url,
}

impl SignIn {
    /// Reads the key once, to say early what is wrong with it.
    pub(super) fn new(config: &GoogleConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let credentials = config.credentials.clone();
        let metadata = Url::parse(METADATA).map_err(|_| misconfigured("the metadata service has no URL"))?;
        match &credentials {
            GoogleCredentials::ServiceAccountKey { token_url, .. } => {
                check_endpoint("credentials.token_url", token_url)?;
                let sign_in =
                    Self { network: Network::to_vault(&context.vaults, Some(token_url)), credentials, metadata };
                sign_in.assertion(context.clock.wall()).map(|_| sign_in)
            }
            GoogleCredentials::Metadata { service_account, endpoint } => {
                let legal = |b: u8| b.is_ascii_alphanumeric() || b"@.-_".contains(&b);
                if service_account.is_empty() || !service_account.bytes().all(legal) {
                    return Err(misconfigured("credentials.service_account is no e-mail address"));
                }
                let metadata = endpoint.clone().unwrap_or(metadata);
                check_endpoint("credentials.endpoint", &metadata)?;
                Ok(Self { credentials, network: Network::to_metadata()?, metadata })
            }
        }
    }

    pub(super) async fn token(&self, now: WallTime, limit: Duration) -> Result<(AccessToken, Duration), Failure> {
        match &self.credentials {
            GoogleCredentials::ServiceAccountKey { token_url, .. } => {
                let assertion = self.assertion(now)?;
                let form = Zeroizing::new(format!(
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
                    &*assertion
                ));
                let request = Request::post(token_url.as_str())
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Bytes::copy_from_slice(form.as_bytes()));
                let request = request.map_err(|_| misconfigured("credentials.token_url is not a URL"))?;
                let response =
                    self.network.send(request, limit).await.map_err(|error| send_failure(WHO_TOKENS, error))?;
                token(WHO_TOKENS, response.status(), response.body())
            }
            GoogleCredentials::Metadata { service_account, .. } => {
                let base = self.metadata.as_str().trim_end_matches('/');
                let url = format!("{base}/computeMetadata/v1/instance/service-accounts/{service_account}/token");
                let request = Request::get(url).header("metadata-flavor", "Google").body(Bytes::new());
                let request = request.map_err(|_| misconfigured("credentials.endpoint is not a URL"))?;
                let response =
                    self.network.send(request, limit).await.map_err(|error| send_failure(WHO_METADATA, error))?;
                // "Verify the response": another service under that address does not say so.
                if response.headers().get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
                    return Err(Meaning::NotUnderstood.failure(WHO_METADATA, "something"));
                }
                token(WHO_METADATA, response.status(), response.body())
            }
        }
    }

    /// "Using OAuth 2.0 for Server to Server Applications".
    fn assertion(&self, now: WallTime) -> Result<Zeroizing<String>, Failure> {
        let GoogleCredentials::ServiceAccountKey { file, token_url } = &self.credentials else {
            return Err(misconfigured("credentials have no key"));
        };
        let key = Key::read(&read_private("credentials.file", file)?)?;
        let signer = EncodingKey::from_rsa_pem(key.pem.as_bytes())
            .map_err(|_| misconfigured("credentials.file holds no RSA private_key"))?;
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(key.id);
        let claims = json!({
            "iss": key.client_email,
            "scope": SCOPE,
            "aud": token_url.as_str(),
            "iat": now.unix_seconds(),
            "exp": (now + ASSERTION_LIFE).unix_seconds(),
        });
        let signed = jsonwebtoken::encode(&header, &claims, &signer);
        signed.map(Zeroizing::new).map_err(|_| misconfigured("credentials.file's key cannot sign"))
    }
}

/// What counts in a key file.
struct Key {
    client_email: String,
    id: String,
    pem: Zeroizing<String>,
}

impl Key {
    fn read(text: &Secret) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: String,
            client_email: String,
            private_key_id: String,
            private_key: String,
        }
        // What serde_json says may quote the key.
        let raw: Raw = serde_json::from_slice(text.expose())
            .map_err(|_| misconfigured("credentials.file is no service account's key (JSON)"))?;
        let pem = Zeroizing::new(raw.private_key);
        if raw.r#type != "service_account" {
            return Err(misconfigured("credentials.file is of another type than `service_account`"));
        }
        Ok(Self { client_email: raw.client_email, id: raw.private_key_id, pem })
    }
}
