//! `[telemetry]` and `[log]` of both sides.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// `[telemetry]`. Without an endpoint nothing is recorded, and nothing is sent.
///
/// ```
/// let config: midward_telemetry::TelemetryConfig = toml::from_str(
///     r#"
///     endpoint = "https://collector.example.com:4318"
///     service_name = "midward-eu"
///     sample_ratio = 0.05
///     headers_file = "/etc/midward/collector-headers"
///     ca_file = "/etc/midward/ca.pem"
///     proxy = { url = "http://proxy.example.com:3128" }
///     "#,
/// )?;
/// assert!(config.check().is_ok());
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Base URL of the collector; `/v1/traces` is appended unless it ends so.
    pub endpoint: Option<String>,
    /// `service.name` of the spans.
    pub service_name: Option<String>,
    /// Which share of the traces that begin here is recorded, 0 to 1. A caller's own decision stands.
    pub sample_ratio: f64,
    /// File with a header `Name: value` a line, for the collector; readable by its owner only.
    pub headers_file: Option<PathBuf>,
    /// PEM bundle of the CAs to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    pub proxy: Option<TelemetryProxy>,
}

/// The proxy on the way to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryProxy {
    /// `http://host:port` or `https://host:port`, nothing more.
    pub url: String,
    /// For Basic authentication, together with `password_file`.
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { endpoint: None, service_name: None, sample_ratio: 1.0, headers_file: None, ca_file: None, proxy: None }
    }
}

impl TelemetryConfig {
    /// Checks the values that no parser checks. The endpoint is checked by who dials it.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(format!("telemetry.sample_ratio is {}, which is not between 0 and 1", self.sample_ratio));
        }
        let name = self.service_name.as_deref();
        if name.is_some_and(|name| name.is_empty() || name.len() > 200 || name.chars().any(char::is_control)) {
            return Err(
                "telemetry.service_name is empty, longer than 200 bytes or holds a control character".to_owned()
            );
        }
        Ok(())
    }

    /// Paths that are relative become relative to `folder`.
    pub fn make_absolute(&mut self, folder: &Path) {
        let password = self.proxy.as_mut().and_then(|proxy| proxy.password_file.as_mut());
        for file in [self.headers_file.as_mut(), self.ca_file.as_mut(), password].into_iter().flatten() {
            *file = folder.join(&*file);
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Neither `text` nor `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLogFormat;

impl std::fmt::Display for UnknownLogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the log's format is text or json")
    }
}

impl std::error::Error for UnknownLogFormat {}

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let read =
            |text: &str| toml::from_str::<TelemetryConfig>(text).map_err(|e| e.to_string()).and_then(|c| c.check());
        assert_eq!(read(""), Ok(()));
        assert_eq!(read("sample_ratio = 0.0"), Ok(()));
        for bad in [
            "sample_ratio = 1.5",
            "sample_ratio = -0.1",
            "sample_ratio = nan",
            "service_name = ''",
            "headers = { authorization = 'Bearer x' }",
            "proxy = { url = 'http://p:1', password = 'x' }",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_become_absolute() {
        let mut config: TelemetryConfig =
            toml::from_str("headers_file = 'h'\nproxy = { url = 'http://p:1', username = 'u', password_file = 'p' }")
                .expect("legal");
        config.make_absolute(Path::new("/etc/midward"));
        assert_eq!(config.headers_file.as_deref(), Some(Path::new("/etc/midward/h")));
        let proxy = config.proxy.expect("a proxy");
        assert_eq!(proxy.password_file.as_deref(), Some(Path::new("/etc/midward/p")));
    }

    #[test]
    fn a_log_format_is_one_of_two_words() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON".parse::<LogFormat>(), Err(UnknownLogFormat));
    }
}
