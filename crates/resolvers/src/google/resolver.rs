//! The adapter: one `GET .../versions/VERSION:access` for each look-up.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use midward_core::{AccessToken, BootTime, Failure, Hop, Trace};
use tokio::sync::Mutex;
use url::Url;
use zeroize::Zeroizing;

use super::answer::{WHO, payload};
use super::config::GoogleConfig;
use super::credentials::SignIn;
use crate::cloud::{
    Network, check_endpoint, limit, material, misconfigured, send_failure, timeout_failure, told, version,
};
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

pub(super) struct GoogleResolver {
    name: String,
    config: GoogleConfig,
    context: ResolverContext,
    network: Network,
    /// `https://HOST/v1/projects/PROJECT[/locations/LOCATION]/secrets`.
    secrets: String,
    sign_in: SignIn,
    /// Held while a token is fetched: whoever asks meanwhile needs that very token.
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    value: AccessToken,
    /// Nine tenths of its life.
    until: BootTime,
}

impl GoogleResolver {
    pub(super) fn new(name: &str, config: &GoogleConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let location = config.location.as_deref();
        for (what, word) in [
            ("project", Some(config.project.as_str())),
            ("location", location),
            ("secret_version", Some(&config.secret_version)),
        ] {
            // Domain-scoped projects have a colon.
            if word.is_some_and(|word| !is_name(word, b"-_.:")) {
                return Err(misconfigured(format!("{what} is not legal")));
            }
        }
        let public = location.map_or_else(
            || "https://secretmanager.googleapis.com".to_owned(),
            |location| format!("https://secretmanager.{location}.rep.googleapis.com"),
        );
        let public = Url::parse(&public).map_err(|_| misconfigured("location is not legal"))?;
        let endpoint = config.endpoint.as_ref().unwrap_or(&public);
        check_endpoint("endpoint", endpoint)?;
        let location = location.map_or_else(String::new, |location| format!("/locations/{location}"));
        let base = endpoint.as_str().trim_end_matches('/');
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            context: context.clone(),
            network: Network::to_vault(&context.vaults, config.endpoint.as_ref()),
            secrets: format!("{base}/v1/projects/{}{location}/secrets", config.project),
            sign_in: SignIn::new(config, context)?,
            token: Mutex::default(),
        })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        check_id(&lookup.credential_id)?;
        let begin = self.context.clock.boot();
        let left = || limit.saturating_sub(self.context.clock.boot().saturating_since(begin));
        let exchange = async {
            let token = self.access_token(None, left()).await?;
            let response = self.ask(&lookup.credential_id, &token, left()).await?;
            if response.status() != http::StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            // Revoked before its time, maybe: a new one is shown once.
            let token = self.access_token(Some(&token), left()).await?;
            self.ask(&lookup.credential_id, &token, left()).await
        };
        let response: Result<_, Failure> =
            tokio::time::timeout(limit, exchange).await.map_err(|_| timeout_failure(WHO, Some(limit)))?;
        let response = response?;
        let found = payload(response.status(), response.body())?;
        let mut trace = Trace::default();
        let what = format!("{WHO} answered{}", version(found.version.as_deref()));
        trace.push(Hop::Vault, what, self.context.clock.boot().saturating_since(begin));
        let material = material(found.value, &self.config.fields, self.config.client_id.as_deref())?;
        Ok(Resolution { material, changing: false, trace })
    }

    async fn ask(&self, id: &str, token: &AccessToken, limit: Duration) -> Result<Response<Bytes>, Failure> {
        let url = format!("{}/{id}/versions/{}:access", self.secrets, self.config.secret_version);
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| misconfigured("the access token is not legal"))?;
        bearer.set_sensitive(true);
        let request = Request::get(url).header(AUTHORIZATION, bearer).body(Bytes::new());
        let request = request.map_err(|_| misconfigured("project or secret_version is not legal"))?;
        self.network.send(request, limit).await.map_err(|error| send_failure(WHO, error))
    }

    /// One that is valid and not `refused`.
    async fn access_token(&self, refused: Option<&AccessToken>, limit: Duration) -> Result<AccessToken, Failure> {
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_ref().filter(|token| self.context.clock.boot() < token.until)
            && refused.is_none_or(|refused| *refused != token.value)
        {
            return Ok(token.value.clone());
        }
        *held = None;
        let asked = self.context.clock.boot();
        let (value, life) = self.sign_in.token(self.context.clock.wall(), limit).await?;
        *held = Some(Token { value: value.clone(), until: asked + life / 10 * 9 });
        Ok(value)
    }
}

impl fmt::Debug for GoogleResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoogleResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for GoogleResolver {
    fn kind(&self) -> &'static str {
        super::KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, self.look_up(lookup, limit(self.config.timeout_ms, deadline)))
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Ready
    }
}

/// "Creating a secret": 1 to 255 letters, digits, hyphens and underscores.
fn check_id(id: &str) -> Result<(), Failure> {
    CredentialId::check(id)?;
    if !is_name(id, b"-_") {
        return Err(Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier is not the name of a Google secret",
            "Use letters, digits, hyphens and underscores.",
        ));
    }
    Ok(())
}

fn is_name(text: &str, marks: &[u8]) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(legal) && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_asked_for() {
        assert!(check_id("crm-Prod_1").is_ok());
        for bad in ["", "a b", "a;b", "a\"b", "a\nb", "a\0b", "a/b", "../a", "a?b", "-a", "é", "a%2f", "a:b", "a.b"] {
            assert_eq!(check_id(bad).expect_err(bad).code, "invalid_credential_id");
        }
    }
}
