//! `[token_requests]` of `mid.toml`: what each authorization server is asked for, and what to make of its replies.

use std::collections::BTreeMap;
use std::time::Duration;

use midward_core::Failure;
use midward_oauth::{BudgetRules, Expected};
use serde::Deserialize;
use url::Url;

use crate::config::invalid;

/// For every server, and for single ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequestsSection {
    /// Most token requests at one server that run at once.
    #[serde(default)]
    pub concurrent: Option<usize>,
    /// Most token requests a second at one server in the long run; 0 for no limit.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How many may start at once after a rest, in spite of `per_second`.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Lifetime of a token that comes without one, in seconds.
    #[serde(default)]
    pub default_lifetime_seconds: Option<u64>,
    /// Take a token with fewer scopes than asked for.
    #[serde(default)]
    pub accept_narrower_scope: Option<bool>,
    /// Other values for single servers, by the origin of their token URL.
    #[serde(default)]
    pub servers: BTreeMap<String, ServerSection>,
}

/// What is absent is as for every server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSection {
    #[serde(default)]
    pub concurrent: Option<usize>,
    #[serde(default)]
    pub per_second: Option<f64>,
    #[serde(default)]
    pub burst: Option<u32>,
    #[serde(default)]
    pub default_lifetime_seconds: Option<u64>,
    #[serde(default)]
    pub accept_narrower_scope: Option<bool>,
}

/// What to make of what a token reply leaves open, by server.
#[derive(Clone, Debug)]
pub struct ReplyRules {
    all: ServerSection,
    servers: BTreeMap<String, ServerSection>,
}

impl ReplyRules {
    /// `expected`, as this server's replies are to be read. `token_url`: the issuer where metadata names the token URL.
    pub(crate) fn apply(&self, token_url: &str, expected: Expected) -> Expected {
        let origin = Url::parse(token_url).map(|url| url.origin().ascii_serialization());
        let own = origin.ok().and_then(|origin| self.servers.get(&origin));
        let lifetime = own.and_then(|own| own.default_lifetime_seconds).or(self.all.default_lifetime_seconds);
        let narrower = own.and_then(|own| own.accept_narrower_scope).or(self.all.accept_narrower_scope);
        Expected {
            default_lifetime: lifetime.map_or(expected.default_lifetime, Duration::from_secs),
            accept_narrower_scope: narrower.unwrap_or(expected.accept_narrower_scope),
            ..expected
        }
    }
}

impl TokenRequestsSection {
    /// For every server.
    pub fn rules(&self) -> BudgetRules {
        self.all().over(&BudgetRules::default())
    }

    /// For the servers that have values of their own.
    pub fn server_rules(&self) -> BTreeMap<String, BudgetRules> {
        let all = self.rules();
        self.servers.iter().map(|(server, section)| (server.clone(), section.over(&all))).collect()
    }

    /// For the replies of all of them.
    pub fn reply_rules(&self) -> ReplyRules {
        ReplyRules { all: self.all(), servers: self.servers.clone() }
    }

    fn all(&self) -> ServerSection {
        ServerSection {
            concurrent: self.concurrent,
            per_second: self.per_second,
            burst: self.burst,
            default_lifetime_seconds: self.default_lifetime_seconds,
            accept_narrower_scope: self.accept_narrower_scope,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.all().check("token_requests")?;
        for (server, section) in &self.servers {
            let canonical = Url::parse(server).map(|url| url.origin().ascii_serialization());
            if canonical.as_ref() != Ok(server) {
                return Err(invalid(
                    "config_invalid",
                    "a key of token_requests.servers is not the origin of a URL",
                    "Write it as https://login.example.com, with the port if it is not 443, and nothing behind it.",
                ));
            }
            section.check(&format!("token_requests.servers.{server:?}"))?;
        }
        Ok(())
    }
}

impl ServerSection {
    fn over(&self, base: &BudgetRules) -> BudgetRules {
        let spacing = |per_second: f64| {
            if per_second == 0.0 { Duration::ZERO } else { Duration::from_secs_f64(1.0 / per_second) }
        };
        BudgetRules {
            concurrent: self.concurrent.unwrap_or(base.concurrent),
            spacing: self.per_second.map_or(base.spacing, spacing),
            burst: self.burst.unwrap_or(base.burst),
            trial_every: base.trial_every,
        }
    }

