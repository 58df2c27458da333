//! `make bench`: Midward's figures on this machine alone, beside the plain call that it stands in for.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod ccp;
mod cold;
mod dispatch;
mod footprint;
mod idle;
mod jar;
mod jar_alone;
mod load;
mod report;
mod stack;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use midward_demo::stack::Programs;

use crate::report::Figure;

/// Measures and writes `bench/results/NAME.json`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which benchmark; all when none is named.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// The repository.
    #[arg(long, default_value = ".")]
    repository: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Requests per second and added latency through instance, queue, MID Server and API.
    Dispatch,
    /// The first token through the JAR, beside its hops alone.
    Cold,
    /// Memory of the MID Server and its start to the first lease.
    Footprint,
    /// Calls, start and memory of the JAR host.
    Jar,
    /// CPU and memory of an instance with a thousand MIDs that have nothing to do.
    Idle,
    /// A look-up at the CCP beside a plain HTTPS GET to it.
    Ccp,
}

impl Name {
    const ALL: [Self; 6] = [Self::Dispatch, Self::Cold, Self::Footprint, Self::Idle, Self::Jar, Self::Ccp];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Cold => "cold",
            Self::Footprint => "footprint",
            Self::Idle => "idle",
            Self::Jar => "jar",
            Self::Ccp => "ccp",
        }
    }

    async fn measure(self, programs: &Programs, repository: &Path) -> anyhow::Result<Vec<Figure>> {
        match self {
            Self::Dispatch => dispatch::measure(programs).await,
            Self::Cold => cold::measure(programs, repository).await,
            Self::Footprint => footprint::measure(programs).await,
            Self::Idle => idle::measure(programs).await,
            Self::Jar => jar::measure(programs, repository).await,
            Self::Ccp => ccp::measure().await,
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == jar::TRAMPOLINE) {
        let Err(error) = midward_resolvers::jar::trampoline::run(words);
        println!("the JVM was not started: {error}");
        return ExitCode::FAILURE;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let target = own.parent().context("a program has a folder")?;
    let repository = std::path::absolute(&arguments.repository)?;
    let programs = Programs::find(target, &repository)?;
    let names = if arguments.names.is_empty() { Name::ALL.to_vec() } else { arguments.names.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for name in names {
        let figures = runtime.block_on(name.measure(&programs, &repository)).with_context(|| name.as_str())?;
        println!("{}", report::publish(&repository, name.as_str(), &figures)?);
    }
    Ok(())
}
