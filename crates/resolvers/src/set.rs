//! All resolvers of a MID together: made from their sections, and made anew where a section changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use midward_core::{Failure, Hop};

use crate::cache::Cached;
use crate::limits::Limited;
use crate::route::Route;
use crate::{LimitsConfig, Resolver, ResolverConfig, ResolverContext, ResolverSection, build};

/// The resolvers by name, each with its limits and cache around it.
#[derive(Clone, Debug, Default)]
pub struct ResolverSet {
    members: BTreeMap<String, Member>,
}

#[derive(Clone)]
struct Member {
    section: ResolverSection,
    resolver: Arc<dyn Resolver>,
}

/// What [`ResolverSet::renewed`] changed: names in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChanges {
    pub added: Vec<String>,
    /// Made anew: their own section changed, or that of one that they lead to.
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// The very objects that were there before, with their processes and caches.
    pub unchanged: Vec<String>,
}

impl ResolverSet {
    /// Makes all of them. Starts nothing.
    pub fn build(sections: &BTreeMap<String, ResolverSection>, context: &ResolverContext) -> Result<Self, Failure> {
        Self::default().renewed(sections, context).map(|(set, _)| set)
    }

    /// A set for `sections` that takes over what is the same in this one. What is left behind ends with the last call
    /// that runs on it.
    pub fn renewed(
        &self,
        sections: &BTreeMap<String, ResolverSection>,
        context: &ResolverContext,
    ) -> Result<(Self, SetChanges), Failure> {
        let order = check_routes(sections)?;
        let (mut set, mut changes) = (Self::default(), SetChanges::default());
        let mut kept = BTreeSet::new();
        for name in order {
            let section = &sections[name];
            let targets: BTreeSet<&str> = targets(section).collect();
            let before = self.members.get(name);
            let same = before.filter(|member| member.section == *section && targets.iter().all(|t| kept.contains(t)));
            let member = if let Some(member) = same {
                kept.insert(name);
                changes.unchanged.push(name.to_owned());
                member.clone()
            } else {
                let list = if before.is_some() { &mut changes.changed } else { &mut changes.added };
                list.push(name.to_owned());
                let targets = targets.iter().map(|t| ((*t).to_owned(), Arc::clone(&set.members[*t].resolver)));
                Member { section: section.clone(), resolver: wrapped(name, section, targets.collect(), context) }
            };
            set.members.insert(name.to_owned(), member);
        }
        changes.removed = self.members.keys().filter(|name| !sections.contains_key(*name)).cloned().collect();
        for list in [&mut changes.added, &mut changes.changed, &mut changes.unchanged] {
            list.sort();
        }
        Ok((set, changes))
    }

    /// The resolvers by name.
    pub fn resolvers(&self) -> BTreeMap<String, Arc<dyn Resolver>> {
        self.members.iter().map(|(name, member)| (name.clone(), Arc::clone(&member.resolver))).collect()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.resolver.fmt(f)
    }
}

/// Checks that every route leads to resolvers that are there, and none back to itself. The names, each behind those that
/// it leads to.
pub fn check_routes(sections: &BTreeMap<String, ResolverSection>) -> Result<Vec<&str>, Failure> {
    for (name, section) in sections {
        if let ResolverConfig::Route(route) = &section.kind {
            route.check().map_err(|what| wrong(format!("resolver {name} routes nothing: {what}")))?;
            if section.limits != LimitsConfig::default() || section.cache.is_some() {
                let detail =
                    format!("resolver {name} is a route: limits and cache are those of the resolvers behind it");
                return Err(wrong(detail));
            }
        }
        if let Some(unknown) = targets(section).find(|target| !sections.contains_key(*target)) {
            return Err(wrong(format!("resolver {name} leads to {unknown:?}, and there is no such resolver")));
        }
    }
    let mut order: Vec<&str> = Vec::with_capacity(sections.len());
    while order.len() < sections.len() {
        let before = order.len();
        for (name, section) in sections {
            if !order.contains(&name.as_str()) && targets(section).all(|target| order.contains(&target)) {
                order.push(name);
            }
        }
        if order.len() == before {
            let left: Vec<&str> = sections.keys().map(String::as_str).filter(|name| !order.contains(name)).collect();
            return Err(wrong(format!("routes lead in a circle: {}", left.join(", "))));
        }
    }
    Ok(order)
}

fn targets(section: &ResolverSection) -> impl Iterator<Item = &str> {
    let route = match &section.kind {
        ResolverConfig::Route(route) => Some(route),
        _ => None,
    };
    route.into_iter().flat_map(crate::RouteConfig::targets)
}

/// The adapter, its limits around it, and its cache around both: what is kept takes nobody's turn.
fn wrapped(
    name: &str,
    section: &ResolverSection,
    targets: BTreeMap<String, Arc<dyn Resolver>>,
    context: &ResolverContext,
) -> Arc<dyn Resolver> {
    let clock = || Arc::clone(&context.clock);
    let limited: Arc<dyn Resolver> = match &section.kind {
        // The limits are those of the resolvers behind it: they fail, and not the way to them.
        ResolverConfig::Route(route) => Arc::new(Route::new(name, route, targets, clock())),
        kind => Arc::new(Limited::new(name, build(name, kind, context), &section.limits, clock())),
    };
    match &section.cache {
        Some(cache) => Arc::new(Cached::new(name, limited, cache, clock())),
        None => limited,
    }
}

fn wrong(detail: String) -> Failure {
    Failure::permanent(Hop::Mid, "config_invalid", detail, "Correct the resolver's `rules` in mid.toml.")
}

#[cfg(test)]
mod tests;
