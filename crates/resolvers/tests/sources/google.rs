//! `google_secret_manager` against a stand-in for Secret Manager, the token endpoint and a machine's metadata service.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::Persistence;
use midward_fakes::HttpFault;
use midward_fakes::google_secret_manager::{CLIENT_EMAIL, GoogleSecretManager, KEY_ID, PROJECT};
use midward_fakes::instance_metadata::InstanceMetadata;
use midward_fakes::tls::{Ca, Tls};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{BoxFuture, Resolver, ResolverReport};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use crate::conformance::{self, Trouble, Vault};
use crate::{failed, pair, resolve, resolved, resolver, within, write};

/// A vault with a private CA, and resolvers that trust it.
struct Bench {
    folder: tempfile::TempDir,
    vault: GoogleSecretManager,
    way: WayOut,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ca = Arc::new(Ca::generate("vault CA").expect("CA"));
        let vault = GoogleSecretManager::start(Tls::Server(Arc::clone(&ca))).expect("vault");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        let config = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
        let way = WayOut::new(&config, folder.path()).expect("a way out");
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        vault.register(&key.public_key_pem());
        let bench = Self { folder, vault, way };
        bench.key_file("service_account", &key.serialize_pem());
        bench
    }

    fn key_file(&self, kind: &str, pem: &str) -> PathBuf {
        let text = json!({
            "type": kind,
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": pem,
            "client_email": CLIENT_EMAIL,
            // Not where the assertion goes.
            "token_uri": "https://127.0.0.1:1/token",
        });
        write(&self.folder.path().join("key.json"), &text.to_string(), 0o600)
    }

    fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        let file = self.folder.path().join("key.json");
        let credentials = format!(
            "source = 'service_account_key'\nfile = '{}'\ntoken_url = '{}'",
            file.display(),
            self.vault.token_url()
        );
        self.signed_in(more, &credentials)
    }

    fn signed_in(&self, more: &str, credentials: &str) -> Arc<dyn Resolver> {
        let url = self.vault.url();
        let text = format!(
            "kind = 'google_secret_manager'\nproject = '{PROJECT}'\nendpoint = '{url}'\n{more}\n[credentials]\n{credentials}"
        );
        resolver(&text, self.way.clone())
    }

    fn tokens_asked(&self) -> usize {
        self.vault.asked().iter().filter(|line| *line == "POST /token").count()
    }
}

fn value(id: &str, secret: &str) -> String {
    json!({"client_id": id, "client_secret": secret}).to_string()
}

#[tokio::test]
async fn a_secret_is_read_whole_and_its_rotation_is_seen() {
    let bench = Bench::new();
    let long = "é;\"'%+&, :\u{1F512}".repeat(256);
    bench.vault.put("crm", &value("midward", &long));
    let resolver = bench.resolver("");
    assert_eq!((resolver.kind(), resolver.report()), ("google_secret_manager", ResolverReport::Ready));
    assert_eq!(resolved(&*resolver, "crm").await, pair("midward", &long));
    bench.vault.put("crm", "only the secret");
    assert_eq!(failed(&*resolver, "crm").await.code, "empty_secret");
    let plain = resolve(&*bench.resolver("client_id = 'midward'"), "crm").await.expect("found");
    assert_eq!(plain.trace.0[0].what, "Google Secret Manager answered (version 2)");
    assert_eq!(resolved(&*bench.resolver("client_id = 'm'"), "crm").await, pair("m", "only the secret"));
    assert_eq!(failed(&*bench.resolver("secret_version = '1'"), "crm").await.code, "vault_not_found");
    assert_eq!(resolved(&*bench.resolver("client_id = 'm'\nlocation = 'europe-west3'"), "crm").await.0, "m");
    assert!(
        bench
            .vault
            .asked()
            .contains(&format!("GET /v1/projects/{PROJECT}/locations/europe-west3/secrets/crm/versions/latest:access"))
    );
}

#[tokio::test]
async fn one_access_token_serves_many_look_ups_and_a_revoked_one_is_replaced() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "b"));
    let resolver = bench.resolver("");
    let both = || async { tokio::join!(resolved(&*resolver, "crm"), resolved(&*resolver, "crm")) };
    assert_eq!(both().await, (pair("a", "b"), pair("a", "b")));
    assert_eq!(bench.tokens_asked(), 1);
    bench.vault.revoke_tokens();
    assert_eq!(both().await, (pair("a", "b"), pair("a", "b")));
    assert_eq!(bench.tokens_asked(), 2);
    // A new one is shown once, not for ever.
    bench.vault.set_fault(HttpFault::Respond { status: 401, headers: Vec::new(), body: "canary".into() });
    assert_eq!(failed(&*resolver, "crm").await.code, "vault_login_refused");
    assert_eq!(bench.tokens_asked(), 3);
}

#[tokio::test]
async fn a_machine_signs_in_by_its_metadata_service() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "b"));
    let metadata = InstanceMetadata::start().expect("metadata service");
    let credentials = format!("source = 'metadata'\nendpoint = '{}'", metadata.url());
    assert_eq!(resolved(&*bench.signed_in("", &credentials), "crm").await, pair("a", "b"));
    assert_eq!(metadata.asked(), ["GET /computeMetadata/v1/instance/service-accounts/default/token"]);
    let stranger = bench.signed_in("", &format!("{credentials}\nservice_account = 'other@crm-prod.iam'"));
    assert_eq!(failed(&*stranger, "crm").await.code, "vault_answer_invalid");
    // An answer that does not say that it is Google's.
    let body = r#"{"access_token":"x","expires_in":1,"token_type":"Bearer"}"#;
    metadata.set_fault(HttpFault::Respond { status: 200, headers: Vec::new(), body: body.into() });
    assert_eq!(failed(&*bench.signed_in("", &credentials), "crm").await.code, "vault_answer_invalid");
}

