//! `files` and `systemd_credentials`.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use midward_core::{MaterialField, Persistence};
use midward_resolvers::{BoxFuture, Resolver, ResolverReport};

use crate::conformance::{self, Trouble, Vault};
use crate::watch::Watch;
use crate::{failed, field, local, pair, resolve, resolved, write};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().expect("folder"));
        std::fs::create_dir(bench.dir()).expect("folder");
        bench
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("secrets")
    }

    fn put(&self, id: &str, fields: &[(&str, &str)]) -> PathBuf {
        let folder = self.dir().join(id);
        std::fs::create_dir_all(&folder).expect("folder");
        for (name, value) in fields {
            write(&folder.join(name), value, 0o600);
        }
        folder
    }

    fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        local(&format!("kind = 'files'\ndir = '{}'\n{more}", self.dir().display()))
    }
}

#[tokio::test]
async fn a_folder_of_files_is_a_credential() {
    let bench = Bench::new();
    let folder = bench.put("crm", &[("client_id", "a\n"), ("client_secret", " s;\"'\r\n"), ("unknown", "x")]);
    let resolver = bench.resolver("");
    assert_eq!((resolver.kind(), resolver.report()), ("files", ResolverReport::Ready));
    // One line end is taken off, and nothing else.
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", " s;\"'"));
    write(&folder.join("client_secret"), "s\n\n", 0o400);
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "s\n"));
    bench.put("key", &[("private_key", "p"), ("certificate", "c"), ("key_id", "k")]);
    assert_eq!(failed(&*resolver, "key").await.code, "empty_secret");
    let found = resolve(&*bench.resolver("client_id = 'b'"), "key").await.expect("found");
    let names = [MaterialField::ClientId, MaterialField::PrivateKey, MaterialField::Certificate, MaterialField::KeyId];
    assert_eq!(names.map(|name| field(&found, name)), ["b", "p", "c", "k"]);
}

#[tokio::test]
async fn a_mounted_kubernetes_secret_is_read_and_its_new_version_as_a_whole() {
    let bench = Bench::new();
    let folder = bench.put("crm", &[]);
    let version = |name: &str, secret: &str| {
        let version = folder.join(name);
        std::fs::create_dir(&version).expect("folder");
        write(&version.join("client_id"), &format!("id of {secret}"), 0o600);
        write(&version.join("client_secret"), secret, 0o600);
        // As the kubelet does: a new link, renamed over the old one.
        symlink(name, folder.join("..data_tmp")).expect("link");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    };
    version("..2026_11_27_06_30_00.1", "one");
    for name in ["client_id", "client_secret"] {
        symlink(format!("..data/{name}"), folder.join(name)).expect("link");
    }
    let resolver = bench.resolver("");
    assert_eq!(resolved(&*resolver, "crm").await, pair("id of one", "one"));
    version("..2026_11_27_06_31_00.2", "two");
    std::fs::remove_dir_all(folder.join("..2026_11_27_06_30_00.1")).expect("removed");
    assert_eq!(resolved(&*resolver, "crm").await, pair("id of two", "two"));
}

#[tokio::test]
async fn no_link_leads_out_of_a_credentials_folder() {
    let bench = Bench::new();
    bench.put("other", &[("client_id", "b"), ("client_secret", "hunter2")]);
    write(&bench.0.path().join("outside"), "hunter2", 0o600);
    let outside = bench.0.path().join("outside");
    let resolver = bench.resolver("");
    for (number, target) in
        [Path::new("../other/client_secret"), Path::new("../../outside"), &outside, Path::new("/etc/hostname")]
            .iter()
            .enumerate()
    {
        let id = format!("crm-{number}");
        let folder = bench.put(&id, &[("client_id", "a")]);
        symlink(target, folder.join("client_secret")).expect("link");
        let failure = failed(&*resolver, &id).await;
        assert_eq!(
            (failure.code.as_str(), failure.persistence),
            ("secret_file_refused", Persistence::Permanent),
            "{target:?}"
        );
    }
    symlink(bench.0.path(), bench.dir().join("away")).expect("link");
    assert_eq!(failed(&*resolver, "away").await.code, "secret_file_refused");
    // Inside it, links are fine.
    let folder = bench.put("inside", &[("client_id", "a"), ("current", "s")]);
    symlink("current", folder.join("client_secret")).expect("link");
    assert_eq!(resolved(&*resolver, "inside").await, pair("a", "s"));
}

