//! The MID's own AWS credentials, from the one source that is configured.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Provided;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_secretsmanager::config::{BehaviorVersion, IdentityCache, Region, SharedIdentityCache};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use aws_smithy_types::retry::RetryConfig;
use midward_core::{Failure, Secret};
use url::Url;

use super::config::AwsCredentials;
use super::connector::{Connector, SdkClock};
use super::failures::{self, WHO_STS};
use crate::cloud::{Network, Why, check_endpoint, misconfigured, read_private};

/// Where Amazon's instance metadata service listens.
const METADATA: &str = "http://169.254.169.254";

/// What the SDK's client needs: a source, and how long it may keep what came from it.
pub(super) struct Source {
    pub(super) provider: SharedCredentialsProvider,
    pub(super) cache: SharedIdentityCache,
}

impl Source {
    /// `connector` and `clock` are those of the vault's own client.
    pub(super) fn new(
        config: &AwsCredentials,
        region: &str,
        connector: &Connector,
        clock: impl Fn() -> SdkClock,
        way: &midward_net::WayOut,
    ) -> Result<Self, Failure> {
        Ok(match config {
            AwsCredentials::ProfileFile { file, profile } => {
                let source = ProfileFile { file: file.clone(), profile: profile.clone() };
                // Also tells at the start that the file is not there.
                read_private("credentials.file", file)?;
                Self { provider: SharedCredentialsProvider::new(source), cache: IdentityCache::no_cache() }
            }
            AwsCredentials::WebIdentity { token_file, role_arn, session_name, sts_endpoint } => {
                if let Some(url) = sts_endpoint {
                    check_endpoint("credentials.sts_endpoint", url)?;
                }
                read_private("credentials.token_file", token_file)?;
                let connector =
                    Connector { network: Network::to_vault(way, sts_endpoint.as_ref()), limit: connector.limit };
                let builder = aws_sdk_sts::Config::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .region(Region::new(region.to_owned()))
                    .http_client(connector)
                    .time_source(clock())
                    .sleep_impl(TokioSleep::new())
                    .retry_config(RetryConfig::disabled());
                let builder = match sts_endpoint {
                    Some(url) => builder.endpoint_url(url.as_str()),
                    None => builder,
                };
                let source = WebIdentity {
                    token_file: token_file.clone(),
                    role_arn: role_arn.clone(),
                    session_name: session_name.clone(),
                    client: aws_sdk_sts::Client::from_conf(builder.build()),
                };
                Self { provider: SharedCredentialsProvider::new(source), cache: cache() }
            }
            AwsCredentials::InstanceMetadata { endpoint } => {
                if let Some(url) = endpoint {
                    check_endpoint("credentials.endpoint", url)?;
                }
                let connector = Connector { network: Network::to_metadata()?, limit: connector.limit };
                let source = metadata(endpoint.as_ref(), connector, clock())?;
                Self { provider: SharedCredentialsProvider::new(source), cache: cache() }
            }
        })
    }
}

fn cache() -> SharedIdentityCache {
    IdentityCache::lazy().load_timeout(Duration::from_secs(60)).build()
}

fn metadata(endpoint: Option<&Url>, connector: Connector, clock: SdkClock) -> Result<ImdsCredentialsProvider, Failure> {
    let config =
        ProviderConfig::empty().with_http_client(connector).with_time_source(clock).with_sleep_impl(TokioSleep::new());
    // The endpoint is given in every case: the SDK would look into the environment for one.
    let client = aws_config::imds::Client::builder()
        .configure(&config)
        .max_attempts(1)
        .endpoint(endpoint.map_or(METADATA, Url::as_str))
        .map_err(|_| misconfigured("credentials.endpoint is not a URL"))?
        .build();
    Ok(ImdsCredentialsProvider::builder().configure(&config).imds_client(client).build())
}

/// An access key in a file. Other ways to sign in that a profile can name (a role, a program) are refused: they would
/// bring settings of their own, and the environment, into play.
#[derive(Debug)]
struct ProfileFile {
    file: PathBuf,
    profile: String,
}

impl ProvideCredentials for ProfileFile {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(async move { self.read().await.map_err(|why| CredentialsError::provider_error(Why(why))) })
    }
}

impl ProfileFile {
    async fn read(&self) -> Result<Credentials, Failure> {
        let text = read_private("credentials.file", &self.file)?;
        let broken = || misconfigured("credentials.file is not of the form of ~/.aws/credentials");
        let text = text.expose_str().ok_or_else(broken)?;
        let files = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Credentials, text).build();
        let profiles = aws_config::profile::load(
            &aws_types::os_shim_internal::Fs::from_map(std::collections::HashMap::<String, Vec<u8>>::new()),
            &aws_types::os_shim_internal::Env::from_slice(&[]),
            &files,
            Some(self.profile.clone().into()),
        )
        .await
        .map_err(|_| broken())?;
        let legal = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        let id = legal(profiles.get("aws_access_key_id"));
        let (Some(id), Some(secret)) = (id, legal(profiles.get("aws_secret_access_key"))) else {
            return Err(misconfigured(format!(
                "credentials.file has no access key for the profile {:?}; roles and programs in it are not used",
                self.profile
            )));
        };
        Ok(Credentials::new(id, secret, legal(profiles.get("aws_session_token")), None, "file"))
    }
}

/// `AssumeRoleWithWebIdentity`, with the settings that were given and none from the environment.
#[derive(Debug)]
struct WebIdentity {
    token_file: PathBuf,
    role_arn: String,
    session_name: String,
    client: aws_sdk_sts::Client,
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(async move { self.exchange().await.map_err(|why| CredentialsError::provider_error(Why(why))) })
    }
}

impl WebIdentity {
    async fn exchange(&self) -> Result<Credentials, Failure> {
        let token = token(&self.token_file)?;
        let sent = self
            .client
            .assume_role_with_web_identity()
            .role_arn(&self.role_arn)
            .role_session_name(&self.session_name)
            .web_identity_token(token.expose_str().unwrap_or_default())
            .send()
            .await;
        let answer = sent.map_err(|error| {
            let status = error.raw_response().map(|response| response.status().as_u16());
            failures::failure(WHO_STS, error.code(), status, &error)
        })?;
        let credentials = answer.credentials.ok_or_else(|| failures::not_understood(WHO_STS))?;
        let expiry = SystemTime::try_from(credentials.expiration).map_err(|_| failures::not_understood(WHO_STS))?;
        Ok(Credentials::new(
            credentials.access_key_id,
            credentials.secret_access_key,
            Some(credentials.session_token),
            Some(expiry),
            "sts",
        ))
    }
}

fn token(path: &Path) -> Result<Secret, Failure> {
    let text = read_private("credentials.token_file", path)?;
    let token = text.expose_str().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(misconfigured("credentials.token_file is empty"));
    }
    Ok(Secret::from(token))
}
