//! Asks the resolvers of the rule that fits, one after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Persistence, Trace};

use super::config::{RouteConfig, RouteRule};
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverReport};

/// Holds the resolvers that its rules name: they live as long as calls run through it.
pub(crate) struct Route {
    name: String,
    config: RouteConfig,
    targets: BTreeMap<String, Arc<dyn Resolver>>,
    clock: Arc<dyn Clock>,
}

impl Route {
    /// `targets` has every name of the rules.
    pub(crate) fn new(
        name: &str,
        config: &RouteConfig,
        targets: BTreeMap<String, Arc<dyn Resolver>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { name: name.to_owned(), config: config.clone(), targets, clock }
    }

    async fn look_up(&self, lookup: &Lookup, deadline: Duration) -> Result<Resolution, Failure> {
        CredentialId::check(&lookup.credential_id)?;
        let (index, rule) = self.config.rule(&lookup.credential_id).ok_or_else(|| self.no_rule())?;
        let credential_id = rule.asked(&lookup.credential_id).to_owned();
        CredentialId::check(&credential_id)?;
        let lookup = Lookup { credential_id, ..lookup.clone() };
        let begin = self.clock.boot();
        let (mut trace, mut failed) = (Trace::default(), Failed::default());
        for (number, name) in rule.to.iter().enumerate() {
            let Some(target) = self.targets.get(name) else { continue };
            let (left, began) = (deadline.saturating_sub(self.clock.boot().saturating_since(begin)), self.clock.boot());
            // The first one may hang: each gets its part of what is left.
            let part = left / u32::try_from(rule.to.len() - number).unwrap_or(u32::MAX);
            let outcome = target.resolve(&lookup, part).await;
            let took = self.clock.boot().saturating_since(began);
            let failure = match outcome {
                Ok(mut resolution) => {
                    trace.push(Hop::Resolver, format!("rule {} of {} led to {name}", index + 1, self.name), took);
                    trace.0.append(&mut resolution.trace.0);
                    return Ok(Resolution { trace, ..resolution });
                }
                Err(error) => *error.0,
            };
            trace.push(Hop::Resolver, format!("{name} failed ({})", failure.code), took);
            let goes_on = rule.goes_on_after(&failure);
            failed.add(name, failure);
            if !goes_on {
                break;
            }
        }
        Err(failed.failure(&self.name))
    }

    fn no_rule(&self) -> Failure {
        Failure::permanent(
            Hop::Resolver,
            "route_missing",
            format!("no rule of resolver {} fits the credential identifier", self.name),
            "Add a rule to the resolver's `rules` in mid.toml, or correct the credential's identifier.",
        )
    }

    /// The best that one of the rule's resolvers reports.
    fn report_of(&self, rule: &RouteRule) -> ResolverReport {
        let reports = rule.to.iter().filter_map(|name| Some((name, self.targets.get(name)?.report())));
        let named = reports.map(|(name, report)| match report {
            ResolverReport::Ready => ResolverReport::Ready,
            ResolverReport::Degraded(why) => ResolverReport::Degraded(format!("{name}: {why}")),
            ResolverReport::Unusable(why) => ResolverReport::Unusable(format!("{name}: {why}")),
        });
        named.min_by_key(rank).unwrap_or(ResolverReport::Ready)
    }
}

impl RouteRule {
    /// A refusal is an answer: who is denied at one vault does not try another.
    fn goes_on_after(&self, failure: &Failure) -> bool {
        failure.persistence == Persistence::Transient
            || (self.fallback_on_not_found && failure.code == "vault_not_found")
    }
}

/// What the resolvers of one rule answered.
#[derive(Default)]
struct Failed {
    names: Vec<String>,
    all: Vec<Failure>,
}

impl Failed {
    fn add(&mut self, name: &str, failure: Failure) {
        self.names.push(name.to_owned());
        self.all.push(failure);
    }

    /// The one that counts. Where a vault was not to be had, another's "no such account" says nothing.
    fn failure(mut self, route: &str) -> Failure {
        let stopped_by = self
            .all
            .last()
            .is_some_and(|last| last.persistence == Persistence::Permanent && last.code != "vault_not_found");
        let transient = self.all.iter().position(|failure| failure.persistence == Persistence::Transient);
        let index = if stopped_by { None } else { transient }.unwrap_or(self.all.len().saturating_sub(1));
        let asked = self.names.join(", then ");
        let mut failure = self.all.swap_remove(index);
        failure.detail = format!("{} (resolver {route} asked {asked})", failure.detail);
        failure
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).field("targets", &self.targets.keys()).finish_non_exhaustive()
    }
}

impl Resolver for Route {
    fn kind(&self) -> &'static str {
        "route"
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(async move { self.look_up(lookup, deadline).await.map_err(|failure| ResolveError(Box::new(failure))) })
    }

    /// Unusable only when no rule has a usable resolver: the others still serve.
    fn report(&self) -> ResolverReport {
        let reports: Vec<ResolverReport> = self.config.rules.iter().map(|rule| self.report_of(rule)).collect();
        let best = reports.iter().min_by_key(|report| rank(report));
        let worst = reports.iter().max_by_key(|report| rank(report));
        match (best, worst) {
            (Some(ResolverReport::Unusable(why)), _) => ResolverReport::Unusable(why.clone()),
            (_, Some(ResolverReport::Degraded(why) | ResolverReport::Unusable(why))) => {
                ResolverReport::Degraded(why.clone())
            }
            _ => ResolverReport::Ready,
        }
    }

    /// The resolvers behind it are warmed up, told and ended as themselves.
    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

const fn rank(report: &ResolverReport) -> u8 {
    match report {
        ResolverReport::Ready => 0,
        ResolverReport::Degraded(_) => 1,
        ResolverReport::Unusable(_) => 2,
    }
}

#[cfg(test)]
mod tests;
