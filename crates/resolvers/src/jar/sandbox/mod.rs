//! What a JAR's process may reach: files, ports, kernel calls. Decided by the configuration, handed to the trampoline in
//! its arguments, and entered there, just before the process becomes the JVM. Whatever the JVM starts stays inside.

mod calls;
mod files;
mod namespaces;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};
use serde::Deserialize;

use crate::run_as::User;

/// Open descriptors of one process. A child of a JVM closes all up to this one before it starts its program.
const MAX_DESCRIPTORS: u64 = 1024;
/// Largest file that the process can write, in bytes.
const MAX_FILE_LEN: u64 = 256 * 1024 * 1024;

/// How much of the sandbox must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    /// All of it, or the resolver is unusable.
    #[default]
    Required,
    /// What the kernel can do; the rest stays open.
    BestEffort,
    /// None: the JAR may do what the MID's user may do.
    Off,
}

/// Which network the process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// The host's, narrowed to ports and kinds of sockets.
    Host,
    /// One of its own, in which there are these listeners and nothing else. The MID serves them.
    Private { listen: Vec<SocketAddrV4> },
}

/// A process's place in a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) folder: PathBuf,
    /// Whether the process may not be outside of it.
    pub(crate) required: bool,
}

/// One resolver's sandbox. All paths are absolute; those that do not exist when the process starts are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// Whether the program speaks frames: it then inherits the descriptors of its pipes, and otherwise none but 0 to 2.
    pub(crate) frames: bool,
    /// Whom the process belongs to, if not to the MID's user.
    pub(crate) user: Option<User>,
    /// The control group that it joins.
    pub(crate) group: Option<Membership>,
    pub(crate) mode: SandboxMode,
    pub(crate) network: Network,
    /// Makes the kernel's Landlock look older than it is, for tests.
    pub(crate) landlock_abi: Option<i32>,
    /// Files, and folders with all below them, that may be read.
    pub(crate) readable: Vec<PathBuf>,
    /// Folders in which files may be read, made, changed and removed.
    pub(crate) writable: Vec<PathBuf>,
    /// Programs, and folders of programs, that may be read and started.
    pub(crate) executable: Vec<PathBuf>,
    /// TCP ports, of any host, that may be connected to.
    pub(crate) connect_ports: Vec<u16>,
    /// Whether UDP may be used, with any host and port: a DNS look-up needs it.
    pub(crate) udp: bool,
    /// Whether Unix sockets may be used, with any socket that file permissions let the MID's user use.
    pub(crate) unix_sockets: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            frames: true,
            user: None,
            group: None,
            mode: SandboxMode::default(),
            network: Network::Host,
            landlock_abi: None,
            readable: Vec::new(),
            writable: Vec::new(),
            executable: Vec::new(),
            connect_ports: Vec::new(),
            udp: false,
            unix_sockets: false,
        }
    }
}

/// What the sandbox needs and this kernel, or this process, cannot give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    #[error("the kernel was built without Landlock")]
    LandlockAbsent,
    #[error("Landlock was not enabled when the kernel booted (lsm=landlock)")]
    LandlockDisabled,
    #[error(
        "the kernel's Landlock is older than ABI 4 (Linux 6.7), which `connect_ports` needs: list targets in `connect`"
    )]
    LandlockPorts,
    #[error("the kernel's Landlock is older than ABI 6 (Linux 6.12), which `unix_sockets` needs on the host's network")]
    LandlockScopes,
    #[error("the kernel gives this user no user and network namespaces, which `connect` needs")]
    Namespaces,
    #[error("the listeners for `connect` could not be made")]
    Listeners,
    #[error("the kernel refused the Landlock rules")]
    Landlock,
    #[error("the kernel refused the seccomp filter")]
    Seccomp,
    #[error("it could not be put into its control group")]
    ControlGroup,
    #[error("root's capabilities could not be given up")]
    Capabilities,
    #[error("the process could not be given the user of `run_as`")]
    User,
    #[error("the limits of descriptors and file sizes could not be set")]
    Limits,
    #[error("the program cannot be started inside the sandbox; a script's interpreter belongs in `executables`")]
    Program,
}