    fn check(&self, place: &str) -> Result<(), Failure> {
        let wrong = |what: String, action| Err(invalid("config_invalid", format!("{place}.{what}"), action));
        if let Some(concurrent) = self.concurrent
            && !(1..=1024).contains(&concurrent)
        {
            return wrong(format!("concurrent is {concurrent}"), "Choose a number from 1 to 1024.");
        }
        if let Some(per_second) = self.per_second
            && per_second != 0.0
            && !(0.01..=10_000.0).contains(&per_second)
        {
            return wrong(
                format!("per_second is {per_second}"),
                "Choose a number from 0.01 to 10000, or 0 for no limit.",
            );
        }
        if let Some(burst) = self.burst
            && !(1..=100_000).contains(&burst)
        {
            return wrong(format!("burst is {burst}"), "Choose a number from 1 to 100000.");
        }
        if let Some(seconds) = self.default_lifetime_seconds
            && !(1..=86_400).contains(&seconds)
        {
            return wrong(format!("default_lifetime_seconds is {seconds}"), "Choose a number from 1 to 86400, a day.");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TokenRequestsSection {
        toml::from_str(text).expect("legal")
    }

    #[test]
    fn nothing_said_is_the_default_and_a_server_overrides_single_values() {
        assert_eq!(parse("").rules(), BudgetRules::default());
        let section = parse(
            "concurrent = 4\nper_second = 10\n[servers.\"https://small.example\"]\nper_second = 0.5\nburst = 2\n\
             [servers.\"http://free.example:8080\"]\nper_second = 0\n",
        );
        section.check().expect("legal");
        let all = BudgetRules { concurrent: 4, spacing: Duration::from_millis(100), ..BudgetRules::default() };
        assert_eq!(section.rules(), all);
        let servers = section.server_rules();
        let small = BudgetRules { spacing: Duration::from_secs(2), burst: 2, ..all.clone() };
        assert_eq!(servers["https://small.example"], small);
        assert_eq!(servers["http://free.example:8080"].spacing, Duration::ZERO);
    }

    #[test]
    fn what_a_reply_leaves_open_is_read_as_its_server_needs_it() {
        let section = parse(
            "default_lifetime_seconds = 60\n[servers.\"https://old.example\"]\ndefault_lifetime_seconds = 900\n\
             accept_narrower_scope = true\n[servers.\"https://small.example\"]\nburst = 2\n",
        );
        section.check().expect("legal");
        let read = |section: &TokenRequestsSection, url: &str| {
            let expected = section.reply_rules().apply(url, Expected::scopes(&["read".to_owned()]));
            assert_eq!(expected.scopes, ["read"]);
            (expected.default_lifetime.as_secs(), expected.accept_narrower_scope)
        };
        assert_eq!(read(&parse(""), "https://as.example/token"), (300, false));
        assert_eq!(read(&section, "https://old.example/a/token?x"), (900, true));
        for other in ["https://small.example/token", "https://old.example:8443/token", "http://old.example/token"] {
            assert_eq!(read(&section, other), (60, false), "{other}");
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for text in [
            "concurrent = 0",
            "per_second = -1",
            "per_second = nan",
            "per_second = 1e9",
            "burst = 0",
            "default_lifetime_seconds = 0",
            "default_lifetime_seconds = 86401",
            "[servers.\"login.example.com\"]",
            "[servers.\"https://login.example.com/\"]",
            "[servers.\"https://LOGIN.example.com\"]",
            "[servers.\"https://login.example.com:443\"]",
            "[servers.\"https://login.example.com\"]\nconcurrent = 5000",
        ] {
            assert_eq!(parse(text).check().expect_err(text).code, "config_invalid");
        }
    }
}
