//! `kind = "route"`.

use serde::Deserialize;

/// The whole of it: rules in their order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub rules: Vec<RouteRule>,
}

/// The first rule that fits an identifier says who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// What identifiers begin with.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The whole identifier, where `*` stands for any characters, also none. In place of `prefix`.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Asks for the identifier without its prefix.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Names of resolvers: the first is asked, and each further one when those before it failed for now.
    pub to: Vec<String>,
    /// Also asks the next one when a vault has no such account.
    #[serde(default)]
    pub fallback_on_not_found: bool,
}

/// Longest list of rules, and of resolvers in one.
const MOST: usize = 100;

impl RouteConfig {
    /// Every name that a rule has, as often as it has it.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|rule| &rule.to).map(String::as_str)
    }

    pub(crate) fn rule(&self, credential_id: &str) -> Option<(usize, &RouteRule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.fits(credential_id))
    }

    /// What is wrong, in the words of a sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rules.is_empty() || self.rules.len() > MOST {
            return Err(format!("it has {} rules: 1 to {MOST} are possible", self.rules.len()));
        }
        self.rules
            .iter()
            .enumerate()
            .try_for_each(|(index, rule)| rule.check().map_err(|what| format!("its rule {} {what}", index + 1)))
    }
}

impl RouteRule {
    /// The identifier that the rule's resolvers are asked for.
    pub(crate) fn asked<'a>(&self, credential_id: &'a str) -> &'a str {
        let stripped = self.prefix.as_deref().filter(|_| self.strip_prefix);
        stripped.and_then(|prefix| credential_id.strip_prefix(prefix)).unwrap_or(credential_id)
    }

    fn fits(&self, credential_id: &str) -> bool {
        match (&self.prefix, &self.pattern) {
            (Some(prefix), _) => credential_id.starts_with(prefix.as_str()),
            (None, Some(pattern)) => matches_pattern(pattern, credential_id),
            (None, None) => false,
        }
    }

    fn check(&self) -> Result<(), String> {
        match (&self.prefix, &self.pattern) {
            (Some(prefix), None) if prefix.is_empty() => {
                return Err("has an empty prefix: write pattern = \"*\"".into());
            }
            (None, Some(_)) if self.strip_prefix => return Err("strips a prefix and has none".into()),
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err("needs either prefix or pattern".into()),
        }
        if self.to.is_empty() || self.to.len() > MOST {
            return Err(format!("names {} resolvers in `to`: 1 to {MOST} are possible", self.to.len()));
        }
        for (index, name) in self.to.iter().enumerate() {
            if self.to[..index].contains(name) {
                return Err(format!("names {name} twice"));
            }
        }
        Ok(())
    }
}

/// `*` stands for any characters, also none; the policy's patterns mean the same.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> RouteConfig {
        toml::from_str(text).expect("legal")
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let config = config(
            "[[rules]]\nprefix = 'aws/'\nstrip_prefix = true\nto = ['a']\n[[rules]]\npattern = 'prod-*-eu'\nto = ['b', 'a']\n\
             [[rules]]\nprefix = 'aws'\nto = ['c']\n[[rules]]\npattern = 'exact'\nto = ['d']\n",
        );
        assert_eq!(config.check(), Ok(()));
        for (id, rule, asked) in [
            ("aws/crm", Some(0), "crm"),
            ("aws/", Some(0), ""),
            ("prod-crm-eu", Some(1), "prod-crm-eu"),
            ("prod--eu", Some(1), "prod--eu"),
            ("prod-eu", None, ""),
            ("awsome", Some(2), "awsome"),
            ("exact", Some(3), "exact"),
            ("exactly", None, ""),
            ("Exact", None, ""),
        ] {
            let found = config.rule(id);
            assert_eq!(found.map(|(index, _)| index), rule, "{id}");
            assert_eq!(found.map_or("", |(_, rule)| rule.asked(id)), asked, "{id}");
        }
        assert_eq!(config.targets().collect::<Vec<_>>(), ["a", "b", "a", "c", "d"]);
    }

    #[test]
    fn rules_that_cannot_be_meant_are_named() {
        for (rules, what) in [
            ("rules = []", "it has 0 rules"),
            ("rules = [{ to = ['a'] }]", "its rule 1 needs either"),
            ("rules = [{ prefix = 'a', pattern = '*', to = ['a'] }]", "needs either"),
            ("rules = [{ prefix = '', to = ['a'] }]", "empty prefix"),
            (
                "rules = [{ pattern = '*', to = ['a'] }, { pattern = 'a*', strip_prefix = true, to = ['a'] }]",
                "rule 2 strips",
            ),
            ("rules = [{ pattern = '*', to = [] }]", "0 resolvers"),
            ("rules = [{ pattern = '*', to = ['a', 'b', 'a'] }]", "names a twice"),
        ] {
            let wrong = config(rules).check().expect_err(rules);
            assert!(wrong.contains(what), "{rules}: {wrong}");
        }
    }
}
