//! What the process of a JAR or of a program gets and may reach: the settings that both kinds share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;

use crate::RunAs;
use crate::cgroup::{CgroupMode, ControlGroups};
use crate::jar::{Network, Sandbox, SandboxMode};

/// Settings of a resolver's process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsolationConfig {
    /// Names of environment variables of the MID that the process gets. It gets no others.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Further environment variables with their values. No secrets.
    #[serde(default)]
    pub environment_values: BTreeMap<String, String>,
    /// The user that the process runs as, in place of the MID's.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    /// Whether it must be isolated (`required`), as far as the kernel can (`best_effort`), or not at all (`off`).
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// Whether it has a control group of its own, and where.
    #[serde(default)]
    pub cgroup: CgroupMode,
    /// Most memory, in MiB, of it and all that it starts, where there is a control group for it.
    #[serde(default)]
    pub memory_max_mib: Option<u64>,
    /// Most threads and processes, its own and of all that it starts, where there is a control group for it.
    #[serde(default)]
    pub pids_max: Option<u32>,
    /// TCP ports that it and its programs may connect to, on any host. None unless listed, but for the AIM provider's
    /// with `cyberark_sdk`.
    #[serde(default)]
    pub connect_ports: Vec<u16>,
    /// UDP with any host and port. A look-up of a host name in DNS needs it.
    #[serde(default)]
    pub udp: bool,
    /// Any Unix socket that its user may use.
    #[serde(default)]
    pub unix_sockets: bool,
    /// Files and folders, by absolute paths, that it and its programs may read.
    #[serde(default)]
    pub readable_paths: Vec<PathBuf>,
    /// Folders, by absolute paths, in which they may change files.
    #[serde(default)]
    pub writable_paths: Vec<PathBuf>,
    /// Programs, or folders of programs, by absolute paths, that they may start: a script's interpreter too. With a JAR
    /// the AIM client is one already.
    #[serde(default)]
    pub executables: Vec<PathBuf>,
}

impl IsolationConfig {
    /// The variables that were listed, and no others.
    pub(crate) fn variables(&self) -> Vec<(OsString, OsString)> {
        let listed = self.environment.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        let literal = self.environment_values.iter().map(|(name, value)| (name.into(), value.into()));
        listed.chain(literal).collect()
    }

    /// What it may reach. In a network of its own, unless it needs the host's: for a port of any host, or for UDP.
    pub(crate) fn sandbox(&self, own: Network) -> Sandbox {
        let open = self.udp || !self.connect_ports.is_empty();
        Sandbox {
            frames: true,
            user: None,
            group: None,
            mode: self.sandbox,
            readable: self.readable_paths.clone(),
            writable: self.writable_paths.clone(),
            executable: self.executables.clone(),
            network: if open { Network::Host } else { own },
            landlock_abi: None,
            connect_ports: self.connect_ports.clone(),
            udp: self.udp,
            unix_sockets: self.unix_sockets,
        }
    }

    /// The process's control groups: with so many MiB unless the configuration says otherwise, and room for `threads`.
    pub(crate) fn groups(&self, memory_mib: u64, threads: u16) -> ControlGroups {
        let memory_mib = self.memory_max_mib.unwrap_or(memory_mib);
        ControlGroups::new(self.cgroup.clone(), memory_mib, self.pids_max, threads)
    }
}
