//! Files, TCP ports, signals and abstract Unix sockets, by Landlock (`Documentation/userspace-api/landlock.rst`).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

use super::{Missing, Network, Sandbox};

const NEWEST: ABI = ABI::V6;
/// The first that refuses to shorten files: Linux 6.2.
pub(super) const TRUNCATION: ABI = ABI::V3;
/// The first that knows TCP ports: Linux 6.7.
const PORTS: ABI = ABI::V4;
/// The first that keeps signals and abstract Unix sockets inside: Linux 6.12.
pub(super) const SCOPES: ABI = ABI::V6;

/// What a JVM, the C library and the programs they start read. Nothing here is private to any user.
const READABLE: [&str; 37] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/usr/share/zoneinfo",
    "/usr/share/javazi-1.8",
    "/usr/share/ca-certificates",
    "/usr/share/crypto-policies",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/java",
    "/etc/pki/ca-trust/extracted",
    "/etc/crypto-policies",
    "/etc/localtime",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/group",
    // This process's own folder: the rule holds on to what it stands for now.
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/cgroups",
    "/proc/filesystems",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/zero",
];
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// Restricts this thread, and with it what it becomes and starts. `program` may be started, with the JRE around it.
/// Returns the kernel's ABI, for [`super::calls`] to do what it lacks; `separated` tells that the process is in namespaces
/// of its own.
pub(super) fn restrict(sandbox: &Sandbox, program: &Path, separated: bool) -> Result<ABI, Missing> {
    let unable = |_: RulesetError| Missing::Landlock;
    let wanted = sandbox.landlock_abi.map_or(NEWEST, ABI::from);
    let all = AccessFs::from_all(wanted);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let start = read | AccessFs::Execute;
    // No device files, and no starting of what was written.
    let no_devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::Execute;
    let change = all & !no_devices;
    let device: BitFlags<AccessFs> = (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate) & all;
    let mut rules = Ruleset::default().handle_access(all).map_err(unable)?;
    if wanted >= PORTS {
        rules = rules.handle_access(AccessNet::from_all(wanted)).map_err(unable)?;
    }
    if wanted >= SCOPES {
        rules = rules.scope(Scope::from_all(wanted)).map_err(unable)?;
    }
    let mut rules = rules
        .create()
        .and_then(|rules| rules.add_rules(path_beneath_rules(READABLE.into_iter().chain(RANDOM), read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(java_settings(), read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&sandbox.readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev/null"], device)))
        // Java's ProcessHandle lists processes and fails without; reading what is in their folders stays refused.
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/proc"], AccessFs::ReadDir)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&sandbox.writable, change)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(program_and_runtime(program), start)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(dynamic_linkers(), start)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&sandbox.executable, start)))
        .map_err(unable)?;
    if wanted >= PORTS {
        for port in sandbox.tcp_ports() {
            rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(unable)?;
        }
    }
    let abi = match rules.restrict_self().map_err(unable)?.landlock {
        LandlockStatus::NotImplemented => return Err(Missing::LandlockAbsent),
        LandlockStatus::NotEnabled => return Err(Missing::LandlockDisabled),
        LandlockStatus::Available { effective_abi, .. } => effective_abi.min(wanted),
    };
    let private = separated && matches!(sandbox.network, Network::Private { .. });
    if abi < PORTS && !private && !sandbox.tcp_ports().is_empty() {
        return Err(Missing::LandlockPorts);
    }
    // Abstract Unix sockets belong to a network.
    if abi < SCOPES && !private && sandbox.unix_sockets {
        return Err(Missing::LandlockScopes);
    }
    Ok(abi)
}

/// Debian keeps a JRE's settings below /etc/java-VERSION-openjdk, RHEL below /etc/java.
fn java_settings() -> Vec<PathBuf> {
    named("/etc", |name| name.starts_with("java"))
}

/// What the kernel starts in place of a dynamically linked program.
fn dynamic_linkers() -> Vec<PathBuf> {
    ["/lib", "/lib64", "/usr/lib64"]
        .into_iter()
        .flat_map(|folder| named(folder, |name| name.starts_with("ld-")))
        .collect()
}

fn named(folder: &str, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    // A folder that is not there holds nothing that is needed.
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let fitting = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    fitting.map(|entry| entry.path()).collect()
}

/// The program itself, and the JRE's folder when it is `bin/java` of one.
fn program_and_runtime(program: &Path) -> Vec<PathBuf> {
    let Ok(program) = program.canonicalize() else { return Vec::new() };
    let home = program.parent().and_then(Path::parent);
    // A program in /usr/bin does not make a JRE of /usr.
    let home = home.filter(|home| home.join("lib/jspawnhelper").is_file()).map(Path::to_owned);
    home.into_iter().chain([program]).collect()
}
