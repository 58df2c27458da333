//! `make demo`: starts everything on loopback, makes real calls, and says in words what happened on each hop.
#![expect(clippy::print_stdout, reason = "the demo talks to its user")]

mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use midward_demo::stack::Programs;

/// Shows a real call through every hop, then what happens when things change or go wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the last step instead of staying up.
    #[arg(long)]
    once: bool,
    /// The repository, for the JARs that its Makefile built.
    #[arg(long, default_value = ".")]
    repository: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let target = own.parent().context("a program has a folder")?;
    let repository = std::path::absolute(&arguments.repository)?;
    let programs = Programs::find(target, &repository)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(story::tell(programs, arguments.once))
}
