//! The conformance suite over the adapters that run a JAR, and over CyberArk's own interfaces.

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use conformance::{Trouble, Vault};
use midward_fakes::tls::{Ca, Tls};
use midward_fakes::vault::ccp::{Ccp, CcpConfig};
use midward_fakes::vault::{Account, Application, Vault as AimVault, VaultConfig, VaultFault};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{BoxFuture, Resolver, ResolverConfig, ResolverContext, build};
use support::Bench;

/// An adapter of CyberArk's against the stand-in for its vault.
struct CyberArk {
    vault: AimVault,
    resolver: Arc<dyn Resolver>,
    /// The code when no answer comes.
    slow: &'static str,
}

impl Vault for CyberArk {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.vault.put_account(Account::new("Main", name, client_id, secret));
        })
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let fault = match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Denied => VaultFault::Denied,
            Trouble::Ambiguous => VaultFault::Ambiguous,
            Trouble::Empty => VaultFault::EmptySecret,
            Trouble::Slow => VaultFault::Hang,
            Trouble::Dead => VaultFault::Dead,
        };
        self.vault.set_fault_for(name, fault, None);
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        self.vault.clear_faults();
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.vault.request_count()
    }

    fn code(&self, trouble: Trouble) -> &'static str {
        if trouble == Trouble::Slow { self.slow } else { jar_code(trouble) }
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["a:b:c:d", "Main:", "Main:-o", ""]
    }
}

#[tokio::test]
async fn cyberark_sdk_conforms() {
    let bench = Bench::new();
    let vault = aim_vault();
    let resolver = bench.resolver(&format!(
        "kind = 'cyberark_sdk'\njar = '{}'\napp_id = 'App1'\nsafe = 'Main'\nport = {}\nconnection_timeout_s = 60\n\
         timeout_ms = 60000",
        bench.jars.sdk().display(),
        vault.port()
    ));
    conformance::run(&CyberArk { vault, resolver, slow: "resolver_timeout" }, &[]).await;
}

/// `cyberark_cli`: the stand-in for the AIM client's command line, which cargo builds beside this crate's programs.
#[tokio::test]
async fn cyberark_cli_conforms() {
    let vault = aim_vault();
    let client = Path::new(env!("CARGO_BIN_EXE_jar-host-exec")).with_file_name("clipasswordsdk");
    assert!(client.exists(), "`cargo build -p midward-fakes --bins` builds {}", client.display());
    let resolver = Bench::new().resolver(&format!(
        "kind = 'cyberark_cli'\npath = '{}'\napp_id = 'App1'\nsafe = 'Main'\nport = {}\ntimeout_ms = 60000",
        client.display(),
        vault.port()
    ));
    conformance::run(&CyberArk { vault, resolver, slow: "vault_client_timeout" }, &[]).await;
}

/// `cyberark_ccp`: the stand-in for the Central Credential Provider, which wants a client certificate.
#[tokio::test]
async fn cyberark_ccp_conforms() {
    for api in ["rest", "soap"] {
        let (bench, vault) = (Bench::new(), aim_vault());
        let ca = Arc::new(Ca::generate("CCP CA").expect("CA"));
        let client = ca.issue_client("midward").expect("certificate");
        let tls = Tls::Mutual(Arc::clone(&ca));
        let ccp = Ccp::start(&vault, CcpConfig { tls, ..CcpConfig::default() }).expect("CCP");
        let file = |name: &str, text: &str| {
            let path = bench.folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            private(&path);
            path.display().to_string()
        };
        let (pem, key) = (file("client.pem", &client.certificate_pem), file("client.key", &client.key_pem));
        let way = WayConfig { ca_file: Some(file("ca.pem", ca.pem()).into()), ..WayConfig::default() };
        let vaults = WayOut::new(&way, Path::new("/")).expect("a way out");
        let settings = format!(
            "kind = 'cyberark_ccp'\nurl = '{}'\napi = '{api}'\napp_id = 'App1'\nsafe = 'Main'\ntimeout_ms = 60000\n\
             certificate_file = '{pem}'\nkey_file = '{key}'",
            ccp.url()
        );
        let settings: ResolverConfig = toml::from_str(&settings).expect("configuration");
        let resolver = build("vault", &settings, &ResolverContext { vaults, ..bench.context() });
        conformance::run(&CyberArk { vault, resolver, slow: "vault_timeout" }, &[]).await;
    }
}