impl Missing {
    const ALL: [Self; 13] = [
        Self::LandlockAbsent,
        Self::LandlockDisabled,
        Self::LandlockPorts,
        Self::LandlockScopes,
        Self::Namespaces,
        Self::Listeners,
        Self::Landlock,
        Self::Seccomp,
        Self::ControlGroup,
        Self::Capabilities,
        Self::User,
        Self::Limits,
        Self::Program,
    ];

    /// The word for it between the trampoline and the MID.
    pub(super) fn word(self) -> String {
        format!("{self:?}")
    }

    /// Reads [`Self::word`]. The JAR can forge it, but no more than one of these sentences.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|missing| missing.word() == word)
    }
}

impl Sandbox {
    /// The first configured path that is not absolute.
    pub(crate) fn relative_path(&self) -> Option<&Path> {
        let all = self.readable.iter().chain(&self.writable).chain(&self.executable);
        all.map(PathBuf::as_path).find(|path| !path.is_absolute())
    }

    /// As arguments of the trampoline, which end before the program's name.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        if let Some(User { uid, gid }) = self.user {
            args.extend(["--user".into(), format!("{uid}:{gid}").into()]);
        }
        if let Some(Membership { folder, required }) = &self.group {
            args.extend([if *required { "--in-group" } else { "--in-group-if-possible" }.into(), folder.into()]);
        }
        args.extend((!self.frames).then(|| "--no-frames".into()));
        match self.mode {
            SandboxMode::Required => args.push("--sandbox=required".into()),
            SandboxMode::BestEffort => args.push("--sandbox=best_effort".into()),
            SandboxMode::Off => return args,
        }
        for (name, paths) in
            [("--readable", &self.readable), ("--writable", &self.writable), ("--executable", &self.executable)]
        {
            for path in paths {
                args.extend([OsString::from(name), path.into()]);
            }
        }
        if let Network::Private { listen } = &self.network {
            args.push("--private-network".into());
            for address in listen {
                args.extend(["--listen".into(), address.to_string().into()]);
            }
        }
        for port in &self.connect_ports {
            args.extend(["--connect".into(), port.to_string().into()]);
        }
        args.extend(self.udp.then(|| "--udp".into()));
        args.extend(self.unix_sockets.then(|| "--unix-sockets".into()));
        args
    }

    /// Reads [`Self::to_args`] up to the program's name, which is returned too.
    pub(super) fn from_args(args: &mut impl Iterator<Item = OsString>) -> io::Result<(Self, OsString)> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let mut sandbox = Self { mode: SandboxMode::Off, ..Self::default() };
        loop {
            let word = args.next().ok_or_else(|| invalid("no program to run"))?;
            let mut value = || args.next().ok_or_else(|| invalid("a sandbox option without its value"));
            match word.to_str() {
                Some("--user") => {
                    let ids = value()?;
                    let ids = ids.to_str().and_then(|ids| ids.split_once(':'));
                    let user = ids.and_then(|(uid, gid)| Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
                    sandbox.user = Some(user.ok_or_else(|| invalid("not a user"))?);
                }
                Some(option @ ("--in-group" | "--in-group-if-possible")) => {
                    let required = option == "--in-group";
                    sandbox.group = Some(Membership { folder: value()?.into(), required });
                }
                Some("--no-frames") => sandbox.frames = false,
                Some("--sandbox=required") => sandbox.mode = SandboxMode::Required,
                Some("--sandbox=best_effort") => sandbox.mode = SandboxMode::BestEffort,
                Some("--readable") => sandbox.readable.push(value()?.into()),
                Some("--writable") => sandbox.writable.push(value()?.into()),
                Some("--executable") => sandbox.executable.push(value()?.into()),
                Some("--connect") => {
                    let port = value()?.to_str().and_then(|port| port.parse().ok());
                    sandbox.connect_ports.push(port.ok_or_else(|| invalid("not a port"))?);
                }
                Some("--private-network") => sandbox.network = Network::Private { listen: Vec::new() },
                Some("--listen") => {
                    let address = value()?.to_str().and_then(|address| address.parse().ok());
                    let Network::Private { listen } = &mut sandbox.network else {
                        return Err(invalid("a listener on the host's network"));
                    };
                    listen.push(address.ok_or_else(|| invalid("not an address"))?);
                }
                Some("--landlock-abi") => {
                    sandbox.landlock_abi = value()?.to_str().and_then(|abi| abi.parse().ok());
                }
                Some("--udp") => sandbox.udp = true,
                Some("--unix-sockets") => sandbox.unix_sockets = true,
                Some(option) if option.starts_with("--") => return Err(invalid("an unknown sandbox option")),
                _ => return Ok((sandbox, word)),
            }
        }
    }

    /// TCP ports that may be connected to, in whichever network it is.
    fn tcp_ports(&self) -> Vec<u16> {
        match &self.network {
            Network::Host => self.connect_ports.clone(),
            Network::Private { listen } => listen.iter().map(SocketAddrV4::port).collect(),
        }
    }

    /// Enters the sandbox, for good: this thread, the program that replaces it, and all that it starts. Tells what it
    /// lacks and can do without.
    pub(super) fn enter(&self, program: &OsStr) -> Result<Vec<Missing>, Missing> {
        if self.mode == SandboxMode::Off {
            return Ok(Vec::new());
        }
        let limits = limit(Resource::Nofile, MAX_DESCRIPTORS).and_then(|()| limit(Resource::Fsize, MAX_FILE_LEN));
        // Each step is tried, whatever became of the one before it.
        let private = namespaces::enter(self);
        let capabilities = drop_capabilities();
        let files = files::restrict(self, Path::new(program), private.is_ok());
        let calls = calls::restrict(self, files.ok());
        let steps = [limits.map_err(|_| Missing::Limits), capabilities, files.map(drop), calls];
        let mut lacking: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
        if let (Some(first), SandboxMode::Required) = (lacking.first(), self.mode) {
            return Err(*first);
        }
        if let Err(missing) = private {
            // Where nothing is to be connected to, no network of any kind is left by the filter of calls.
            let needed = !self.tcp_ports().is_empty() || calls.is_err();
            if needed {
                return Err(missing);
            }
            lacking.push(missing);
        }
        Ok(lacking)
    }
}

fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let most = rustix::process::getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Makes exec grant root no capabilities. Another user has none to lose there: ambient ones are gone by now.
fn drop_capabilities() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() && !rustix::process::getuid().is_root() {
        return Ok(());
    }
    let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    let has_none = || {
        let sets = rustix::thread::capabilities(None)?;
        Ok::<_, rustix::io::Errno>(sets.permitted == CapabilitySet::empty())
    };
    match rustix::thread::set_capabilities_secure_bits(bits) {
        Err(_) if has_none().unwrap_or(false) => Ok(()),
        outcome => outcome.map_err(|_| Missing::Capabilities),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_carry_everything() {
        let sandbox = Sandbox {
            frames: false,
            user: Some(User { uid: 7, gid: 8 }),
            group: Some(Membership { folder: "/g h".into(), required: true }),
            mode: SandboxMode::BestEffort,
            readable: vec!["/a b".into(), "/--udp".into()],
            writable: vec!["/w".into()],
            executable: vec!["/x".into()],
            network: Network::Private { listen: vec!["127.1.0.1:443".parse().expect("address")] },
            landlock_abi: None,
            connect_ports: vec![1, 65_535],
            udp: true,
            unix_sockets: true,
        };
        let mut words = sandbox.to_args().into_iter().chain(["/usr/bin/java".into(), "--udp".into()]);
        assert_eq!(Sandbox::from_args(&mut words).expect("read"), (sandbox, "/usr/bin/java".into()));
        assert_eq!(words.next(), Some("--udp".into()), "the program's own arguments stay");
    }

    #[test]
    fn what_is_not_understood_starts_nothing() {
        for words in [
            &["--readable"][..],
            &["--user", "7", "/p"],
            &["--in-group"],
            &["--connect", "x", "/p"],
            &["--network", "/p"],
            &["--listen", "127.0.0.1:1", "/p"],
            &[],
        ] {
            let mut words = words.iter().map(OsString::from);
            assert!(Sandbox::from_args(&mut words).is_err());
        }
    }

    #[test]
    fn each_word_means_one_thing() {
        for missing in Missing::ALL {
            assert_eq!(Missing::from_word(&missing.word()), Some(missing));
        }
        assert_eq!(Missing::from_word("hunter2"), None);
    }

    #[test]
    fn a_relative_path_is_found() {
        let sandbox = Sandbox { executable: vec!["/a".into(), "b".into()], ..Sandbox::default() };
        assert_eq!(sandbox.relative_path(), Some(Path::new("b")));
    }
}
