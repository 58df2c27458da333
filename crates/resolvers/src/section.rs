//! One `[resolvers.NAME]` section of `mid.toml`: what the kind reads, and the tables that every kind has.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::ResolverConfig;

/// The tables that every kind has, by their keys.
const COMMON: [&str; 2] = ["limits", "cache"];

/// A whole section.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolverSection {
    /// What only this kind has.
    pub kind: ResolverConfig,
    /// How much is asked of the vault, and when it is left alone.
    pub limits: LimitsConfig,
    /// Secrets are kept only where this is set.
    pub cache: Option<CacheConfig>,
}

/// `[resolvers.NAME.limits]`: what this resolver's vault is asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Most look-ups that run at once; the others wait their turn. Absent: no limit but the kind's own.
    #[serde(default)]
    pub max_concurrent: Option<usize>,
    /// Most look-ups that begin in a second, in the long run. Absent: no limit.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How many may begin at once after a rest, in spite of `per_second`.
    #[serde(default = "default_burst")]
    pub burst: u32,
    /// Longest look-up in milliseconds, the wait for a turn included. Absent: the caller's patience and the kind's own.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// After so many look-ups in a row that failed for now, the vault is left alone for a while; 0: never.
    #[serde(default = "default_failures")]
    pub failures_to_open: u32,
}

/// `[resolvers.NAME.cache]`: for how long a secret is kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Seconds for which a secret is kept.
    pub ttl_seconds: u64,
    #[serde(default = "default_entries")]
    pub max_entries: usize,
}

impl ResolverSection {
    /// A section with nothing but a kind.
    pub fn new(kind: ResolverConfig) -> Self {
        Self { kind, limits: LimitsConfig::default(), cache: None }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_concurrent: None,
            per_second: None,
            burst: default_burst(),
            timeout_ms: None,
            failures_to_open: default_failures(),
        }
    }
}

impl LimitsConfig {
    /// Between two look-ups in the long run.
    pub(crate) fn spacing(&self) -> Option<Duration> {
        self.per_second.map(|per_second| Duration::from_secs_f64(1.0 / per_second))
    }

    fn check(&self) -> Result<(), String> {
        within("limits.max_concurrent", self.max_concurrent, 1, 1024)?;
        within("limits.burst", Some(self.burst), 1, 100_000)?;
        within("limits.timeout_ms", self.timeout_ms, 10, 120_000)?;
        within("limits.failures_to_open", Some(self.failures_to_open), 0, 1000)?;
        within("limits.per_second", self.per_second, 0.01, 10_000.0)
    }
}

impl CacheConfig {
    pub(crate) const fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }

    fn check(&self) -> Result<(), String> {
        within("cache.ttl_seconds", Some(self.ttl_seconds), 1, 300)?;
        within("cache.max_entries", Some(self.max_entries), 1, 1000)
    }
}

impl<'de> Deserialize<'de> for ResolverSection {
    /// By hand: with serde's `flatten` no unknown key would be refused.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let (limits, cache) = (table.remove("limits"), table.remove("cache"));
        let limits = limits.map_or_else(|| Ok(LimitsConfig::default()), |value| read("limits", value))?;
        let cache: Option<CacheConfig> = cache.map(|value| read("cache", value)).transpose()?;
        limits.check().and_then(|()| cache.as_ref().map_or(Ok(()), CacheConfig::check)).map_err(D::Error::custom)?;
        let kind = ResolverConfig::deserialize(table).map_err(|error| D::Error::custom(message(&error)))?;
        Ok(Self { kind, limits, cache })
    }
}

fn read<T: for<'a> Deserialize<'a>, E: serde::de::Error>(name: &str, value: toml::Value) -> Result<T, E> {
    value.try_into().map_err(|error: toml::de::Error| {
        let message = error.message();
        // serde's own words, which whoever names the nearest key looks for at the beginning.
        let place = if message.starts_with("unknown field") { String::new() } else { format!("{name}: ") };
        E::custom(format!("{place}{message}"))
    })
}