fn aim_vault() -> AimVault {
    let config = VaultConfig { applications: vec![Application::new("App1", &["Main"])], ..VaultConfig::default() };
    AimVault::start(config).expect("vault")
}

/// `jar`: the sample resolver, in a real JVM, over a program that stands for the AIM client's command line.
struct Sample {
    folder: PathBuf,
    resolver: Arc<dyn Resolver>,
}

/// Reads records/OBJECT/{user,secret,trouble} beside itself. The separator is the last argument.
const CLIENT: &str = r#"#!/bin/sh
here=${0%/*}
echo >> "$here/asked/asked"
for last; do :; done
object=$*
object=${object##*Object=}
record=$here/records/${object%% *}
[ -f "$record/user" ] || { echo 'APPAP004E c4n4ry' >&2; exit 1; }
read -r trouble < "$record/trouble"
case $trouble in
Slow) exec sleep 100 ;;
APPAP*) echo "$trouble c4n4ry" >&2; exit 1 ;;
esac
secret=$(cat "$record/secret"; echo .)
printf '%s%s%s\n' "$(cat "$record/user")" "$last" "${secret%.}"
"#;

impl Sample {
    fn record(&self, name: &str) -> PathBuf {
        self.folder.join("records").join(name)
    }
}

impl Vault for Sample {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        let record = self.record(name);
        std::fs::create_dir_all(&record).expect("folder");
        for (file, text) in [("secret", secret), ("trouble", "none\n"), ("user", client_id)] {
            std::fs::write(record.join(file), text).expect("written");
        }
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let (file, text) = match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Denied => ("trouble", "APPAP306E\n"),
            Trouble::Ambiguous => ("trouble", "APPAP227E\n"),
            Trouble::Dead => ("trouble", "APPAP007E\n"),
            Trouble::Slow => ("trouble", "Slow\n"),
            Trouble::Empty => ("secret", ""),
        };
        let file = self.record(name).join(file);
        if trouble == Trouble::Empty {
            std::fs::rename(&file, file.with_extension("kept")).expect("kept");
        }
        std::fs::write(file, text).expect("written");
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        let record = self.record(name);
        std::fs::write(record.join("trouble"), "none\n").expect("written");
        if record.join("secret.kept").exists() {
            std::fs::rename(record.join("secret.kept"), record.join("secret")).expect("put back");
        }
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        std::fs::read(self.folder.join("asked/asked")).map_or(0, |lines| lines.len())
    }

    fn code(&self, trouble: Trouble) -> &'static str {
        jar_code(trouble)
    }
}

#[tokio::test]
async fn the_sample_jar_conforms() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("client");
    std::fs::create_dir_all(folder.join("asked")).expect("folder");
    let client = folder.join("clipasswordsdk");
    executable(&client);
    let resolver = bench.resolver(&format!(
        "kind = 'jar'\njar = '{1}'\ntimeout_ms = 60000\nparameters = {{ 'ext.cred.safe_timeout' = '60' }}\n\
         executables = ['/bin/sh', '/bin/cat', '/bin/sleep']\nreadable_paths = ['{0}']\nwritable_paths = ['{0}/asked']\n\
         environment = ['PATH']\nenvironment_values = {{ AIM_CLIPASSWORDSDK_CMD = '{2}' }}",
        folder.display(),
        bench.jars.sample().display(),
        client.display(),
    ));
    conformance::run(&Sample { folder, resolver }, &[]).await;
}

/// Ended together with its JVM.
fn jar_code(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::NotFound => "vault_not_found",
        Trouble::Denied => "vault_denied",
        Trouble::Ambiguous => "vault_ambiguous",
        Trouble::Empty => "empty_secret",
        Trouble::Slow => "resolver_timeout",
        Trouble::Dead => "vault_unreachable",
    }
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("private");
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, CLIENT).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}
