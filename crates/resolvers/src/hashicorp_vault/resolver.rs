//! The adapter: one `GET /v1/MOUNT/data/PATH` for each look-up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use midward_core::{Failure, Hop, Trace};

use super::WHO;
use super::client::{Client, entry, is_refusal, material, secret_path};
use super::config::HashiCorpVaultConfig;
use crate::cloud::{limit, misconfigured, told, version, within};
use crate::session::Session;
use crate::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

/// How long a stopping MID waits for its token to be revoked.
const REVOKE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct VaultResolver {
    name: String,
    config: HashiCorpVaultConfig,
    context: ResolverContext,
    session: Arc<Session<Client>>,
}

impl VaultResolver {
    pub(super) fn new(name: &str, config: &HashiCorpVaultConfig, context: &ResolverContext) -> Result<Self, Failure> {
        if !matches!(config.kv_version, 1 | 2) {
            return Err(misconfigured("kv_version must be 1 or 2"));
        }
        let session = Session::new(Client::new(config, context)?, context);
        Ok(Self { name: name.to_owned(), config: config.clone(), context: context.clone(), session })
    }

    async fn look_up(&self, lookup: &Lookup) -> Result<Resolution, Failure> {
        let path = secret_path(&self.config, &lookup.credential_id)?;
        let begin = self.context.clock.boot();
        let client = &self.session.door;
        let pass = self.session.pass().await?;
        let mut answer = client.get(&path, &pass.token, lookup.fresh).await?;
        let refused = answer.status() == StatusCode::FORBIDDEN && is_refusal(&answer);
        if refused && !client.is_alive(&pass.token).await? {
            let pass = self.session.instead_of(&pass).await?;
            answer = client.get(&path, &pass.token, lookup.fresh).await?;
        }
        let entry = entry(&answer, self.config.kv_version)?;
        let mut trace = Trace::default();
        let number = entry.version.map(|number| number.to_string());
        let what = format!("{WHO} answered{}", version(number.as_deref()));
        trace.push(Hop::Vault, what, self.context.clock.boot().saturating_since(begin));
        Ok(Resolution { material: material(entry, &self.config)?, changing: false, trace })
    }
}

impl fmt::Debug for VaultResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for VaultResolver {
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
        Box::pin(async move {
            let Some(pass) = self.session.close() else { return };
            if let Err(failure) = within(WHO, REVOKE_LIMIT, self.session.door.revoke(&pass.token)).await {
                tracing::info!(resolver = %self.name, "the MID's token for the vault was not revoked: {failure}");
            }
        })
    }
}
