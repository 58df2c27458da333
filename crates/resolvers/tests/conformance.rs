//! The conformance suite over the adapters that run a JAR.

#[path = "support/conformance.rs"]
mod conformance;
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use conformance::{Trouble, Vault};
use midward_fakes::vault::{Account, Application, Vault as AimVault, VaultConfig, VaultFault};
use midward_resolvers::{BoxFuture, Resolver};
use support::Bench;

/// `cyberark_sdk`: the stand-in for `JavaPasswordSDK.jar`, in a real JVM, against the stand-in for the AIM client.
struct Sdk {
    vault: AimVault,
    resolver: Arc<dyn Resolver>,
}

impl Vault for Sdk {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.vault.set_password("Main", name, secret) {
                self.vault.add_account(Account::new("Main", name, client_id, secret));
            }
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
        jar_code(trouble)
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["a:b:c:d", "Main:", "Main:-o", ""]
    }
}

#[tokio::test]
async fn cyberark_sdk_conforms() {
    let bench = Bench::new();
    let application = Application { app_id: "App1".to_owned(), safes: vec!["Main".to_owned()], clients: None };
    let config = VaultConfig { applications: vec![application], ..VaultConfig::default() };
    let vault = AimVault::start(config).expect("vault");
    let resolver = bench.resolver(&format!(
        "kind = 'cyberark_sdk'\njar = '{}'\napp_id = 'App1'\nsafe = 'Main'\nport = {}\nconnection_timeout_s = 60\n\
         timeout_ms = 60000",
        bench.jars.sdk().display(),
        vault.port()
    ));
    conformance::run(&Sdk { vault, resolver }, &[]).await;
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

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, CLIENT).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}
