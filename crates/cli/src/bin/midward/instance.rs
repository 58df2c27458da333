//! `midward instance`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use midward_core::{Failure, Hop, SystemClock, SystemRandom};
use midward_instance::{EncryptionError, InstanceConfig, InstanceError, Started, TlsConfig, TlsMode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::exit::CliError;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct InstanceArgs {
    /// instance.toml
    #[arg(long, env = "MIDWARD_INSTANCE_CONFIG")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, env = "MIDWARD_DATA")]
    data: Option<PathBuf>,
    /// Address of the API and of the MIDs' side
    #[arg(long, env = "MIDWARD_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address of synchronous calls
    #[arg(long, env = "MIDWARD_CALL_LISTEN")]
    call_listen: Option<SocketAddr>,
    /// How MIDs reach the API
    #[arg(long, env = "MIDWARD_PUBLIC_URL")]
    public_url: Option<String>,
    /// Plain HTTP (only on loopback addresses)
    #[arg(long, env = "MIDWARD_NO_TLS")]
    no_tls: bool,
}

/// Runs until SIGTERM or SIGINT; a second one ends it at once.
pub(crate) async fn run(args: InstanceArgs) -> Result<(), CliError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MIDWARD_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let mut config = match &args.config {
        Some(file) => InstanceConfig::read(file)
            .map_err(|error| CliError::usage(error.to_string(), "Correct the configuration."))?,
        None => InstanceConfig::default(),
    };
    if let Some(data) = args.data {
        config.store.path = data;
    }
    config.server.listen = args.listen.unwrap_or(config.server.listen);
    config.server.call_listen = args.call_listen.unwrap_or(config.server.call_listen);
    config.server.public_url = args.public_url.or(config.server.public_url);
    if args.no_tls {
        config.server.tls = TlsConfig::Mode(TlsMode::Off);
    }

    let failed = |detail: String| {
        let action = "Check the configuration, the data folder and the addresses.";
        CliError::from(Failure::permanent(Hop::Instance, "instance_failed", detail, action))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(error.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(error.to_string()))?;
    let shutdown = CancellationToken::new();
    let (started, notice) = oneshot::channel();
    let instance =
        midward_instance::run(config, Arc::new(SystemClock), Arc::new(SystemRandom), shutdown.clone(), started);
    tokio::pin!(instance);
    let mut notice = Some(notice);
    loop {
        tokio::select! {
            ended = &mut instance => return ended.map_err(|error| match error {
                InstanceError::Encryption(error) => no_key(&error),
                error => failed(error.to_string()),
            }),
            Ok(started) = async { match notice.as_mut() { Some(notice) => notice.await, None => std::future::pending().await } } => {
                notice = None;
                announce(&started);
            }
            _ = terminate.recv() => stop(&shutdown)?,
            _ = interrupt.recv() => stop(&shutdown)?,
        }
    }
}

fn no_key(error: &EncryptionError) -> CliError {
    let action = match error {
        EncryptionError::Missing(_) => {
            "Name that key in encryption.older_key_files; if it is gone for good, in encryption.lost_keys."
        }
        _ => "Correct [encryption]. A new key: `openssl rand -hex 32`, into a file of mode 0600.",
    };
    Failure::permanent(Hop::Instance, "encryption_key_refused", error.to_string(), action).into()
}

fn stop(shutdown: &CancellationToken) -> Result<(), CliError> {
    if shutdown.is_cancelled() {
        let detail = "stopped at once by a second signal; running requests were cut off";
        return Err(Failure::transient(Hop::Instance, "stopped", detail, "Start it again.").into());
    }
    shutdown.cancel();
    Ok(())
}

fn announce(started: &Started) {
    output::say(&format!("midward instance: API {}, calls {}", started.public_url, started.call_url));
    if let Some(ca) = &started.ca_path {
        output::say(&format!("CA certificate (for --ca-file): {}", ca.display()));
    }
    if let Some(key) = &started.first_admin_key {
        output::say(&format!(
            "first administrator's key (for --key-file): {}; copy it before its first use removes the file",
            key.display()
        ));
    }
}
