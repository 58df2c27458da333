//! What the admin socket's questions do.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{Failure, Hop};
use midward_oauth::TokenKey;
use midward_resolvers::{BoxFuture, CredentialId, Lookup, SetChanges};

use crate::admin::{
    AdminReply, AdminRequest, FieldReport, FlushedToken, Operate, ResolveReport, StatusReport, TokenReport,
};
use crate::capacity::Capacity;
use crate::engine::Engine;
use crate::heartbeat::{Heart, Resolvers};
use crate::link::{Link, LinkState};
use crate::metrics;
use crate::reload::Reload;
use crate::revoke;
use crate::source::{LOOKUP_DEADLINE, find};

/// How long a flush spends on revoking tokens; less than the socket's own limit.
const REVOCATIONS: Duration = Duration::from_secs(30);

/// Answers the admin socket.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) link: Arc<Link>,
    pub(crate) heart: Arc<Heart>,
    pub(crate) capacity: Capacity,
    pub(crate) engine: Arc<Engine>,
    pub(crate) reload: Arc<Reload>,
    /// Most profiles with lines of their own in the metrics.
    pub(crate) max_profiles: usize,
}

impl Operate for Operator {
    fn answer(&self, request: AdminRequest) -> BoxFuture<'_, AdminReply> {
        Box::pin(async move { self.try_answer(request).await.unwrap_or_else(|failure| AdminReply::Failed { failure }) })
    }
}

impl Operator {
    async fn try_answer(&self, request: AdminRequest) -> Result<AdminReply, Failure> {
        match request {
            AdminRequest::Status => Ok(AdminReply::Status(self.status())),
            AdminRequest::Resolve { credential_id, resolver, address } => {
                self.resolve(credential_id, resolver, address).await.map(AdminReply::Resolved)
            }
            AdminRequest::Tokens { connection } => {
                let wanted = connection.as_deref().map(|alias| self.engine.key_of(alias)).transpose()?;
                Ok(AdminReply::Tokens { tokens: self.tokens(wanted.as_ref()) })
            }
            AdminRequest::Flush { connection } => {
                let wanted = connection.as_deref().map(|alias| self.engine.key_of(alias)).transpose()?;
                let tokens = self.flush(wanted.as_ref()).await;
                tracing::info!(count = tokens.len(), "tokens dropped by the operator");
                Ok(AdminReply::Flushed { count: tokens.len(), tokens })
            }
            AdminRequest::Metrics => {
                Ok(AdminReply::Metrics { text: metrics::text(&self.engine.tokens.metrics(self.max_profiles)) })
            }
            AdminRequest::Reload => {
                let SetChanges { added, changed, removed, unchanged } = self.reload.reload()?;
                Ok(AdminReply::Reloaded { added, changed, removed, unchanged })
            }
            AdminRequest::PolicyExplain { reference } => self.explain(&reference),
        }
    }

    fn status(&self) -> StatusReport {
        let enrollment = self.link.enrollment();
        let link = match &*self.link.state().borrow() {
            LinkState::Connecting => "connecting".to_owned(),
            LinkState::Known(state) => state.name().to_owned(),
            LinkState::Disturbed(error) => format!("{error}. {}", error.action()),
        };
        StatusReport {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            name: enrollment.name.clone(),
            mid_id: enrollment.mid_id.clone(),
            instance_url: enrollment.instance_url.clone(),
            link,
            draining: self.heart.is_draining(),
            running: self.capacity.running(),
            capacity: self.capacity.max(),
            resolvers: self.heart.statuses(),
        }
    }

    async fn resolve(
        &self,
        credential_id: String,
        resolver: Option<String>,
        address: Option<String>,
    ) -> Result<ResolveReport, Failure> {
        CredentialId::check(&credential_id)
            .map_err(|error| wrong("credential_id_invalid", error.to_string(), "Correct the credential identifier."))?;
        let name = resolver.map_or_else(|| usual_name(&self.engine.resolvers), Ok)?;
        let resolver = find(&self.engine.resolvers, &name)?;
        let lookup = Lookup { credential_id, address, fresh: true };
        let resolution = resolver.resolve(&lookup, LOOKUP_DEADLINE).await.map_err(|error| *error.0)?;
        Ok(ResolveReport {
            resolver: name,
            fields: resolution
                .material
                .lengths()
                .map(|(field, length)| FieldReport { field: field.name().to_owned(), length })
                .collect(),
            fingerprint: resolution.material.fingerprint(&self.engine.fingerprint_key).to_string(),
            changing: resolution.changing,
            trace: resolution.trace,
        })
    }

    fn tokens(&self, wanted: Option<&TokenKey>) -> Vec<TokenReport> {
        let all = self.engine.tokens.statuses().into_iter();
        all.filter(|status| wanted.is_none_or(|wanted| status.key == *wanted))
            .map(|status| TokenReport {
                profile: status.key.short_name(),
                connections: self.engine.connections_of(&status.key),
                credential_id: status.key.client.credential_id.to_string(),
                resolver: status.key.client.resolver.to_string(),
                token_url: status.key.client.token_url.to_string(),
                grant: status.key.client.grant().name().to_owned(),
                scopes: scopes(&status.key),
                granted_scopes: status.scopes.into_iter().collect(),
                state: status.state.to_owned(),
                explanation: status.sentence,
                action: status.last_failure.map(|failure| failure.action),
                steps: status.trace,
                expires_in_ms: status.expires_in.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                secret_version: status.secret_version,
            })
            .collect()
    }

    async fn flush(&self, wanted: Option<&TokenKey>) -> Vec<FlushedToken> {
        let flushed = self.engine.flush(wanted, REVOCATIONS).await;
        let reports = flushed.into_iter().map(|(key, revocation)| FlushedToken {
            connections: self.engine.connections_of(&key),
            credential_id: key.client.credential_id.to_string(),
            token_url: key.client.token_url.to_string(),
            scopes: scopes(&key),
            revocation: revoke::state(revocation.as_ref()).to_owned(),
            explanation: revoke::words(revocation.as_ref()),
        });
        reports.collect()
    }

    fn explain(&self, reference: &str) -> Result<AdminReply, Failure> {
        let refusal = self.engine.audit.refusal(reference).ok_or_else(|| {
            wrong(
                "reference_unknown",
                "no refusal of this MID Server has this reference".to_owned(),
                "Ask on the host of the MID Server that refused; old refusals are in its audit archive.",
            )
        })?;
        Ok(AdminReply::Refusal { refusal })
    }
}

fn scopes(key: &TokenKey) -> Vec<String> {
    key.scopes.iter().map(ToString::to_string).collect()
}

/// The only one, or the one of this name.
const USUAL: &str = "default";

fn usual_name(resolvers: &Resolvers) -> Result<String, Failure> {
    let resolvers = resolvers.load();
    let mut names = resolvers.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        _ if resolvers.contains_key(USUAL) => Ok(USUAL.to_owned()),
        _ => Err(wrong(
            "resolver_not_named",
            format!("{} resolvers are configured", resolvers.len()),
            "Name one with --resolver.",
        )),
    }
}

fn wrong(code: &str, detail: String, action: &str) -> Failure {
    Failure::permanent(Hop::Mid, code, detail, action)
}
