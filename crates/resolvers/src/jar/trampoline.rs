//! The step between the MID and a resolver's process (a JVM, or a program of the customer's): the MID's own binary, started
//! again, that limits itself and then becomes that program.
//!
//! Done here rather than between fork and exec, where almost nothing is allowed; and limits that exec resets would be of
//! no use if they were set before it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid};

use super::launch::FRAMES_OUT;
use super::sandbox::{Missing, Network, Sandbox, SandboxMode};
use crate::cgroup;
use crate::frame::{Frame, FrameKind};
use crate::run_as::User;

/// Highest of the descriptors that every program may inherit.
const STDERR: i32 = 2;
/// `O_CLOEXEC` in the octal `flags` line of `/proc/self/fdinfo/N`.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Limits this process and replaces it by the program that `args` names, after the options of the sandbox; what follows
/// are the program's own arguments. Call it first thing in `main`, before any thread or runtime is started. Returns only when something failed.
pub fn run(args: impl IntoIterator<Item = OsString>) -> io::Result<Infallible> {
    let mut args = args.into_iter();
    let (sandbox, program) = Sandbox::from_args(&mut args)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Opened before another user may not; the program does not get this one.
    let pipe = File::options().write(true).open(format!("/proc/self/fd/{FRAMES_OUT}"));
    let report = |kind, missing| report(pipe.as_ref(), kind, missing);
    if let Some(group) = &sandbox.group
        && let Err(error) = cgroup::enter(&group.folder)
    {
        report(if group.required { FrameKind::Unusable } else { FrameKind::Notice }, Missing::ControlGroup)?;
        if group.required {
            return Err(error);
        }
    }
    if let Some(user) = sandbox.user
        && let Err(error) = become_user(user)
    {
        report(FrameKind::Unusable, Missing::User)?;
        return Err(error);
    }
    // A change of the user would take it away.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    // A MID that systemd gave capabilities (to bind a low port, say) does not pass them on.
    rustix::thread::clear_ambient_capability_set()?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let mut command = Command::new(&program);
    command.args(args);
    hide_other_descriptors(&mut command, if sandbox.frames { FRAMES_OUT } else { STDERR })?;
    match sandbox.enter(&program) {
        Ok(lacking) => lacking.into_iter().try_for_each(|missing| report(FrameKind::Notice, missing))?,
        Err(missing) => {
            report(FrameKind::Unusable, missing)?;
            return Err(io::Error::new(io::ErrorKind::Unsupported, missing));
        }
    }
    if matches!(&sandbox.network, Network::Private { listen } if !listen.is_empty()) {
        // It was the socket for the listeners.
        command.stdin(Stdio::null());
    }
    let error = command.exec();
    if sandbox.mode != SandboxMode::Off || !sandbox.frames {
        report(FrameKind::Unusable, Missing::Program)?;
    }
    Err(error)
}

/// Of this thread, which is the only one, for good.
fn become_user(user: User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // Or its own folder in /proc would stay root's until the program begins.
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

/// Tells the MID in the program's place.
fn report(pipe: Result<&File, &io::Error>, kind: FrameKind, missing: Missing) -> io::Result<()> {
    let frame = Frame::new(kind).with("code", "sandbox_unavailable").with("what", missing.word());
    let mut pipe = pipe.map_err(|error| io::Error::from(error.kind()))?;
    pipe.write_all(&frame.encode().map_err(io::Error::other)?)
}

/// Puts /dev/null over every other descriptor that would survive exec. Our own are all close-on-exec; these are leaks of
/// whoever started the MID, and a JAR has no business with them.
fn hide_other_descriptors(command: &mut Command, last_inherited: i32) -> io::Result<()> {
    let mut mappings = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        let Some(child_fd) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // The folder's own descriptor is listed too and may be gone by now; it is close-on-exec.
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{child_fd}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0);
        if child_fd > last_inherited && flags & CLOSE_ON_EXEC == 0 {
            mappings.push(FdMapping { parent_fd: File::open("/dev/null")?.into(), child_fd });
        }
    }
    if !mappings.is_empty() {
        command.fd_mappings(mappings).map_err(io::Error::other)?;
    }
    Ok(())
}