/// What the kind says, with the keys that every kind has among those that are known.
fn message(error: &toml::de::Error) -> String {
    let message = error.message();
    if !message.starts_with("unknown field `") {
        return message.to_owned();
    }
    COMMON.iter().fold(message.to_owned(), |text, key| format!("{text}, `{key}`"))
}

fn within<T: PartialOrd + std::fmt::Display>(name: &str, value: Option<T>, least: T, most: T) -> Result<(), String> {
    match value {
        // Not a number is not within either.
        Some(value) if !(least <= value && value <= most) => {
            Err(format!("{name} is {value}: choose a number from {least} to {most}"))
        }
        _ => Ok(()),
    }
}

const fn default_burst() -> u32 {
    10
}

const fn default_failures() -> u32 {
    5
}

const fn default_entries() -> usize {
    256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ResolverSection, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn a_section_has_its_kind_and_the_common_tables() {
        let section = parse(
            "kind = 'jar'\njar = '/a.jar'\n[limits]\nmax_concurrent = 4\nper_second = 2.5\nburst = 3\ntimeout_ms = 500\n\
             failures_to_open = 0\n[cache]\nttl_seconds = 60\nmax_entries = 9\n",
        )
        .expect("legal");
        assert!(matches!(&section.kind, ResolverConfig::Jar(jar) if jar.process.jar.ends_with("a.jar")));
        assert_eq!(section.limits.spacing(), Some(Duration::from_millis(400)));
        let limits = LimitsConfig {
            max_concurrent: Some(4),
            per_second: Some(2.5),
            burst: 3,
            timeout_ms: Some(500),
            failures_to_open: 0,
        };
        assert_eq!(section.limits, limits);
        assert_eq!(section.cache, Some(CacheConfig { ttl_seconds: 60, max_entries: 9 }));
        let bare = parse("kind = 'jar'\njar = '/a.jar'").expect("legal");
        assert_eq!(bare, ResolverSection::new(bare.kind.clone()));
        assert_eq!(bare.cache, None, "no secret is kept unless it is asked for");
    }

    #[test]
    fn an_unknown_key_is_named_with_all_that_are_known() {
        let unknown = parse("kind = 'jar'\njar = '/a.jar'\nlimit = { burst = 1 }").expect_err("unknown");
        assert!(unknown.starts_with("unknown field `limit`, expected one of "), "{unknown}");
        assert!(unknown.contains("`class`") && unknown.ends_with("`limits`, `cache`"), "{unknown}");
        let inside = parse("kind = 'jar'\njar = '/a.jar'\nlimits = { concurrent = 1 }").expect_err("unknown");
        assert!(inside.starts_with("unknown field `concurrent`, expected one of `max_concurrent`"), "{inside}");
        assert!(parse("jar = '/a.jar'").expect_err("no kind").contains("kind"));
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for (text, place) in [
            ("limits = { max_concurrent = 0 }", "limits.max_concurrent is 0"),
            ("limits = { per_second = 0 }", "limits.per_second is 0"),
            ("limits = { per_second = nan }", "limits.per_second is NaN"),
            ("limits = { burst = 0 }", "limits.burst is 0"),
            ("limits = { timeout_ms = 1 }", "limits.timeout_ms is 1"),
            ("limits = { failures_to_open = 1001 }", "limits.failures_to_open is 1001"),
            ("limits = { timeout_ms = 'x' }", "limits: "),
            ("cache = { ttl_seconds = 301 }", "cache.ttl_seconds is 301"),
            ("cache = { ttl_seconds = 0 }", "cache.ttl_seconds is 0"),
            ("cache = { ttl_seconds = 1, max_entries = 1001 }", "cache.max_entries is 1001"),
            ("cache = {}", "cache: missing field `ttl_seconds`"),
        ] {
            let refused = parse(&format!("kind = 'jar'\njar = '/a.jar'\n{text}")).expect_err(text);
            assert!(refused.contains(place), "{text}: {refused}");
        }
    }
}
