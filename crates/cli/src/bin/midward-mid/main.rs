//! `midward-mid`: the MID Server and its local commands.

mod args;
mod commands;
mod doctor;
mod jar;
mod logging;
mod output;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use midward_core::{Failure, Hop};

use crate::args::{Arguments, Command};

/// Wipes every block of memory when it is given back: what HTTP, TLS and JSON libraries copied of a secret does not
/// stay behind in the heap.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: the trampoline of a JAR's process must not do what this program does at start.
    if arguments.next().is_some_and(|first| first == midward_mid::TRAMPOLINE_COMMAND) {
        let Err(error) = midward_resolvers::jar::trampoline::run(arguments);
        let failure = Failure::permanent(
            Hop::Resolver,
            "trampoline_failed",
            format!("the JAR's process could not be started: {error}"),
            "Check that `java` can be executed.",
        );
        return output::report(&failure, output::Format::Text);
    }
    if let Err(failure) = refuse_secrets() {
        return output::report(&failure, output::Format::Text);
    }
    let arguments = Arguments::parse();
    let format = arguments.output;
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::report(&failure, format),
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { output: format, config, command } = arguments;
    // Two workers serve a MID; a thread's stack is memory that this program promises not to need.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::permanent(
                Hop::Mid,
                "no_runtime",
                format!("no threads can be started: {error}"),
                "Raise the process's limits.",
            )
        })?;
    let result = runtime.block_on(async {
        match command {
            Command::Run(run) => commands::run(&config, &run).await,
            Command::Enroll(enroll) => commands::enroll(&config, &enroll, format).await,
            Command::Doctor => doctor::doctor(&config, format).await,
            Command::Resolve(resolve) => commands::resolve(&config, resolve, format).await,
            Command::Reload => commands::reload(&config, format).await,
            Command::Token(token) => commands::token(&config, token, format).await,
            Command::Policy(policy) => commands::policy(&config, policy, format).await,
            Command::Metrics => commands::metrics(&config, format).await,
            Command::Jar(jar) => jar::jar(&jar, format),
            Command::Status => commands::status(&config, format).await,
            Command::Completions { shell } => {
                args::completions(shell);
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Secrets in arguments or the environment are visible to others on the host: refused, and not repeated.
fn refuse_secrets() -> Result<(), Failure> {
    let in_arguments = std::env::args_os().any(|argument| argument.to_string_lossy().contains("mwe1."));
    let named = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).find(|name| {
        name.starts_with("MIDWARD_") && ["SECRET", "PASSWORD", "TOKEN"].iter().any(|end| name.ends_with(end))
    });
    let place = match (in_arguments, named) {
        (true, _) => "an argument".to_owned(),
        (false, Some(name)) => format!("the environment variable {name}"),
        (false, None) => return Ok(()),
    };
    Err(Failure::permanent(
        Hop::Mid,
        "secret_exposed",
        format!("{place} holds a secret, which others on this host can read"),
        "Put it into a file with mode 0600 and name that file, or give it on stdin; ask for a new enrollment token.",
    ))
}
