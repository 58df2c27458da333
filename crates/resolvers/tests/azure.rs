//! `azure_key_vault` against a stand-in for Key Vault, Entra ID and a machine's metadata service.

#[path = "support/conformance.rs"]
mod conformance;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use conformance::{Trouble, Vault};
use midward_core::{Failure, MaterialField, Persistence, SystemClock, SystemRandom};
use midward_fakes::HttpFault;
use midward_fakes::azure_key_vault::{AzureKeyVault, CLIENT, FEDERATED_TOKEN, Registered, TENANT};
use midward_fakes::instance_metadata::InstanceMetadata;
use midward_fakes::tls::{Ca, Tls};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{
    BoxFuture, Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, ResolverReport, build,
};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use sha2::{Digest as _, Sha256};

/// A vault with a private CA, and resolvers that trust it.
struct Bench {
    folder: tempfile::TempDir,
    vault: AzureKeyVault,
    way: WayOut,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ca = Arc::new(Ca::generate("vault CA").expect("CA"));
        let vault = AzureKeyVault::start(Tls::Server(Arc::clone(&ca))).expect("vault");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        let config = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
        let way = WayOut::new(&config, folder.path()).expect("a way out");
        Self { folder, vault, way }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    /// Signs in with a workload's token.
    fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        self.with_token(FEDERATED_TOKEN, more)
    }

    fn with_token(&self, token: &str, more: &str) -> Arc<dyn Resolver> {
        let file = self.write("token", token);
        let credentials = format!(
            "source = 'workload_identity'\ntenant_id = '{TENANT}'\nclient_id = '{CLIENT}'\ntoken_file = '{}'\nauthority = '{}'",
            file.display(),
            self.vault.url()
        );
        self.with_credentials(&format!("verify_challenge_resource = false\n{more}"), &credentials)
    }

    fn with_credentials(&self, more: &str, credentials: &str) -> Arc<dyn Resolver> {
        self.at(&self.vault.url(), more, credentials)
    }

    fn at(&self, url: &str, more: &str, credentials: &str) -> Arc<dyn Resolver> {
        let text = format!("kind = 'azure_key_vault'\nvault_url = '{url}'\n{more}\n[credentials]\n{credentials}");
        let config: ResolverConfig = toml::from_str(&text).expect("configuration");
        let context = ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: self.folder.path().to_owned(),
            trampoline: Vec::new(),
            java: "/nowhere".into(),
            vaults: self.way.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        build("azure", &config, &context)
    }
}

async fn resolve(resolver: &Arc<dyn Resolver>, id: &str) -> Result<Resolution, Failure> {
    within(resolver, id, Duration::from_secs(60)).await
}

async fn within(resolver: &Arc<dyn Resolver>, id: &str, deadline: Duration) -> Result<Resolution, Failure> {
    let lookup = Lookup { credential_id: id.to_owned(), address: None, fresh: false };
    resolver.resolve(&lookup, deadline).await.map_err(|error| *error.0)
}

fn pair(resolution: &Resolution) -> (&str, &str) {
    let text = |field| resolution.material.field(field).and_then(|value| value.expose_str()).unwrap_or_default();
    (text(MaterialField::ClientId), text(MaterialField::ClientSecret))
}

fn value(id: &str, secret: &str) -> String {
    serde_json::json!({"client_id": id, "client_secret": secret}).to_string()
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
            Trouble::Denied => vault.forbid(name),
            Trouble::Empty => drop(vault.put(name, &value("client-empty", ""))),
            Trouble::Slow => vault.set_fault(HttpFault::Hang),
            Trouble::Dead => vault.set_fault(HttpFault::DropAfterRead),
        }
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.bench.vault.clear_fault();
        self.bench.vault.put(name, &self.kept.lock().expect("unpoisoned")[name]);
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.bench.vault.asked().len()
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["a/b", "a b", "é", "", "a%2f"]
    }
}

#[tokio::test]
async fn azure_key_vault_conforms() {
    let bench = Bench::new();
    let resolver = bench.resolver("timeout_ms = 60000");
    conformance::run(&Conforming { bench, resolver, kept: Mutex::default() }, &[Trouble::Ambiguous]).await;
}

#[tokio::test]
async fn a_secret_is_read_whole_and_its_rotation_is_seen() {
    let bench = Bench::new();
    let long = "é;\"'%+&, :\u{1F512}".repeat(256);
    let first = bench.vault.put("crm", &value("midward", &long));
    let resolver = bench.resolver("");
    assert_eq!((resolver.kind(), resolver.report()), ("azure_key_vault", ResolverReport::Ready));
    let found = resolve(&resolver, "crm").await.expect("found");
    assert_eq!(pair(&found), ("midward", long.as_str()));
    assert_eq!(found.trace.0[0].what, format!("Azure Key Vault answered (version {first})"));

    let second = bench.vault.put("crm", "only the secret");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("no client id").code, "empty_secret");
    let plain = bench.resolver("client_id = 'midward'");
    let rotated = resolve(&plain, "crm").await.expect("found");
    assert_eq!(pair(&rotated), ("midward", "only the secret"));
    assert!(rotated.trace.0[0].what.contains(&second));
}

