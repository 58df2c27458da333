//! `cyberark_cli` over the stand-in for the AIM client's program, and over programs that misbehave.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock as _, Failure, Persistence, SystemClock, SystemRandom};
use midward_fakes::vault::{Account, Application, CliFault, Vault, VaultConfig, VaultFault};
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, ResolverReport, build};
use support::pair;

const SECRET: &str = "p@ss,w;rd|\"x\" 100% \u{fc} \n end ";

/// The stand-in for the AIM client's program, which cargo builds beside this crate's own.
fn aim_client() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_jar-host-exec")).with_file_name("clipasswordsdk");
    assert!(program.exists(), "`cargo build -p midward-fakes --bins` builds {}", program.display());
    program
}

fn vault() -> Vault {
    let dual = Account::new("Apps", "crm-a", "crm-a", "dual").with_property("VirtualUserName", "crm-dual");
    let mut keyed = Account::new("Apps", "keyed", "ignored", "-----BEGIN KEY-----\nAA\n-----END KEY-----\n");
    keyed.properties.insert("ClientID".to_owned(), "keyed-client".to_owned());
    Vault::start(VaultConfig {
        applications: vec![Application::new("App", &["Apps", "Other"])],
        accounts: vec![
            Account::new("Apps", "crm", "client-1", SECRET).with_address("crm.example"),
            Account::new("Other", "crm", "client-2", "other"),
            dual,
            keyed,
        ],
        ..VaultConfig::default()
    })
    .expect("the vault starts")
}

