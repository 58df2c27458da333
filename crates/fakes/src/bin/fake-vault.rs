//! The fake vault as a program: reads its safes from a file, prints one line of JSON with its ports, stays up.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Parser;
use midward_fakes::vault::{Vault, VaultConfig};

/// A stand-in for the CyberArk vault behind the AIM client. For development only.
#[derive(Parser)]
struct Arguments {
    /// Applications and accounts, as TOML or (by its ending) JSON.
    #[arg(long)]
    file: PathBuf,
    /// The port for AIM clients; 0 takes a free one. The file's `port` counts when this is absent.
    #[arg(long)]
    port: Option<u16>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.file)?;
    let json = arguments.file.extension().is_some_and(|ending| ending == "json");
    let mut config: VaultConfig = if json {
        serde_json::from_str(&text).map_err(io::Error::other)?
    } else {
        toml::from_str(&text).map_err(io::Error::other)?
    };
    if let Some(port) = arguments.port {
        config.port = port;
    }
    let vault = Vault::start(config)?;
    let started = serde_json::json!({ "port": vault.port(), "admin_url": vault.admin_url() });
    writeln!(io::stdout(), "{started}")?;
    midward_fakes::block_until_stopped()
}