#[tokio::test]
async fn a_key_that_google_does_not_know_is_refused() {
    let bench = Bench::new();
    let other = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    bench.key_file("service_account", &other.serialize_pem());
    let failure = failed(&*bench.resolver(""), "crm").await;
    assert_eq!((failure.code.as_str(), failure.persistence), ("vault_login_refused", Persistence::Permanent));
    for (fault, code) in [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ] {
        bench.vault.set_token_fault(fault.clone());
        assert_eq!(failed(&*bench.resolver("timeout_ms = 2000"), "crm").await.code, code, "{fault:?}");
    }
    assert!(!bench.vault.asked().iter().any(|line| line.starts_with("GET")), "asked without a token");
}

#[tokio::test]
async fn answers_that_no_vault_gives_are_failures_without_their_text() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "canary-b"));
    let resolver = bench.resolver("timeout_ms = 2000");
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "canary-b"));
    let json = |status, body: &str| HttpFault::Respond { status, headers: Vec::new(), body: body.to_owned() };
    let wrong_sum = r#"{"name":"n/versions/1","payload":{"data":"Y2FuYXJ5","dataCrc32c":"1"}}"#;
    for (fault, code) in [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Empty200, "vault_answer_invalid"),
        (json(200, r#"{"payload":{"data":7}}"#), "vault_answer_invalid"),
        (json(200, wrong_sum), "vault_answer_invalid"),
        (json(404, "canary: a proxy's page"), "vault_answer_invalid"),
        (json(403, "canary: a proxy's page"), "vault_answer_invalid"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::Redirect { location: "http://127.0.0.1:1/".into() }, "vault_answer_invalid"),
        (HttpFault::Large { bytes: 4 << 20 }, "vault_answer_invalid"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ] {
        bench.vault.set_fault(fault.clone());
        let failure = failed(&*resolver, "crm").await;
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn the_callers_deadline_holds_and_an_unknown_ca_is_not_trusted() {
    let mut bench = Bench::new();
    bench.vault.set_token_fault(HttpFault::Hang);
    let late = within(&*bench.resolver(""), "crm", Duration::from_millis(50)).await.expect_err("late");
    assert_eq!((late.code.as_str(), late.persistence), ("vault_timeout", Persistence::Transient));
    bench.way = WayOut::plain_default().expect("a way out");
    assert_eq!(failed(&*bench.resolver(""), "crm").await.code, "vault_tls");
}

#[tokio::test]
async fn settings_that_cannot_work_make_the_resolver_unusable_with_the_reason() {
    let bench = Bench::new();
    let key = |kind: &str, pem: &str| {
        let file = bench.key_file(kind, pem);
        format!("source = 'service_account_key'\nfile = '{}'", file.display())
    };
    let check = async |more: &str, credentials: &str| {
        let text = format!("kind = 'google_secret_manager'\n{more}\n[credentials]\n{credentials}");
        let resolver = resolver(&text, bench.way.clone());
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)), "{text}");
        assert_eq!(failed(&*resolver, "crm").await.code, "resolver_misconfigured", "{text}");
    };
    let metadata = "source = 'metadata'";
    check("project = 'a/b'", metadata).await;
    check("project = ''", metadata).await;
    check("project = 'a'\nlocation = 'x/y'", metadata).await;
    check("project = 'a'\nsecret_version = '1:destroy?'", metadata).await;
    check("project = 'a'\nendpoint = 'http://vault.example'", metadata).await;
    check("project = 'a'", "source = 'metadata'\nservice_account = 'a/b'").await;
    check("project = 'a'", "source = 'metadata'\nendpoint = 'http://metadata.example'").await;
    check("project = 'a'", &key("service_account", "hunter2")).await;
    check("project = 'a'", &key("external_account", "hunter2")).await;
    check("project = 'a'", "source = 'service_account_key'\nfile = '/nowhere/key'").await;
    let file = write(&bench.folder.path().join("key.json"), "{\"type\":\"hunter2", 0o600);
    check("project = 'a'", &format!("source = 'service_account_key'\nfile = '{}'", file.display())).await;
}

struct Conforming {
    bench: Bench,
    resolver: Arc<dyn Resolver>,
    kept: Mutex<HashMap<String, String>>,
}

impl Vault for Conforming {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        let value = value(client_id, secret);
        self.bench.vault.put(name, &value);
        self.kept.lock().expect("unpoisoned").insert(name.to_owned(), value);
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let vault = &self.bench.vault;
        match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Ambiguous => return Box::pin(async { Err("the name is the secret's path in the URL") }),
            Trouble::Denied => vault.forbid(name, true),
            Trouble::Empty => drop(vault.put(name, &value("client-empty", ""))),
            Trouble::Slow => vault.set_fault(HttpFault::Hang),
            Trouble::Dead => vault.set_fault(HttpFault::DropAfterRead),
        }
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.bench.vault.clear_faults();
        self.bench.vault.put(name, &self.kept.lock().expect("unpoisoned")[name]);
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.bench.vault.asked().len()
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["a/b", "a b", "é", "", "a%2f", "a:b"]
    }
}

#[tokio::test]
async fn google_secret_manager_conforms() {
    let bench = Bench::new();
    let resolver = bench.resolver("timeout_ms = 60000");
    conformance::run(&Conforming { bench, resolver, kept: Mutex::default() }, &[Trouble::Ambiguous]).await;
}

#[tokio::test]
async fn a_disabled_version_is_said_so() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "b"));
    bench.vault.disable("crm", true);
    let resolver = bench.resolver("");
    assert_eq!(failed(&*resolver, "crm").await.code, "vault_secret_disabled");
    bench.vault.disable("crm", false);
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "b"));
}
