//! `age_file`, with files that the age program made.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use midward_core::Persistence;
use midward_resolvers::{BoxFuture, Resolver, ResolverReport};
use serde_json::json;

use crate::conformance::{self, Trouble, Vault};
use crate::watch::Watch;
use crate::{failed, local, pair, resolved, write};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().expect("folder"));
        std::fs::create_dir(bench.0.path().join("vault")).expect("folder");
        bench.keygen("identity");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("vault/secrets.age")
    }

    /// Makes an identity; its recipient comes back.
    fn keygen(&self, name: &str) -> String {
        let output =
            Command::new("age-keygen").arg("-o").arg(self.path(name)).output().expect("age: make test installs it");
        let text = String::from_utf8(output.stderr).expect("text");
        text.trim().strip_prefix("Public key: ").expect("a recipient").to_owned()
    }

    fn recipient(&self, name: &str) -> String {
        let output = Command::new("age-keygen").arg("-y").arg(self.path(name)).output().expect("age-keygen");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Puts an encrypted document in the place of the one before.
    fn encrypt(&self, document: &str, args: &[&str]) {
        let new = self.path("new.age");
        let mut age = Command::new("age").args(args).arg("-o").arg(&new).stdin(Stdio::piped()).spawn().expect("age");
        age.stdin.take().expect("stdin").write_all(document.as_bytes()).expect("written");
        assert!(age.wait().expect("ended").success());
        std::fs::rename(new, self.file()).expect("renamed");
    }

    fn resolver(&self) -> Arc<dyn Resolver> {
        let (file, identity) = (self.file(), self.path("identity"));
        local(&format!("kind = 'age_file'\nfile = '{}'\nidentity_file = '{}'", file.display(), identity.display()))
    }
}

const TOML: &str = "[crm]\nclient_id = 'a'\nclient_secret = 'hunter2'\n\n[\"finance:crm\"]\nclient_id = 'b'\n\
                    private_key = '''\n-----BEGIN PRIVATE KEY-----\n'''\n";

#[tokio::test]
async fn files_of_the_age_program_are_read() {
    let bench = Bench::new();
    let (ours, other) = (bench.recipient("identity"), bench.keygen("other"));
    let resolver = bench.resolver();
    assert_eq!((resolver.kind(), resolver.report()), ("age_file", ResolverReport::Ready));
    for args in [&["-r", &ours][..], &["-a", "-r", &ours], &["-r", &other, "-r", &ours]] {
        bench.encrypt(TOML, args);
        assert_eq!(resolved(&*resolver, "crm").await, pair("a", "hunter2"), "{args:?}");
        assert_eq!(resolved(&*resolver, "finance:crm").await, pair("b", ""));
    }
    // More than one chunk of the format.
    let long = format!("#{}\n{TOML}", "x".repeat(200_000));
    bench.encrypt(&long, &["-r", &ours]);
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "hunter2"));
    assert_eq!(failed(&*resolver, "none").await.code, "vault_not_found");
}

#[tokio::test]
async fn what_was_altered_or_is_for_somebody_else_gives_nothing() {
    let bench = Bench::new();
    let (ours, other) = (bench.recipient("identity"), bench.keygen("other"));
    let resolver = bench.resolver();
    let code = async || {
        let failure = failed(&*resolver, "crm").await;
        assert_eq!(failure.persistence, Persistence::Permanent);
        failure.code
    };
    bench.encrypt(TOML, &["-r", &other]);
    assert_eq!(code().await, "age_file_undecryptable");
    bench.encrypt("hunter2", &["-r", &ours]);
    assert_eq!(code().await, "secret_not_understood");
    bench.encrypt(TOML, &["-r", &ours]);
    let whole = std::fs::read(bench.file()).expect("read");
    for place in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        std::fs::write(bench.file(), &altered).expect("written");
        assert_eq!(code().await, "age_file_undecryptable", "byte {place}");
    }
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(bench.file(), &whole[..length]).expect("written");
        assert_eq!(code().await, "age_file_undecryptable", "{length} bytes");
    }
    std::fs::write(bench.file(), [&whole[..], b"x"].concat()).expect("written");
    assert_eq!(code().await, "age_file_undecryptable");
    std::fs::write(bench.file(), TOML).expect("written");
    assert_eq!(code().await, "age_file_undecryptable");
}

#[tokio::test]
async fn an_identity_that_others_can_read_is_not_used() {
    let bench = Bench::new();
    let text = std::fs::read_to_string(bench.path("identity")).expect("read");
    write(&bench.path("identity"), &text, 0o644);
    let resolver = bench.resolver();
    assert!(matches!(resolver.report(), ResolverReport::Unusable(why) if why.contains("chmod 600")));
    assert_eq!(failed(&*resolver, "crm").await.code, "resolver_misconfigured");
    write(&bench.path("identity"), "hunter2", 0o600);
    assert_eq!(failed(&*bench.resolver(), "crm").await.code, "resolver_misconfigured");
}

struct Encrypted {
    bench: Bench,
    resolver: Arc<dyn Resolver>,
    records: Mutex<BTreeMap<String, (String, String)>>,
    watch: Watch,
}

impl Encrypted {
    fn store(&self, recipient: &str, emptied: Option<&str>) {
        let records = self.records.lock().expect("unpoisoned");
        let fields = records.iter().map(|(name, (id, secret))| {
            let secret = if emptied == Some(name) { "" } else { secret };
            (name.clone(), json!({"client_id": id, "client_secret": secret}))
        });
        let document = serde_json::Value::Object(fields.collect()).to_string();
        self.bench.encrypt(&document, &["-r", recipient]);
    }
}

impl Vault for Encrypted {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        self.records.lock().expect("unpoisoned").insert(name.to_owned(), pair(client_id, secret));
        self.store(&self.bench.recipient("identity"), None);
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Ambiguous => return Box::pin(async { Err("a document with a name twice is refused as a whole") }),
            Trouble::Slow => return Box::pin(async { Err("a file system of this machine answers") }),
            Trouble::Denied => self.store(&self.bench.recipient("other"), None),
            Trouble::Empty => self.store(&self.bench.recipient("identity"), Some(name)),
            Trouble::Dead => std::fs::remove_file(self.bench.file()).expect("removed"),
        }
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        self.store(&self.bench.recipient("identity"), None);
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.watch.opened()
    }

    fn code(&self, trouble: Trouble) -> &'static str {
        match trouble {
            Trouble::Denied => "age_file_undecryptable",
            Trouble::Empty => "empty_secret",
            Trouble::Dead => "vault_unreachable",
            _ => "vault_not_found",
        }
    }
}

#[tokio::test]
async fn age_file_conforms() {
    let bench = Bench::new();
    bench.keygen("other");
    let (resolver, watch) = (bench.resolver(), Watch::new());
    watch.folder(&bench.path("vault"));
    let vault = Encrypted { bench, resolver, records: Mutex::default(), watch };
    conformance::run(&vault, &[Trouble::Ambiguous, Trouble::Slow]).await;
}
