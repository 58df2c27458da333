//! The trampoline as a program of its own, for this crate's tests. The MID has it as a hidden subcommand.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "--without-landlock").is_some()
        && refuse(libc::SYS_landlock_create_ruleset, libc::ENOSYS).is_err()
    {
        return std::process::ExitCode::from(125);
    }
    if arguments.next_if(|first| first == "--without-namespaces").is_some()
        && refuse(libc::SYS_unshare, libc::EPERM).is_err()
    {
        return std::process::ExitCode::from(125);
    }
    match midward_resolvers::jar::trampoline::run(arguments) {
        Ok(never) => match never {},
        Err(_) => std::process::ExitCode::from(126),
    }
}

/// Makes this process see a kernel without that call.
fn refuse(call: i64, errno: i32) -> Result<(), seccompiler::Error> {
    let refused = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(BTreeMap::from([(call, Vec::new())]), SeccompAction::Allow, refused, arch)?;
    apply_filter(&BpfProgram::try_from(filter)?)
}
