//! The fake Conjur as a program: reads its identities and variables from a file, prints one line of JSON with its URL,
//! stays up.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use midward_fakes::conjur::{Conjur, ConjurConfig};
use midward_fakes::tls::{Ca, Tls};

/// A stand-in for CyberArk Conjur. For development only.
#[derive(Parser)]
struct Arguments {
    /// Account, identities and variables, as TOML.
    #[arg(long)]
    file: PathBuf,
    /// Serve TLS under a CA of its own, whose certificate goes into this file.
    #[arg(long)]
    tls_ca_out: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let config: ConjurConfig = toml::from_str(&std::fs::read_to_string(&arguments.file)?).map_err(io::Error::other)?;
    let tls = match &arguments.tls_ca_out {
        None => Tls::Plain,
        Some(file) => {
            let ca = Ca::generate("fake Conjur CA")?;
            std::fs::write(file, ca.pem())?;
            Tls::Server(Arc::new(ca))
        }
    };
    let conjur = Conjur::start(config, tls)?;
    writeln!(io::stdout(), "{}", serde_json::json!({ "url": conjur.url() }))?;
    midward_fakes::block_until_stopped()
}
