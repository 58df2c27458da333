//! Logs to standard error.

use midward_mid::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

/// `RUST_LOG` wins over `filter`; `info` is the default. Libraries that would write bytes of the wire at `trace` or
/// `debug` never come below `info`, whatever the filter says: those bytes hold tokens and secrets.
pub(crate) fn start(format: LogFormat, filter: Option<&str>) {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let directives = asked.as_deref().or(filter).unwrap_or("info");
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives);
    let own_only = tracing_subscriber::filter::filter_fn(|metadata| {
        metadata.target().starts_with("midward") || *metadata.level() <= tracing::Level::INFO
    });
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(own_only)).with(filter).init();
}