#[tokio::test]
async fn one_access_token_serves_many_look_ups() {
    let bench = Bench::new();
    for n in 0..64 {
        bench.vault.put(&format!("id-{n}"), &value(&format!("c-{n}"), &format!("s-{n}")));
    }
    let resolver = bench.resolver("");
    resolve(&resolver, "id-0").await.expect("found");
    let calls = (0..64).map(|n| {
        let resolver = Arc::clone(&resolver);
        async move {
            let found = resolve(&resolver, &format!("id-{n}")).await.expect("found");
            assert_eq!(pair(&found), (format!("c-{n}").as_str(), format!("s-{n}").as_str()));
        }
    });
    futures_util::future::join_all(calls).await;
    let tokens = bench.vault.asked().into_iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn an_application_signs_in_with_its_certificate() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("midward", "s"));
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("key");
    let certificate = CertificateParams::new(Vec::<String>::new()).expect("params").self_signed(&key).expect("signed");
    let files = (bench.write("cert.pem", &certificate.pem()), bench.write("key.pem", &key.serialize_pem()));
    let credentials = format!(
        "source = 'client_certificate'\ntenant_id = '{TENANT}'\nclient_id = '{CLIENT}'\ncertificate_file = '{}'\nkey_file = \
         '{}'\nauthority = '{}'",
        files.0.display(),
        files.1.display(),
        bench.vault.url()
    );
    let resolver = bench.with_credentials("verify_challenge_resource = false", &credentials);
    let refused = resolve(&resolver, "crm").await.expect_err("not registered");
    assert_eq!((refused.code.as_str(), refused.persistence), ("vault_login_refused", Persistence::Permanent));
    assert!(refused.detail.contains("Microsoft Entra ID") && !refused.detail.contains("canary"), "{refused}");

    let thumbprint = Sha256::digest(certificate.der());
    let thumbprint = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(thumbprint);
    bench.vault.register(Registered { public_key: key.public_key_pem(), thumbprint });
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("registered")), ("midward", "s"));
}

#[tokio::test]
async fn a_machines_identity_comes_from_the_configured_service() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("midward", "s"));
    let metadata = InstanceMetadata::start().expect("server");
    let credentials = format!("source = 'managed_identity'\nclient_id = 'user-1'\nendpoint = '{}'", metadata.url());
    let resolver = bench.with_credentials("verify_challenge_resource = false", &credentials);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    let asked = metadata.asked();
    assert_eq!(asked.len(), 1);
    for part in ["GET /metadata/identity/oauth2/token?", "resource=https%3A%2F%2Fvault.azure.net", "client_id=user-1"] {
        assert!(asked[0].contains(part), "{asked:?}");
    }
    metadata.set_fault(HttpFault::Html200);
    let resolver = bench.with_credentials("verify_challenge_resource = false", &credentials);
    assert_eq!(resolve(&resolver, "crm").await.expect_err("a page").code, "vault_answer_invalid");
}

#[tokio::test]
async fn what_is_missing_disabled_or_forbidden_is_said_so() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    let missing = resolve(&resolver, "none").await.expect_err("there is none");
    assert_eq!((missing.code.as_str(), missing.persistence), ("vault_not_found", Persistence::Permanent));
    bench.vault.put("crm", &value("a", "b"));
    bench.vault.disable("crm");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("disabled").code, "vault_secret_disabled");
    bench.vault.forbid("crm");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("forbidden").code, "vault_denied");
    let stranger = bench.with_token("another.token", "");
    assert_eq!(resolve(&stranger, "crm").await.expect_err("stranger").code, "vault_login_refused");
}

#[tokio::test]
async fn a_vault_whose_challenge_is_for_another_domain_gets_no_token() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "b"));
    let file = bench.write("token", FEDERATED_TOKEN);
    let credentials = format!(
        "source = 'workload_identity'\ntenant_id = '{TENANT}'\nclient_id = '{CLIENT}'\ntoken_file = '{}'\nauthority = '{}'",
        file.display(),
        bench.vault.url()
    );
    let resolver = bench.with_credentials("", &credentials);
    assert!(resolve(&resolver, "crm").await.is_err());
    assert!(!bench.vault.asked().iter().any(|line| line.starts_with("POST")), "{:?}", bench.vault.asked());
}

#[tokio::test]
async fn identifiers_that_could_ask_for_something_else_ask_nothing() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    for bad in ["a;b", "a\"b", "a\nb", "a\0b", "../a", "a/../b", "a/b", "a?b", "-a", "", "é", &"a".repeat(161)] {
        assert_eq!(resolve(&resolver, bad).await.expect_err(bad).code, "invalid_credential_id");
    }
    assert!(bench.vault.asked().is_empty());
}

