//! The adapter: one `GetSecretValue` for each look-up.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use aws_smithy_types::retry::RetryConfig;
use midward_core::{Clock, Failure, Hop, Secret, Trace};
use midward_net::WayOut;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::config::AwsConfig;
use super::connector::{Connector, SdkClock};
use super::credentials::Source;
use super::failures::{WHO, failure, not_understood};
use crate::cloud::{Network, check_endpoint, limit, material, misconfigured, timeout_failure, told, version};
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

pub(crate) struct AwsResolver {
    name: String,
    config: AwsConfig,
    way: WayOut,
    clock: Arc<dyn Clock>,
    /// Replaced when its credentials were refused: new ones may be had before the old ones expire.
    client: RwLock<Client>,
}

impl AwsResolver {
    pub(crate) fn new(name: &str, config: &AwsConfig, way: &WayOut, clock: &Arc<dyn Clock>) -> Result<Self, Failure> {
        let client = client(config, way, clock)?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            way: way.clone(),
            clock: Arc::clone(clock),
            client: RwLock::new(client),
        })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        check_id(&lookup.credential_id)?;
        let begin = self.clock.boot();
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let request = client
            .get_secret_value()
            .secret_id(&lookup.credential_id)
            .set_version_stage(self.config.version_stage.clone());
        // The SDK writes whole answers into its trace messages: nobody may read them.
        let sent = request.send().with_subscriber(NoSubscriber::default());
        let answer = tokio::time::timeout(limit, sent).await.map_err(|_| timeout_failure(WHO, Some(limit)))?;
        let answer = answer.map_err(|error| {
            let status = error.raw_response().map(|response| response.status().as_u16());
            failure(WHO, error.code(), status, &error)
        })?;
        let mut trace = Trace::default();
        let what = format!("{WHO} answered{}", version(answer.version_id()));
        trace.push(Hop::Vault, what, self.clock.boot().saturating_since(begin));
        let material = material(value(answer)?, &self.config.fields, self.config.client_id.as_deref())?;
        Ok(Resolution { material, changing: false, trace })
    }

    fn sign_in_anew(&self, failure: &Failure) {
        if failure.code == "vault_login_refused"
            && let Ok(fresh) = client(&self.config, &self.way, &self.clock)
        {
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

impl fmt::Debug for AwsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for AwsResolver {
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

fn client(config: &AwsConfig, way: &WayOut, clock: &Arc<dyn Clock>) -> Result<Client, Failure> {
    let is_region = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !is_region(&config.region) {
        return Err(misconfigured("region must be one of Amazon's, like eu-central-1"));
    }
    if let Some(url) = &config.endpoint {
        check_endpoint("endpoint", url)?;
    }
    let connector = Connector {
        network: Network::to_vault(way, config.endpoint.as_ref()),
        limit: Duration::from_millis(config.timeout_ms),
    };
    let clock = || SdkClock(Arc::clone(clock));
    let source = Source::new(&config.credentials, &config.region, &connector, clock, way)?;
    let builder = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .http_client(connector)
        .credentials_provider(source.provider)
        .identity_cache(source.cache)
        .time_source(clock())
        .sleep_impl(TokioSleep::new())
        // Those who wait share a back-off of the MID's own.
        .retry_config(RetryConfig::disabled());
    let builder = match &config.endpoint {
        Some(url) => builder.endpoint_url(url.as_str()),
        None => builder,
    };
    Ok(Client::from_conf(builder.build()))
}

/// A secret's name or ARN (`CreateSecret`, "Name": letters, digits and `/_+=.@-`).
fn check_id(id: &str) -> Result<(), Failure> {
    CredentialId::check(id)?;
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-:".contains(&byte)) {
        return Err(Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier is neither the name nor the ARN of an AWS secret",
            "Use letters, digits and /_+=.@- only, or the secret's whole ARN.",
        ));
    }
    Ok(())
}

fn value(answer: GetSecretValueOutput) -> Result<Secret, Failure> {
    if let Some(text) = answer.secret_string {
        return Ok(Secret::from(text));
    }
    let binary = answer.secret_binary.ok_or_else(|| not_understood(WHO))?;
    Ok(Secret::new(binary.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_arns_are_asked_for() {
        for good in ["crm", "prod/crm@eu.1_+=", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:crm-AbCdEf"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a;b", "a\"b", "a\nb", "a\0b", "a/../b", "a?b", "-a", "é", "a%2fb", &"a".repeat(161)] {
            assert_eq!(check_id(bad).expect_err(bad).code, "invalid_credential_id");
        }
    }
}
