//! `make bench-queue`: the queue by itself, from a submission that was checked to an outcome on disk, on each database,
//! beside a plain queue that claims and finishes row by row on the same PostgreSQL.
//!
//! It lies here and not in `bench/`, because SQL is reachable from this crate only.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod backlog;
mod history;
mod load;
mod plain;
#[path = "../../../../bench/src/report.rs"]
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use midward_fakes::postgres::Postgres;
use midward_instance::bench::QueueAlone;
use midward_instance::{PostgresConfig, StoreConfig};

use crate::load::{Rates, Subject};
use crate::plain::Plain;
use crate::report::Figure;

const MIDS: usize = 4;
const ROUNDS: usize = 5;
/// Finished requests in the database that is compared with an empty one; `QUEUE_HISTORY` says otherwise.
const HISTORY: u64 = 100_000;
/// Requests that no MID can take, and as many that are delayed, in the database that is compared with an empty one.
const BACKLOG: u64 = 100_000;
/// Indexes that only lists of requests use.
const LIST_INDEXES: &str = "DROP INDEX requests_by_connection; DROP INDEX requests_by_client";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run())) {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<String> {
    let finished = match std::env::var("QUEUE_HISTORY") {
        Ok(text) => text.parse().with_context(|| format!("QUEUE_HISTORY={text} is not a number"))?,
        Err(_) => HISTORY,
    };
    let folder = tempfile::tempdir()?;
    let mut places = Places { server: Postgres::start()?, folder: folder.path().to_owned(), made: 0 };
    let mut figures = rates(&mut places).await?;
    if finished > 0 {
        let what = format!("{finished} finished over none");
        figures.extend(beside_empty(&mut places, &what, async |config| history::fill(config, finished).await).await?);
    }
    let what = format!("{BACKLOG} that nobody can take and {BACKLOG} delayed over none");
    figures.extend(beside_empty(&mut places, &what, async |config| backlog::fill(config, BACKLOG).await).await?);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    report::publish(&repository, "queue", &figures)
}

/// Where databases lie.
struct Places {
    server: Postgres,
    folder: PathBuf,
    made: u32,
}

impl Places {
    fn sqlite(&mut self) -> anyhow::Result<StoreConfig> {
        self.made += 1;
        let path = self.folder.join(self.made.to_string());
        std::fs::create_dir(&path)?;
        Ok(StoreConfig { path, keys: None, postgres: None })
    }

    fn postgres(&mut self) -> anyhow::Result<StoreConfig> {
        let postgres = PostgresConfig { url: self.server.new_database()?, password_file: None, connections: 10 };
        Ok(StoreConfig { postgres: Some(postgres), ..self.sqlite()? })
    }
}

/// The URL of a PostgreSQL database.
fn url(config: &StoreConfig) -> anyhow::Result<&str> {
    Ok(&config.postgres.as_ref().context("not on PostgreSQL")?.url)
}

async fn rates(places: &mut Places) -> anyhow::Result<Vec<Figure>> {
    let (sqlite, postgres) = (places.sqlite()?, places.postgres()?);
    let bare = [places.sqlite()?, places.postgres()?];
    for config in &bare {
        // For its schema.
        QueueAlone::open(config, 0, true).await?.close().await?;
        history::execute(config, LIST_INDEXES).await?;
    }
    let plain_at = places.postgres()?;
    let open = async |config: &StoreConfig, with_audit| {
        anyhow::Ok(Subject::Queue(QueueAlone::open(config, MIDS, with_audit).await?))
    };
    let subjects = vec![
        open(&sqlite, true).await?,
        open(&postgres, true).await?,
        Subject::Plain(Plain::open(url(&plain_at)?).await?),
        open(&places.sqlite()?, false).await?,
        open(&places.postgres()?, false).await?,
        open(&bare[0], true).await?,
        open(&bare[1], true).await?,
    ];
    let rates = Rates::measure(&subjects, ROUNDS).await?;
    for subject in subjects {
        subject.close().await?;
    }
    let takes = |of: usize, over: usize| (1.0 - rates.ratio(of, over)) * 100.0;
    Ok(vec![
        Figure::higher("SQLite, 64 callers", "1/s", rates.median(0), 8000.0),
        Figure::higher("PostgreSQL, 64 callers", "1/s", rates.median(1), 2.0 * rates.median(2))
            .beside("plain queue", rates.median(2)),
        Figure::higher("PostgreSQL over the plain queue", "x", rates.ratio(1, 2), 2.0),
        Figure::lower("SQLite, rate that the audit takes", "%", takes(0, 3), 15.0),
        Figure::lower("PostgreSQL, the same", "%", takes(1, 4), 15.0),
        Figure::lower("SQLite, rate that the lists' indexes take", "%", takes(0, 5), 15.0),
        Figure::lower("PostgreSQL, the same", "%", takes(1, 6), 15.0),
    ])
}

/// Each database filled with something, beside an empty one.
async fn beside_empty(
    places: &mut Places,
    what: &str,
    fill: impl AsyncFn(&StoreConfig) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for on in ["SQLite", "PostgreSQL"] {
        let (empty, full) = if on == "SQLite" {
            (places.sqlite()?, places.sqlite()?)
        } else {
            (places.postgres()?, places.postgres()?)
        };
        QueueAlone::open(&full, 0, true).await?.close().await?;
        fill(&full).await?;
        let mut subjects = Vec::new();
        for config in [&full, &empty] {
            subjects.push(Subject::Queue(QueueAlone::open(config, MIDS, true).await?));
        }
        let rates = Rates::measure(&subjects, ROUNDS).await?;
        for subject in subjects {
            subject.close().await?;
        }
        // Room for the next one.
        std::fs::remove_dir_all(&full.path)?;
        figures.push(Figure::higher(&format!("{on}, {what}"), "x", rates.ratio(0, 1), 0.85));
    }
    Ok(figures)
}
