//! `make bench-tokens`: the token engine alone, in this process: what a warm lookup costs, what a token takes in memory,
//! how ten thousand of them are refreshed, and what bad neighbours do to the others.
//!
//! A program of its own because of its allocator, which counts.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod lookups;
mod memory;
mod neighbours;
mod plot;
mod profiles;
mod refresh;
#[path = "../../report.rs"]
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Measures and writes `bench/results/tokens.json` and `tokens.svg`.
#[derive(Debug, Parser)]
struct Arguments {
    /// The repository.
    #[arg(long, default_value = ".")]
    repository: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let repository = std::path::absolute(&arguments.repository)?;
    // First: what others left in the allocator's free lists would be missing in the sums.
    let mut figures = memory::measure()?;
    let (lookups, series) = lookups::measure()?;
    figures.splice(0..0, lookups);
    figures.extend(refresh::measure()?);
    figures.extend(neighbours::measure()?);
    println!("{}", report::publish(&repository, "tokens", &figures)?);
    let plot = repository.join("bench/results/tokens.svg");
    std::fs::write(&plot, plot::lookups(&series))?;
    println!("{}", plot.display());
    Ok(())
}
