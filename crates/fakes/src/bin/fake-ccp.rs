//! The fake Central Credential Provider as a program: reads its safes from a file, makes a CA, prints one line of JSON
//! with its URLs and files, stays up.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use midward_fakes::tls::{Ca, Tls};
use midward_fakes::vault::ccp::{Ccp, CcpConfig};
use midward_fakes::vault::{Vault, VaultConfig};

/// A stand-in for CyberArk's Central Credential Provider. For development only.
#[derive(Parser)]
struct Arguments {
    /// Applications and accounts, as TOML or (by its ending) JSON.
    #[arg(long)]
    file: PathBuf,
    /// Where `ca.pem`, `client.pem` and `client.key` are written.
    #[arg(long)]
    folder: PathBuf,
    /// Whether clients may or must show a certificate.
    #[arg(long, value_enum, default_value_t = ClientCertificate::Optional)]
    client_certificate: ClientCertificate,
    /// The web service's name.
    #[arg(long, default_value = "AIMWebService")]
    service: String,
    /// 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClientCertificate {
    None,
    Optional,
    Required,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.file)?;
    let json = arguments.file.extension().is_some_and(|ending| ending == "json");
    let config: VaultConfig = if json {
        serde_json::from_str(&text).map_err(io::Error::other)?
    } else {
        toml::from_str(&text).map_err(io::Error::other)?
    };
    let ca = Arc::new(Ca::generate("fake CCP")?);
    let client = ca.issue_client("midward")?;
    let write = |name: &str, text: &str| {
        let path = arguments.folder.join(name);
        write_private(&path, text).map(|()| path)
    };
    let ca_file = write("ca.pem", ca.pem())?;
    let certificate_file = write("client.pem", &client.certificate_pem)?;
    let key_file = write("client.key", &client.key_pem)?;
    let tls = match arguments.client_certificate {
        ClientCertificate::None => Tls::Server(ca),
        ClientCertificate::Optional => Tls::Optional(ca),
        ClientCertificate::Required => Tls::Mutual(ca),
    };
    let vault = Vault::start(config)?;
    let service = Some(arguments.service);
    let ccp = Ccp::start(&vault, CcpConfig { tls, service, port: arguments.port, ..CcpConfig::default() })?;
    let started = serde_json::json!({
        "url": ccp.url(),
        "admin_url": vault.admin_url(),
        "ca_file": ca_file,
        "certificate_file": certificate_file,
        "key_file": key_file,
    });
    writeln!(io::stdout(), "{started}")?;
    midward_fakes::block_until_stopped()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
