//! The adapter: one `GET /secrets?variable_ids=..` for each look-up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use midward_core::{Failure, Hop, MaterialField, Trace};

use super::WHO;
use super::answer::{refusal, values};
use super::client::Client;
use super::config::{ConjurConfig, PLACE};
use crate::cloud::{limit, misconfigured, told, within};
use crate::session::Session;
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

pub(super) struct ConjurResolver {
    name: String,
    config: ConjurConfig,
    context: ResolverContext,
    session: Arc<Session<Client>>,
}

impl ConjurResolver {
    pub(super) fn new(name: &str, config: &ConjurConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let variables = &config.variables;
        if variables.named().any(|(_, variable)| !variable.contains(PLACE) || variable.contains(',')) {
            return Err(misconfigured("each of `variables` must contain {id}, and no comma"));
        }
        if variables.client_id.is_none() && config.client_id.is_none() {
            return Err(misconfigured("variables.client_id or client_id is needed"));
        }
        if variables.client_secret.is_none() && variables.private_key.is_none() {
            return Err(misconfigured("variables.client_secret or variables.private_key is needed"));
        }
        let session = Session::new(Client::new(config, context)?, context);
        Ok(Self { name: name.to_owned(), config: config.clone(), context: context.clone(), session })
    }

    async fn look_up(&self, lookup: &Lookup) -> Result<Resolution, Failure> {
        check_id(&lookup.credential_id)?;
        let begin = self.context.clock.boot();
        let client = &self.session.door;
        let client_id = self.config.client_id.as_deref();
        let asked: Vec<(MaterialField, String)> = self
            .config
            .variables
            .named()
            .filter(|(field, _)| client_id.is_none() || *field != MaterialField::ClientId)
            .map(|(field, variable)| (field, client.full_name(&variable.replace(PLACE, &lookup.credential_id))))
            .collect();
        let names = || asked.iter().map(|(_, name)| name.as_str());
        let pass = self.session.pass().await?;
        let mut answer = client.batch(names(), &pass.token).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let pass = self.session.instead_of(&pass).await?;
            answer = client.batch(names(), &pass.token).await?;
        }
        if answer.status() != StatusCode::OK {
            return Err(refusal(&answer));
        }
        let material = values(&answer, &asked, client_id)?;
        let mut trace = Trace::default();
        trace.push(Hop::Vault, format!("{WHO} answered"), self.context.clock.boot().saturating_since(begin));
        Ok(Resolution { material, changing: false, trace })
    }
}

impl fmt::Debug for ConjurResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConjurResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for ConjurResolver {
    fn kind(&self) -> &'static str {
        super::KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, within(WHO, limit(self.config.timeout_ms, deadline), self.look_up(lookup)))
    }

    fn report(&self) -> ResolverReport {
        self.session.report()
    }

    /// Signs in; how it went shows in the report.
    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(failure) = self.session.pass().await {
                tracing::warn!(resolver = %self.name, "{failure}");
            }
        })
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { drop(self.session.close()) })
    }
}

/// What goes into the names of variables. A comma would end a name in the batch.
fn check_id(id: &str) -> Result<(), Failure> {
    CredentialId::check(id)?;
    let odd = id.is_empty()
        || id.contains([',', '%', '#', '\\', '{', '}'])
        || id.split('/').any(|part| matches!(part, "" | "." | ".."));
    if odd {
        return Err(Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier cannot be part of a variable's name",
            "Use names with / between them, without , % # \\ { and }, not beginning or ending with /.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_names_are_asked_for() {
        for good in ["crm", "apps/crm prod", "CRM (blue) é", "a:b@c.d"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            "a,b",
            "a%2fb",
            "a#b",
            "a\\b",
            "{id}",
            "a?b",
            "-a",
            "a;b",
            "a\"b",
            "a\nb",
            "a\0b",
            &"é".repeat(161),
        ] {
            assert_eq!(check_id(bad).expect_err(bad).code, "invalid_credential_id");
        }
    }
}
