//! The fake authorization server as a program: prints one line of JSON with its URLs, stays up.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use midward_fakes::authorization_server::{
    AuthorizationServer, AuthorizationServerConfig, BasicDecoding, OAuthClient, SigningAlgorithm,
};
use midward_fakes::tls::{Ca, Tls};

/// A stand-in for an OAuth 2.0 authorization server. For development only.
#[derive(Parser)]
struct Arguments {
    /// The clients: a JSON list of objects with `client_id`, `client_secrets` (a list) and, optionally, `scopes`.
    #[arg(long)]
    clients: PathBuf,
    /// 0 takes a free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How long access tokens live, in seconds.
    #[arg(long, default_value_t = 300)]
    lifetime_seconds: u64,
    /// `aud` when a request names none.
    #[arg(long, default_value = "https://api.example")]
    audience: String,
    /// Take Basic credentials as they come, without form-decoding.
    #[arg(long)]
    raw_basic: bool,
    /// Sign with RS256 in place of ES256.
    #[arg(long)]
    rs256: bool,
    /// Speak TLS, and write the CA's certificate to this file.
    #[arg(long)]
    tls_ca_out: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let clients: Vec<OAuthClient> =
        serde_json::from_slice(&std::fs::read(&arguments.clients)?).map_err(io::Error::other)?;
    let tls = match &arguments.tls_ca_out {
        None => Tls::Plain,
        Some(path) => {
            let ca = Ca::generate("Fake authorization server CA")?;
            std::fs::write(path, ca.pem())?;
            Tls::Server(Arc::new(ca))
        }
    };
    let server = AuthorizationServer::start_with_admin(AuthorizationServerConfig {
        port: arguments.port,
        tls,
        clients,
        lifetime: Duration::from_secs(arguments.lifetime_seconds),
        default_audience: arguments.audience,
        algorithm: if arguments.rs256 { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 },
        basic_decoding: if arguments.raw_basic { BasicDecoding::Raw } else { BasicDecoding::Form },
        ..AuthorizationServerConfig::default()
    })?;
    let started = serde_json::json!({
        "port": server.addr().port(),
        "url": server.url(),
        "token_url": server.token_url(),
        "jwks_url": server.jwks_url(),
    });
    writeln!(io::stdout(), "{started}")?;
    midward_fakes::block_until_stopped()
}
