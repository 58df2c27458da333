//! `kind = "exec"`.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::Deserializer;

use crate::IsolationConfig;
use crate::parts::{Parts, keys};

/// `kind = "exec"`: any program, started for each look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    pub own: ExecSettings,
    pub isolation: IsolationConfig,
}

/// What only a program has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSettings {
    /// An absolute path. No shell is asked, nor the variable `PATH`.
    pub program: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    /// What the program gets as `type`.
    #[serde(default = "default_credential_type")]
    pub credential_type: String,
    /// Longest run, in milliseconds; a longer one is ended with all that it started.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Runs side by side.
    #[serde(default = "default_concurrency")]
    pub concurrency: u16,
    /// Whether the program may be one that others can change.
    #[serde(default)]
    pub allow_writable_program: bool,
}

impl<'de> Deserialize<'de> for ExecConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut parts = Parts::read(deserializer, &[keys::<ExecSettings>(), keys::<IsolationConfig>()])?;
        Ok(Self { own: parts.take()?, isolation: parts.take()? })
    }
}

fn default_credential_type() -> String {
    "oauth_2_0".to_owned()
}

const fn default_timeout_ms() -> u64 {
    10_000
}

const fn default_concurrency() -> u16 {
    16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jar::SandboxMode;

    #[test]
    fn a_program_is_all_that_is_needed() {
        let config: ExecConfig = toml::from_str("program = '/opt/vault/get'").expect("complete");
        let ExecConfig { own, isolation } = config;
        assert_eq!((own.timeout_ms, own.concurrency), (10_000, 16));
        assert_eq!((isolation.sandbox, own.allow_writable_program), (SandboxMode::Required, false));
        for bad in
            ["", "program = '/p'\ncommand = 'x'", "program = '/p'\nargs = 'one two'", "program = '/p'\nsandbox = 'no'"]
        {
            assert!(toml::from_str::<ExecConfig>(bad).is_err(), "{bad}");
        }
    }
}