#[tokio::test]
async fn what_others_can_read_or_change_is_not_used() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    let folder = bench.put("crm", &[("client_id", "a"), ("client_secret", "hunter2")]);
    let file = folder.join("client_secret");
    for mode in [0o604, 0o640, 0o602, 0o620, 0o444] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mode");
        let failure = failed(&*resolver, "crm").await;
        assert_eq!(failure.code, "secret_file_refused", "{mode:o}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).expect("mode");
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "hunter2"));
}

#[tokio::test]
async fn what_is_no_file_is_not_read() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    let folder = bench.put("crm", &[("client_id", "a")]);
    let file = folder.join("client_secret");
    std::fs::create_dir(&file).expect("folder");
    assert_eq!(failed(&*resolver, "crm").await.code, "secret_file_refused");
    std::fs::remove_dir(&file).expect("removed");
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a pipe");
    assert_eq!(failed(&*resolver, "crm").await.code, "secret_file_refused");
    std::fs::remove_file(&file).expect("removed");
    write(&file, &"x".repeat(64 * 1024 + 1), 0o600);
    assert!(failed(&*resolver, "crm").await.detail.contains("64 KiB"));
    for id in ["", ".", "..", "../secrets/crm", "crm/client_id", ".hidden"] {
        assert_eq!(failed(&*resolver, id).await.code, "invalid_credential_id", "{id}");
    }
    assert_eq!(failed(&*local("kind = 'files'\ndir = 'secrets'"), "crm").await.code, "resolver_misconfigured");
}

/// Runs in a process of its own, because a variable must be set before it begins.
#[tokio::test]
async fn systemd_credentials_are_read() {
    let section = "kind = 'systemd_credentials'";
    let Some(dir) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) else {
        let without = local(section);
        assert_eq!(failed(&*without, "crm").await.code, "resolver_misconfigured");
        assert!(matches!(without.report(), ResolverReport::Unusable(_)));
        let folder = tempfile::tempdir().expect("folder");
        for (name, value) in [("crm_client_id", "a"), ("crm_client_secret", "s"), ("hunter_client_id", "x")] {
            write(&folder.path().join(name), value, 0o400);
        }
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "files::systemd_credentials_are_read"]).env("CREDENTIALS_DIRECTORY", folder.path());
        let output = again.output().expect("ran");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        assert!(folder.path().join("seen").exists());
        return;
    };
    let resolver = local(section);
    assert_eq!((resolver.kind(), resolved(&*resolver, "crm").await), ("systemd_credentials", pair("a", "s")));
    assert_eq!(failed(&*resolver, "hunter").await.code, "empty_secret");
    assert_eq!(failed(&*resolver, "hunter_client").await.code, "vault_not_found");
    write(&dir.join("seen"), "", 0o600);
}

struct Folder {
    bench: Bench,
    resolver: Arc<dyn Resolver>,
    watch: Watch,
}

impl Folder {
    fn away(&self) -> PathBuf {
        self.bench.0.path().join("away")
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.bench.dir().join(name).join("client_secret")
    }
}

impl Vault for Folder {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        let folder = self.bench.put(name, &[("client_id", client_id), ("client_secret", secret)]);
        self.watch.folder(&folder);
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let file = self.secret(name);
        match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Ambiguous => return Box::pin(async { Err("a folder has no two entries of one name") }),
            Trouble::Slow => return Box::pin(async { Err("a file system of this machine answers") }),
            Trouble::Denied => {
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).expect("mode");
            }
            Trouble::Empty => {
                std::fs::rename(&file, file.with_extension("kept")).expect("renamed");
                write(&file, "", 0o600);
            }
            Trouble::Dead => std::fs::rename(self.bench.dir(), self.away()).expect("renamed"),
        }
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        if self.away().exists() {
            std::fs::rename(self.away(), self.bench.dir()).expect("renamed");
        }
        let (file, kept) = (self.secret(name), self.secret(name).with_extension("kept"));
        if kept.exists() {
            std::fs::rename(kept, &file).expect("renamed");
        }
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("mode");
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.watch.opened()
    }

    fn code(&self, trouble: Trouble) -> &'static str {
        match trouble {
            Trouble::Denied => "secret_file_refused",
            Trouble::Empty => "empty_secret",
            Trouble::Dead => "vault_unreachable",
            _ => "vault_not_found",
        }
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["", ".", "a/b", "..data", ".x"]
    }
}

#[tokio::test]
async fn files_conform() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    let folder = Folder { bench, resolver, watch: Watch::new() };
    conformance::run(&folder, &[Trouble::Ambiguous, Trouble::Slow]).await;
}