#[tokio::test]
async fn answers_that_no_vault_gives_are_failures_without_their_text() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("a", "canary-b"));
    let resolver = bench.resolver("timeout_ms = 2000");
    resolve(&resolver, "crm").await.expect("found");
    let json = |status, body: &str| HttpFault::Respond { status, headers: Vec::new(), body: body.to_owned() };
    let faults = [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Empty200, "vault_answer_invalid"),
        (json(200, r#"{"value":7}"#), "vault_answer_invalid"),
        (json(200, r#"{"id":"x"}"#), "empty_secret"),
        (json(404, "canary: a proxy's page"), "vault_answer_invalid"),
        (json(400, r#"{"error":{"code":"BadParameter","message":"canary"}}"#), "vault_bad_request"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::Redirect { location: "http://127.0.0.1:1/".into() }, "vault_answer_invalid"),
        (HttpFault::Large { bytes: 4 << 20 }, "vault_answer_invalid"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ];
    for (fault, code) in faults {
        bench.vault.set_fault(fault.clone());
        let failure = resolve(&resolver, "crm").await.expect_err("no secret");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn a_broken_token_endpoint_is_said_so() {
    let busy = r#"{"error":"temporarily_unavailable","error_description":"canary","error_codes":[90033],"timestamp":"2026-01-01
        00:00:00Z","trace_id":"t","correlation_id":"c"}"#;
    for (fault, code) in [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Error500, "vault_answer_invalid"),
        (
            HttpFault::Respond { status: 503, headers: Vec::new(), body: busy.replace("\n        ", " ") },
            "vault_unavailable",
        ),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ] {
        let bench = Bench::new();
        bench.vault.put("crm", &value("a", "b"));
        bench.vault.set_token_fault(fault.clone());
        let resolver = bench.resolver("timeout_ms = 2000");
        let failure = resolve(&resolver, "crm").await.expect_err("no token");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
    }
}

#[tokio::test]
async fn the_callers_deadline_holds_and_an_unknown_ca_is_not_trusted() {
    let mut bench = Bench::new();
    bench.vault.set_fault(HttpFault::Hang);
    let resolver = bench.resolver("");
    let late = within(&resolver, "crm", Duration::from_millis(50)).await.expect_err("late");
    assert_eq!((late.code.as_str(), late.persistence), ("vault_timeout", Persistence::Transient));
    bench.way = WayOut::plain_default().expect("a way out");
    let untrusting = bench.resolver("");
    assert_eq!(resolve(&untrusting, "crm").await.expect_err("unknown CA").code, "vault_tls");
}

#[tokio::test]
async fn settings_that_cannot_work_make_the_resolver_unusable_with_the_reason() {
    let bench = Bench::new();
    let file = bench.write("key.pem", "no key");
    let file = file.display();
    let application = format!("tenant_id = '{TENANT}'\nclient_id = '{CLIENT}'");
    for (url, credentials) in [
        ("http://vault.example", "source = 'managed_identity'".to_owned()),
        ("https://v.example/?q", "source = 'managed_identity'".to_owned()),
        ("https://v.example", "source = 'managed_identity'\nendpoint = 'http://metadata.example'".to_owned()),
        ("https://v.example", format!("source = 'workload_identity'\n{application}\ntoken_file = '/nowhere/token'")),
        (
            "https://v.example",
            format!("source = 'workload_identity'\ntenant_id = 'a/b'\nclient_id = 'c'\ntoken_file = '{file}'"),
        ),
        (
            "https://v.example",
            format!("source = 'client_certificate'\n{application}\ncertificate_file = '{file}'\nkey_file = '{file}'"),
        ),
    ] {
        let resolver = bench.at(url, "", &credentials);
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)), "{url} {credentials}");
        assert_eq!(resolve(&resolver, "crm").await.expect_err("unusable").code, "resolver_misconfigured");
    }
}

#[tokio::test]
async fn the_sdks_own_trace_messages_are_not_written() {
    let bench = Bench::new();
    bench.vault.put("crm", &value("midward", "canary-hunter2"));
    let resolver = bench.resolver("");
    let written = Arc::new(Mutex::new(Vec::new()));
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(Written(Arc::clone(&written)))
        .finish();
    let guard = tracing::subscriber::set_default(log);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")).1, "canary-hunter2");
    resolve(&resolver, "none").await.expect_err("there is none");
    drop(guard);
    let text = String::from_utf8(written.lock().expect("unpoisoned").clone()).expect("text");
    assert!(text.contains("vault_not_found"), "the log is not seen: {text}");
    assert!(!text.contains("canary") && !text.contains(FEDERATED_TOKEN) && !text.contains("entra-access"), "{text}");
}

#[derive(Clone)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
