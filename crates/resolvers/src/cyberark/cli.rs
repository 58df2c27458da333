//! The adapter over the AIM client's command line: one run of `clipasswordsdk` for each look-up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Random, Trace};
use tokio::sync::Semaphore;

use super::aim_client;
use super::config::CyberArkCliConfig;
use super::criteria::{Search, check_setting};
use super::run::{Program, RunError, is_executable, run};
use crate::cloud::{limit, told};
use crate::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

/// Keeps no secrets; the AIM client's own cache cannot be passed by, so [`Lookup::fresh`] changes nothing.
pub(crate) struct CliResolver {
    name: String,
    config: CyberArkCliConfig,
    search: Search,
    permits: Semaphore,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl CliResolver {
    pub(crate) fn new(name: &str, config: &CyberArkCliConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let search = config.account.search(Some(&config.query));
        search.check()?;
        check_setting("app_id", &config.account.app_id)?;
        check_setting("reason", config.account.reason.as_deref().unwrap_or_default())?;
        for property in config.own.required_properties.iter().chain([&config.query.client_id_property]) {
            check_property(property)?;
        }
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            search,
            permits: Semaphore::new(usize::from(config.own.concurrency.max(1))),
            clock: Arc::clone(&context.clock),
            random: Arc::clone(&context.random),
        })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        let criteria = self.search.criteria(lookup)?;
        let begin = self.clock.boot();
        let permit = tokio::time::timeout(limit, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(busy(limit)) };
        let ready = self.clock.boot();
        let left = limit.saturating_sub(ready.saturating_since(begin));
        let separator = aim_client::separator(&*self.random);
        let environment = self.config.own.environment_values.clone().into_iter();
        let program = Program {
            path: self.config.own.path.clone(),
            arguments: aim_client::arguments(&self.config, &criteria, &separator),
            environment: [("LC_ALL".to_owned(), "C.UTF-8".to_owned())].into_iter().chain(environment).collect(),
        };
        let ended = run(&program, left).await.map_err(|error| self.not_run(&error, limit))?;
        // What a failed program printed is dropped, which wipes it.
        if !ended.success {
            return Err(aim_client::refusal(&ended.errors));
        }
        let account = aim_client::account(&ended.output, &separator)?;
        let changing = account.changing;
        let material = account.material(&self.config.query.client_id_property, self.config.query.content)?;
        let mut trace = Trace::default();
        trace.push(Hop::Vault, "the AIM client answered", self.clock.boot().saturating_since(ready));
        Ok(Resolution { material, changing, trace })
    }

    fn not_run(&self, error: &RunError, limit: Duration) -> Failure {
        match error {
            RunError::Start(error) => Failure::transient(
                Hop::Vault,
                "vault_client_absent",
                format!("the AIM client's command line program could not be started: {}", error.kind()),
                format!(
                    "Install CyberArk's Credential Provider on the MID's host, or correct the resolver's `path` ({}).",
                    self.config.own.path.display()
                ),
            ),
            RunError::TimedOut => Failure::transient(
                Hop::Vault,
                "vault_client_timeout",
                format!("the AIM client did not answer within {} ms and was ended", limit.as_millis()),
                "Check that CyberArk's Credential Provider runs and reaches its vault; it is asked again by itself.",
            ),
            RunError::TooMuch => aim_client::unreadable(),
            RunError::Io(error) => Failure::transient(
                Hop::Mid,
                "resolver_internal",
                format!("the AIM client's program could not be watched: {}", error.kind()),
                "Check the MID's limits of processes and open files.",
            ),
        }
    }
}

impl fmt::Debug for CliResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CliResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for CliResolver {
    fn kind(&self) -> &'static str {
        super::config::CLI_KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, self.look_up(lookup, limit(self.config.query.timeout_ms, deadline)))
    }

    /// Looked at each time, so that an installation that came or went shows by itself.
    fn report(&self) -> ResolverReport {
        if is_executable(&self.config.own.path) {
            return ResolverReport::Ready;
        }
        ResolverReport::Unusable(format!(
            "the AIM client is not installed: no program {}",
            self.config.own.path.display()
        ))
    }
}

/// Names of properties stand in lists that commas separate.
pub(super) fn check_property(name: &str) -> Result<(), Failure> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(Failure::permanent(
        Hop::Resolver,
        "resolver_misconfigured",
        "a property's name holds something but letters, digits and underscores",
        "Correct `client_id_property` or `required_properties` in the resolver's section of `mid.toml`.",
    ))
}

pub(super) fn busy(limit: Duration) -> Failure {
    Failure::transient(
        Hop::Resolver,
        "resolver_busy",
        format!("the resolver was not free within {} ms", limit.as_millis()),
        "Raise the resolver's concurrency or timeout_ms if this lasts.",
    )
}
