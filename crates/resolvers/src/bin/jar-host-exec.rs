//! The trampoline as a program of its own, for this crate's tests. The MID has it as a hidden subcommand.

fn main() -> std::process::ExitCode {
    match midward_resolvers::jar::trampoline::run(std::env::args_os().skip(1)) {
        Ok(never) => match never {},
        Err(_) => std::process::ExitCode::from(126),
    }
}
