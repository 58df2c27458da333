//! `kind = "exec"`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::RunAs;
use crate::jar::SandboxMode;

/// `kind = "exec"`: any program, started for each look-up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// An absolute path. No shell is asked, nor the variable `PATH`.
    pub program: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    /// What the program gets as `type`.
    #[serde(default = "default_credential_type")]
    pub credential_type: String,
    /// Names of environment variables of the MID that the program gets. It gets no others.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Further environment variables with their values. No secrets.
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    /// Longest run, in milliseconds; a longer one is ended with all that it started.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Runs side by side.
    #[serde(default = "default_concurrency")]
    pub concurrency: u16,
    /// Whether the program may be one that others can change.
    #[serde(default)]
    pub allow_writable_program: bool,
    /// The user that the program runs as, in place of the MID's.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    /// Whether the program must be isolated, as a JAR is.
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// TCP ports that the program may connect to, on any host.
    #[serde(default)]
    pub connect_ports: Vec<u16>,
    /// UDP with any host and port. A look-up of a host name in DNS needs it.
    #[serde(default)]
    pub udp: bool,
    /// Any Unix socket that its user may use.
    #[serde(default)]
    pub unix_sockets: bool,
    /// Files and folders, by absolute paths, that the program may read.
    #[serde(default)]
    pub readable_paths: Vec<PathBuf>,
    /// Folders, by absolute paths, in which it may change files.
    #[serde(default)]
    pub writable_paths: Vec<PathBuf>,
    /// Programs, or folders of programs, by absolute paths, that it may start: a script's interpreter too.
    #[serde(default)]
    pub executables: Vec<PathBuf>,
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

    #[test]
    fn a_program_is_all_that_is_needed() {
        let config: ExecConfig = toml::from_str("program = '/opt/vault/get'").expect("complete");
        assert_eq!((config.timeout_ms, config.concurrency), (10_000, 16));
        assert_eq!((config.sandbox, config.allow_writable_program), (SandboxMode::Required, false));
        for bad in
            ["", "program = '/p'\ncommand = 'x'", "program = '/p'\nargs = 'one two'", "program = '/p'\nsandbox = 'no'"]
        {
            assert!(toml::from_str::<ExecConfig>(bad).is_err(), "{bad}");
        }
    }
}
