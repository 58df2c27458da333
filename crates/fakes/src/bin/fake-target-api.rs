//! The fake target API as a program: prints one line of JSON with its URL, stays up.

use std::io::{self, Write as _};

use clap::Parser;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};

/// A stand-in for a protected API. For development only.
#[derive(Parser)]
struct Arguments {
    /// `iss` that tokens must carry.
    #[arg(long)]
    issuer: String,
    /// Where the issuer's keys are (plain HTTP).
    #[arg(long)]
    jwks_url: String,
    /// `aud` that tokens must carry.
    #[arg(long, default_value = "https://api.example")]
    audience: String,
    /// A scope that every call needs.
    #[arg(long)]
    scope: Option<String>,
    /// 0 takes a free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut config = TargetApiConfig::new(&arguments.issuer, &arguments.jwks_url, &arguments.audience);
    config.port = arguments.port;
    config.required_scope = arguments.scope;
    let api = TargetApi::start_with_admin(config)?;
    writeln!(io::stdout(), "{}", serde_json::json!({ "port": api.addr().port(), "url": api.url() }))?;
    midward_fakes::block_until_stopped()
}
