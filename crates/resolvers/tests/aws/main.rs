//! `aws_secrets_manager` against moto's server, and against answers that no vault gives.

#[path = "../support/conformance.rs"]
mod conformance;
mod conforms;
#[path = "../support/door.rs"]
mod door;
mod moto;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{Failure, MaterialField, Persistence, SystemClock, SystemRandom};
use midward_fakes::HttpFault;
use midward_fakes::any_http::AnyHttp;
use midward_fakes::instance_metadata::InstanceMetadata;
use midward_fakes::tls::{Ca, Tls};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, ResolverReport, build};
use moto::Moto;
use serde_json::json;

/// A folder with an access key in it, and resolvers that use it.
struct Bench {
    folder: tempfile::TempDir,
    way: WayOut,
}

impl Bench {
    fn new() -> Self {
        let bench =
            Self { folder: tempfile::tempdir().expect("folder"), way: WayOut::plain_default().expect("a way out") };
        bench.write("aws", "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = key/of+default\n");
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    fn resolver(&self, endpoint: &str, more: &str) -> Arc<dyn Resolver> {
        let file = self.folder.path().join("aws");
        self.with_credentials(endpoint, more, &format!("source = 'profile_file'\nfile = '{}'", file.display()))
    }

    fn with_credentials(&self, endpoint: &str, more: &str, credentials: &str) -> Arc<dyn Resolver> {
        let text = format!(
            "kind = 'aws_secrets_manager'\nregion = 'eu-central-1'\nendpoint = '{endpoint}'\n{more}\n[credentials]\n{credentials}"
        );
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
        build("aws", &config, &context)
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

#[tokio::test]
async fn a_secret_is_read_whole_and_its_rotation_is_seen() {
    let (moto, bench) = (Moto::start(), Bench::new());
    let long = "é;\"'%+&, :\u{1F512}".repeat(256);
    let first = moto.create("prod/crm", &json!({"client_id": "midward", "client_secret": long})).await;
    let resolver = bench.resolver(&moto.url, "timeout_ms = 60000");
    assert_eq!((resolver.kind(), resolver.report()), ("aws_secrets_manager", ResolverReport::Ready));

    let found = resolve(&resolver, "prod/crm").await.expect("found");
    assert_eq!(pair(&found), ("midward", long.as_str()));
    assert_eq!(found.trace.0[0].what, format!("AWS Secrets Manager answered (version {first})"));

    let second = moto.put("prod/crm", &json!({"client_id": "midward", "client_secret": "new"})).await;
    let rotated = resolve(&resolver, "prod/crm").await.expect("found");
    assert_eq!(pair(&rotated), ("midward", "new"));
    assert!(rotated.trace.0[0].what.contains(&second));
    let previous = bench.resolver(&moto.url, "timeout_ms = 60000\nversion_stage = 'AWSPREVIOUS'");
    assert_eq!(pair(&resolve(&previous, "prod/crm").await.expect("found")).1, long);
}

#[tokio::test]
async fn a_plain_secret_and_fields_of_other_names_are_read() {
    let (moto, bench) = (Moto::start(), Bench::new());
    moto.create("plain", &json!("only the secret")).await;
    moto.create("named", &json!({"user": "u", "pw": "p"})).await;
    let with_id = bench.resolver(&moto.url, "timeout_ms = 60000\nclient_id = 'midward'");
    assert_eq!(pair(&resolve(&with_id, "plain").await.expect("found")), ("midward", "only the secret"));
    let named = "timeout_ms = 60000\nfields = { client_id = 'user', client_secret = 'pw' }";
    let named = bench.resolver(&moto.url, named);
    assert_eq!(pair(&resolve(&named, "named").await.expect("found")), ("u", "p"));
    let bare = bench.resolver(&moto.url, "timeout_ms = 60000");
    assert_eq!(resolve(&bare, "plain").await.expect_err("no client id").code, "empty_secret");
    assert_eq!(resolve(&bare, "named").await.expect_err("other names").code, "empty_secret");
}

#[tokio::test]
async fn what_is_not_there_or_deleted_is_said_so() {
    let (moto, bench) = (Moto::start(), Bench::new());
    let resolver = bench.resolver(&moto.url, "timeout_ms = 60000");
    let missing = resolve(&resolver, "none").await.expect_err("there is none");
    assert_eq!((missing.code.as_str(), missing.persistence), ("vault_not_found", Persistence::Permanent));
    moto.create("gone", &json!({"client_id": "a", "client_secret": "b"})).await;
    moto.secrets_manager("DeleteSecret", &json!({"SecretId": "gone"})).await;
    assert_eq!(resolve(&resolver, "gone").await.expect_err("deleted").code, "vault_secret_disabled");
}

/// moto says it with status 403 and the XML of other services; Amazon's own codes are a matter of the table's tests.
#[tokio::test]
async fn a_key_is_read_anew_its_signature_checked_and_its_policy_obeyed() {
    let (moto, bench) = (Moto::start(), Bench::new());
    moto.create("crm", &json!({"client_id": "midward", "client_secret": "s"})).await;
    moto.iam("Action=CreateUser&UserName=mid").await;
    moto.iam("Action=CreateUser&UserName=other").await;
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22\
                  secretsmanager%3AGetSecretValue%22%2C%22Resource%22%3A%22%2A%22%7D%7D";
    moto.iam(&format!("Action=PutUserPolicy&UserName=mid&PolicyName=read&PolicyDocument={policy}")).await;
    let (allowed, other) = (moto.access_key("mid").await, moto.access_key("other").await);
    let file =
        |(id, key): &(String, String)| format!("[default]\naws_access_key_id={id}\naws_secret_access_key={key}\n");
    let resolver = bench.resolver(&moto.url, "timeout_ms = 60000");
    moto.check_signatures().await;

    assert_eq!(resolve(&resolver, "crm").await.expect_err("unknown key").code, "vault_denied");
    bench.write("aws", &file(&(allowed.0.clone(), other.1.clone())));
    assert_eq!(resolve(&resolver, "crm").await.expect_err("wrong signature").code, "vault_denied");
    bench.write("aws", &file(&other));
    let denied = resolve(&resolver, "crm").await.expect_err("no policy");
    assert_eq!((denied.code.as_str(), denied.persistence), ("vault_denied", Persistence::Permanent));
    bench.write("aws", &file(&allowed));
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("allowed")), ("midward", "s"));
}

#[tokio::test]
async fn a_web_identity_token_is_exchanged_for_credentials() {
    let (moto, bench) = (Moto::start(), Bench::new());
    moto.create("crm", &json!({"client_id": "midward", "client_secret": "s"})).await;
    let token = bench.write("token", "eyJhbGciOiJSUzI1NiJ9.e30.c2ln\n");
    let credentials = format!(
        "source = 'web_identity'\ntoken_file = '{}'\nrole_arn = 'arn:aws:iam::123456789012:role/mid'\nsts_endpoint = '{}'",
        token.display(),
        moto.url
    );
    let resolver = bench.with_credentials(&moto.url, "timeout_ms = 60000", &credentials);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

#[tokio::test]
async fn the_instances_role_is_asked_for_at_the_configured_service_only() {
    let (moto, bench) = (Moto::start(), Bench::new());
    moto.create("crm", &json!({"client_id": "midward", "client_secret": "s"})).await;
    let metadata = InstanceMetadata::start().expect("server");
    let credentials = format!("source = 'instance_metadata'\nendpoint = '{}'", metadata.url());
    let resolver = bench.with_credentials(&moto.url, "timeout_ms = 60000", &credentials);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    let asked = ["PUT /latest/api/token", "GET ROLES", "GET ROLES/midward-role"];
    let asked = asked.map(|line| line.replace("ROLES", "/latest/meta-data/iam/security-credentials"));
    assert_eq!(metadata.asked(), asked, "once, and kept until the credentials end");

    metadata.set_fault(HttpFault::Error500);
    let resolver = bench.with_credentials(&moto.url, "timeout_ms = 60000", &credentials);
    assert_eq!(resolve(&resolver, "crm").await.expect_err("no role").code, "vault_login_refused");
}

#[tokio::test]
async fn the_sdks_own_trace_messages_are_not_written() {
    let (moto, bench) = (Moto::start(), Bench::new());
    moto.create("crm", &json!({"client_id": "midward", "client_secret": "canary-hunter2"})).await;
    let resolver = bench.resolver(&moto.url, "timeout_ms = 60000");
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
    assert!(!text.contains("canary") && !text.contains("key/of+default"), "{text}");
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

#[tokio::test]
async fn sixty_four_identifiers_at_once_each_get_their_own_secret() {
    let (moto, bench) = (Moto::start(), Bench::new());
    for n in 0..64 {
        moto.create(&format!("id-{n}"), &json!({"client_id": format!("c-{n}"), "client_secret": format!("s-{n}")}))
            .await;
    }
    let resolver = bench.resolver(&moto.url, "timeout_ms = 60000");
    let calls = (0..64).map(|n| {
        let resolver = Arc::clone(&resolver);
        async move {
            let found = resolve(&resolver, &format!("id-{n}")).await.expect("found");
            assert_eq!(pair(&found), (format!("c-{n}").as_str(), format!("s-{n}").as_str()));
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn identifiers_that_could_ask_for_something_else_ask_nothing() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new());
    let resolver = bench.resolver(&server.url(), "");
    for bad in ["a;b", "a\"b", "a\nb", "a\0b", "../a", "a/../b", "a?b", "-a", "", "a b", "é", &"a".repeat(161)] {
        assert_eq!(resolve(&resolver, bad).await.expect_err(bad).code, "invalid_credential_id");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn answers_that_no_vault_gives_are_failures_without_their_text() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new());
    let resolver = bench.resolver(&server.url(), "timeout_ms = 2000");
    let json = |status, body: &str| HttpFault::Respond {
        status,
        headers: vec![("content-type".into(), "application/x-amz-json-1.1".into())],
        body: body.to_owned(),
    };
    for (fault, code) in [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Empty200, "vault_answer_invalid"),
        (json(200, r#"{"SecretString":7}"#), "vault_answer_invalid"),
        (json(200, r#"{"Name":"crm"}"#), "vault_answer_invalid"),
        (json(200, r#"{"SecretString":""}"#), "empty_secret"),
        (json(400, r#"{"__type":"canary-hunter2","message":"canary-hunter2"}"#), "vault_answer_invalid"),
        (json(400, r#"{"__type":"AccessDeniedException","message":"canary-hunter2"}"#), "vault_denied"),
        (json(400, r#"{"__type":"ThrottlingException"}"#), "vault_throttled"),
        (json(500, r#"{"__type":"InternalServiceError"}"#), "vault_unavailable"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::Redirect { location: "http://127.0.0.1:1/".into() }, "vault_answer_invalid"),
        (HttpFault::Large { bytes: 4 << 20 }, "vault_answer_invalid"),
        (HttpFault::Raw { bytes: "canary-hunter2\r\n\r\n".into() }, "vault_answer_invalid"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ] {
        server.set_fault(fault.clone());
        let failure = resolve(&resolver, "crm").await.expect_err("no secret");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn a_vault_that_is_not_there_or_not_trusted_is_not_asked() {
    let bench = Bench::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let dead = bench.resolver(&format!("http://{closed}"), "");
    assert_eq!(resolve(&dead, "crm").await.expect_err("dead").code, "vault_unreachable");
    let ca = Arc::new(Ca::generate("vault CA").expect("CA"));
    let server = AnyHttp::start(Tls::Server(Arc::clone(&ca))).expect("server");
    let untrusting = bench.resolver(&server.url(), "");
    assert_eq!(resolve(&untrusting, "crm").await.expect_err("unknown CA").code, "vault_tls");
    assert_eq!(server.requests(), 0);

    let body = r#"{"SecretString":"{\"client_id\":\"a\",\"client_secret\":\"b\"}"}"#.to_owned();
    server.set_fault(HttpFault::Respond { status: 200, headers: Vec::new(), body });
    let ca_file = bench.write("ca.pem", ca.pem());
    let config = WayConfig { ca_file: Some(ca_file), ..WayConfig::default() };
    let way = WayOut::new(&config, bench.folder.path()).expect("a way out");
    let bench = Bench { way, ..bench };
    let trusting = bench.resolver(&server.url(), "");
    assert_eq!(pair(&resolve(&trusting, "crm").await.expect("trusted")), ("a", "b"));
}

#[tokio::test]
async fn the_callers_deadline_holds() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new());
    server.set_fault(HttpFault::Hang);
    let resolver = bench.resolver(&server.url(), "");
    let late = within(&resolver, "crm", Duration::from_millis(50)).await.expect_err("late");
    assert_eq!((late.code.as_str(), late.persistence), ("vault_timeout", Persistence::Transient));
    assert!(late.detail.contains("50 ms"), "{late}");
}

#[tokio::test]
async fn settings_that_cannot_work_make_the_resolver_unusable_with_the_reason() {
    let bench = Bench::new();
    let empty = bench.write("empty", "");
    let role = bench.write("role", "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = y\n");
    for (endpoint, credentials) in [
        ("http://vault.example", "source = 'instance_metadata'".to_owned()),
        ("https://u:p@vault.example", "source = 'instance_metadata'".to_owned()),
        ("https://vault.example", "source = 'profile_file'\nfile = '/nowhere/aws'".to_owned()),
        ("https://vault.example", "source = 'profile_file'\nfile = 'aws'".to_owned()),
        ("https://vault.example", "source = 'instance_metadata'\nendpoint = 'http://metadata.example'".to_owned()),
    ] {
        let resolver = bench.with_credentials(endpoint, "", &credentials);
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)), "{endpoint} {credentials}");
        assert_eq!(resolve(&resolver, "crm").await.expect_err("unusable").code, "resolver_misconfigured");
    }
    // What is wrong inside the files shows when they are read.
    let server = AnyHttp::start(Tls::Plain).expect("server");
    for file in [&empty, &role] {
        let credentials = format!("source = 'profile_file'\nfile = '{}'", file.display());
        let resolver = bench.with_credentials(&server.url(), "", &credentials);
        assert_eq!(resolve(&resolver, "crm").await.expect_err("no key").code, "resolver_misconfigured");
    }
    let credentials = format!(
        "source = 'web_identity'\ntoken_file = '{}'\nrole_arn = 'r'\nsts_endpoint = '{}'",
        empty.display(),
        server.url()
    );
    let resolver = bench.with_credentials(&server.url(), "", &credentials);
    assert_eq!(resolve(&resolver, "crm").await.expect_err("no token").code, "resolver_misconfigured");
    assert_eq!(server.requests(), 0);
}