fn resolver(text: &str) -> Arc<dyn Resolver> {
    let config: ResolverConfig = toml::from_str(&format!("kind = 'cyberark_cli'\n{text}")).expect("configuration");
    let context = ResolverContext {
        mid_name: "mid-1".to_owned(),
        jar_host_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        trampoline: Vec::new(),
        java: "/nowhere".into(),
        vaults: midward_net::WayOut::plain_default().expect("a way out"),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    build("vault", &config, &context)
}

fn over(vault: &Vault, more: &str) -> Arc<dyn Resolver> {
    let path = aim_client();
    let path = path.display();
    resolver(&format!("path = '{path}'\napp_id = 'App'\nsafe = 'Apps'\nport = {}\n{more}", vault.port()))
}

/// A program that a test writes.
fn script(folder: &Path, lines: &str) -> PathBuf {
    let path = folder.join("client");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

async fn ask(resolver: &dyn Resolver, id: &str, address: Option<&str>) -> Result<Resolution, Failure> {
    let lookup = Lookup { credential_id: id.to_owned(), address: address.map(str::to_owned), fresh: false };
    resolver.resolve(&lookup, Duration::from_secs(30)).await.map_err(|error| *error.0)
}

async fn found(resolver: &dyn Resolver, id: &str) -> (String, String) {
    pair(&ask(resolver, id, None).await.expect("found"))
}

async fn refused(resolver: &dyn Resolver, id: &str) -> Failure {
    let failure = ask(resolver, id, None).await.expect_err("refused");
    assert!(!format!("{failure:?}").contains("p@ss"), "{failure:?}");
    failure
}

#[tokio::test]
async fn accounts_are_read_byte_for_byte_by_every_key() {
    let vault = vault();
    let crm = || ("client-1".to_owned(), SECRET.to_owned());
    let plain = over(&vault, "");
    assert_eq!((plain.kind(), plain.report()), ("cyberark_cli", ResolverReport::Ready));
    assert_eq!(found(&*plain, "crm").await, crm());
    assert_eq!(found(&*plain, "Other:crm").await, ("client-2".to_owned(), "other".to_owned()));
    assert_eq!(pair(&ask(&*plain, "", Some("crm.example")).await.expect("by address")), crm());
    let other = over(&vault, "separator = '~'\nlookup_by = 'both'");
    assert_eq!(pair(&ask(&*other, "Apps~crm", Some("crm.example")).await.expect("by both")), crm());
    let dual = over(&vault, "lookup_by = 'virtual_user_name'");
    assert_eq!(found(&*dual, "crm-dual").await, ("crm-a".to_owned(), "dual".to_owned()));
    assert_eq!(found(&*over(&vault, "lookup_by = 'user_name'"), "client-1").await, crm());
    let pattern = over(&vault, "query_format = 'regexp'");
    assert_eq!(found(&*pattern, "cr.").await, crm());

    let keyed = over(&vault, "client_id_property = 'ClientID'\ncontent = 'private_key'");
    let material = ask(&*keyed, "keyed", None).await.expect("found").material;
    let text = |field| material.field(field).and_then(|value| value.expose_str());
    assert_eq!(text(midward_core::MaterialField::ClientId), Some("keyed-client"));
    assert_eq!(text(midward_core::MaterialField::PrivateKey), Some("-----BEGIN KEY-----\nAA\n-----END KEY-----\n"));
}

#[tokio::test]
async fn what_the_vault_says_becomes_a_failure_of_its_kind() {
    let vault = vault();
    let plain = over(&vault, "");
    let said = async |id: &str| refused(&*plain, id).await.code;
    assert_eq!(said("nobody").await, "vault_not_found");
    vault.set_fault(VaultFault::Ambiguous, Some(1));
    assert_eq!(said("crm").await, "vault_ambiguous");
    vault.set_fault(VaultFault::EmptySecret, Some(1));
    assert_eq!(said("crm").await, "empty_secret");
    vault.set_fault(VaultFault::Dead, Some(1));
    assert_eq!(said("crm").await, "vault_unreachable");
    let before = vault.request_count();
    for bad in ["a;Safe=Other", "a\nb", "-a", "a:b:c:d", ""] {
        assert_eq!(said(bad).await, "invalid_credential_id", "{bad:?}");
    }
    assert_eq!(vault.request_count(), before, "nothing was asked");
    assert!(vault.set_change_in_process("Apps", "crm", true));
    assert!(ask(&*plain, "crm", None).await.expect("found").changing);
    assert_eq!(refused(&*over(&vault, "fail_on_password_change = true"), "crm").await.code, "vault_changing");
    assert_eq!(refused(&*over(&vault, "client_id_property = 'None'"), "crm").await.code, "empty_secret");
    vault.add_application(Application { clients: Some(vec!["sdk".to_owned()]), ..Application::new("Sdk", &["Apps"]) });
    let config = format!("path = '{}'\napp_id = 'Sdk'\nport = {}", aim_client().display(), vault.port());
    assert_eq!(refused(&*resolver(&config), "crm").await.code, "vault_denied");
}

#[tokio::test]
async fn a_program_that_misbehaves_gives_no_secret_and_is_ended() {
    let vault = vault();
    let plain = over(&vault, "timeout_ms = 3000");
    for (mode, code) in [
        (CliFault::ExitWithStdout, "vault_client_failed"),
        (CliFault::SecretOnStderr, "vault_error"),
        (CliFault::Huge, "vault_client_output"),
        (CliFault::Hang, "vault_client_timeout"),
    ] {
        vault.set_fault(VaultFault::Cli { mode }, Some(1));
        let failure = refused(&*plain, "crm").await;
        assert_eq!((failure.code.as_str(), failure.persistence), (code, Persistence::Transient), "{mode:?}");
    }
    // It wrote everything before it ended; the child that it left behind is ended with its group.
    vault.set_fault(VaultFault::Cli { mode: CliFault::ForkKeepsPipe }, Some(1));
    let begin = SystemClock.boot();
    assert_eq!(found(&*plain, "crm").await.1, SECRET);
    assert!(SystemClock.boot().saturating_since(begin) < Duration::from_secs(3));
}

#[tokio::test]
async fn nothing_of_a_program_outlives_its_deadline_or_its_caller() {
    let folder = tempfile::tempdir().expect("folder");
    let pids = folder.path().join("pids");
    let path =
        script(folder.path(), &format!("sleep 600 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display()));
    let slow = resolver(&format!("path = '{}'\ntimeout_ms = 2000", path.display()));
    let started = async || {
        while !pids.exists() {
            tokio::task::yield_now().await;
        }
        let text = std::fs::read_to_string(&pids).expect("two numbers");
        std::fs::remove_file(&pids).expect("removed");
        text.split_whitespace().map(|pid| PathBuf::from(format!("/proc/{pid}"))).collect::<Vec<_>>()
    };
    let gone = async |processes: Vec<PathBuf>| {
        let all = async {
            let runs =
                |path: &PathBuf| std::fs::read_to_string(path.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
            while processes.iter().any(runs) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), all).await.is_ok(), "still there: {processes:?}");
    };
    let (failure, processes) = tokio::join!(refused(&*slow, "crm"), started());
    assert_eq!(failure.code, "vault_client_timeout");
    gone(processes).await;

    let call = tokio::spawn({
        let slow = Arc::clone(&slow);
        async move { ask(&*slow, "crm", None).await.map(drop) }
    });
    let processes = started().await;
    call.abort();
    assert!(call.await.is_err_and(|error| error.is_cancelled()));
    gone(processes).await;
}

#[tokio::test]
async fn the_program_gets_its_arguments_and_no_environment_of_the_mid() {
    let folder = tempfile::tempdir().expect("folder");
    let seen = folder.path().join("seen");
    let path = script(folder.path(), &format!("{{ env; printf '[%s]\\n' \"$@\"; }} > {}; exit 1", seen.display()));
    let plain = resolver(&format!("path = '{}'\nsafe = 'S'\nenvironment_values = {{ AIM_X = 'y' }}", path.display()));
    assert_eq!(refused(&*plain, "crm").await.code, "vault_client_failed");
    let text = std::fs::read_to_string(&seen).expect("it ran");
    let names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let own = ["PWD", "SHLVL", "_", "OLDPWD", "LC_ALL", "AIM_X"];
    assert!(names.iter().all(|name| name.starts_with('[') || own.contains(name)), "{text}");
    assert!(text.contains("AIM_X=y") && text.contains("[Query=Safe=S;Folder=root;Object=crm]"), "{text}");
}

#[tokio::test]
async fn one_line_end_and_no_more_is_taken_off() {
    let folder = tempfile::tempdir().expect("folder");
    for (end, expected) in [("\\n", "secret"), ("\\r\\n", "secret"), ("\\n\\n", "secret\n"), ("", "secret")] {
        // The separator is the last argument.
        let lines = format!("for word; do d=$word; done; printf \"u${{d}}false${{d}}secret{end}\"");
        let path = script(folder.path(), &lines);
        let plain = resolver(&format!("path = '{}'", path.display()));
        assert_eq!(found(&*plain, "crm").await, ("u".to_owned(), expected.to_owned()), "{end}");
    }
}

#[tokio::test]
async fn a_client_that_is_not_there_shows_at_once_and_its_arrival_too() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("client");
    let absent = resolver(&format!("path = '{}'", path.display()));
    assert!(matches!(absent.report(), ResolverReport::Unusable(why) if why.contains("not installed")));
    assert_eq!(refused(&*absent, "crm").await.code, "vault_client_absent");
    script(folder.path(), "exit 1");
    assert_eq!(absent.report(), ResolverReport::Ready);
    let wrong = resolver("safe = 'a;Object=b'");
    assert!(matches!(wrong.report(), ResolverReport::Unusable(why) if why.contains("safe")));
}

#[tokio::test]
async fn programs_run_side_by_side_but_no_more_than_allowed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = script(folder.path(), "echo APPAP004E >&2; exit 1");
    let many = resolver(&format!("path = '{}'\nconcurrency = 4", path.display()));
    let calls = (0..32).map(|number| {
        let many = Arc::clone(&many);
        async move { refused(&*many, &format!("id-{number}")).await.code }
    });
    let codes = futures_util::future::join_all(calls).await;
    assert!(codes.iter().all(|code| code == "vault_not_found"), "{codes:?}");
    let hang = script(folder.path(), "sleep 600");
    let one = resolver(&format!("path = '{}'\nconcurrency = 1\ntimeout_ms = 1000", hang.display()));
    // The second has less patience than the first one's program, or the place would be free just when it gives up.
    let waiting = Lookup { credential_id: "b".to_owned(), address: None, fresh: false };
    let (first, second) = tokio::join!(refused(&*one, "a"), one.resolve(&waiting, Duration::from_millis(200)));
    assert_eq!(
        (first.code.as_str(), second.expect_err("no place").0.code.as_str()),
        ("vault_client_timeout", "resolver_busy")
    );
}
