//! `conjur` against a stand-in for CyberArk Conjur.

#[path = "support/conformance.rs"]
mod conformance;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conformance::{Trouble, Vault};
use midward_core::{
    BootTime, Clock, Failure, ManualClock, MaterialField, Persistence, Secret, SeededRandom, SystemClock, WallTime,
};
use midward_fakes::HttpFault;
use midward_fakes::conjur::{Conjur, ConjurConfig, Identity};
use midward_fakes::tls::{Ca, Tls};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{
    BoxFuture, Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, ResolverReport, build,
};

const LOGIN: &str = "host/apps/mid 1";
const API_KEY: &str = "api-key-hunter2";
const JWT: &str = "ey.J.w+t/=";

/// A vault with a private CA, and resolvers that trust it.
struct Bench {
    folder: tempfile::TempDir,
    conjur: Conjur,
    way: WayOut,
    clock: Arc<dyn Clock>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ca = Arc::new(Ca::generate("vault CA").expect("CA"));
        let identity = |login: &str, key: Option<&str>, jwt: Option<(&str, &str)>| Identity {
            login: login.to_owned(),
            api_key: key.map(str::to_owned),
            jwt: jwt.map(|(service, token)| (service.to_owned(), token.to_owned())),
        };
        let config = ConjurConfig {
            port: 0,
            account: "acme corp".to_owned(),
            identities: vec![
                identity(LOGIN, Some(API_KEY), None),
                identity("host/pod", None, Some(("clusters/eu", JWT))),
            ],
            variables: Vec::new(),
        };
        let conjur = Conjur::start(config, Tls::Server(Arc::clone(&ca))).expect("vault");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        let config = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
        let way = WayOut::new(&config, folder.path()).expect("a way out");
        let bench = Self { folder, conjur, way, clock: Arc::new(SystemClock) };
        bench.write("key", &format!("{API_KEY}\n"));
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    fn put(&self, id: &str, client_id: &str, secret: &str) {
        self.conjur.set(&format!("{id}/client_id"), client_id);
        self.conjur.set(&format!("{id}/client_secret"), secret);
    }

    fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        let file = self.folder.path().join("key");
        self.with_auth(more, &format!("method = 'api_key'\nlogin = '{LOGIN}'\napi_key_file = '{}'", file.display()))
    }

    fn with_auth(&self, more: &str, auth: &str) -> Arc<dyn Resolver> {
        self.at(&self.conjur.url(), more, auth)
    }

    fn at(&self, url: &str, more: &str, auth: &str) -> Arc<dyn Resolver> {
        let more = if more.contains("timeout_ms") { more.to_owned() } else { format!("timeout_ms = 60000\n{more}") };
        let text = format!("kind = 'conjur'\nurl = '{url}'\naccount = 'acme corp'\n[auth]\n{auth}");
        let text = text.replacen("[auth]", &format!("{more}\n[auth]"), 1);
        let config: ResolverConfig = toml::from_str(&text).expect("configuration");
        let context = ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: self.folder.path().to_owned(),
            trampoline: Vec::new(),
            java: "/nowhere".into(),
            vaults: self.way.clone(),
            clock: Arc::clone(&self.clock),
            random: Arc::new(SeededRandom::new(7)),
        };
        build("conjur", &config, &context)
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
async fn variables_are_read_in_one_batch_and_their_rotation_is_seen() {
    let bench = Bench::new();
    let long = "é;\"'%+&, :\u{1F512}".repeat(256);
    bench.put("apps/crm prod", "midward", &long);
    let resolver = bench.resolver("");
    assert_eq!((resolver.kind(), resolver.report()), ("conjur", ResolverReport::Ready));
    let found = resolve(&resolver, "apps/crm prod").await.expect("found");
    assert_eq!(pair(&found), ("midward", long.as_str()));
    bench.put("apps/crm prod", "midward", "new");
    assert_eq!(pair(&resolve(&resolver, "apps/crm prod").await.expect("found")), ("midward", "new"));
    let batch = "GET /secrets?variable_ids=acme%20corp%3Avariable%3Aapps%2Fcrm%20prod%2Fclient_id,\
                 acme%20corp%3Avariable%3Aapps%2Fcrm%20prod%2Fclient_secret";
    let sign_in = "POST /authn/acme%20corp/host%2Fapps%2Fmid%201/authenticate";
    assert_eq!(bench.conjur.asked(), [sign_in, batch, batch]);
}

#[tokio::test]
async fn variables_of_other_names_and_values_that_are_no_text_are_read() {
    let bench = Bench::new();
    bench.conjur.set("oauth/crm/key", vec![0xff, 0, 0xfe]);
    let more = "client_id = 'midward'\nvariables = { private_key = 'oauth/{id}/key' }";
    let found = resolve(&bench.resolver(more), "crm").await.expect("found");
    assert_eq!(pair(&found).0, "midward");
    assert_eq!(found.material.field(MaterialField::PrivateKey).map(Secret::expose), Some(&[0xff, 0, 0xfe][..]));
    let asked = bench.conjur.asked();
    assert!(asked[1].ends_with("=acme%20corp%3Avariable%3Aoauth%2Fcrm%2Fkey"), "{asked:?}");
}

#[tokio::test]
async fn a_token_in_a_file_is_exchanged_with_and_without_a_named_host() {
    let bench = Bench::new();
    bench.put("crm", "midward", "s");
    let file = bench.write("jwt", JWT);
    let auth = format!("method = 'jwt'\nservice_id = 'clusters/eu'\ntoken_file = '{}'", file.display());
    for host in ["", "\nhost = 'host/pod'"] {
        let resolver = bench.with_auth("", &format!("{auth}{host}"));
        assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    }
    let stranger = bench.with_auth("", &format!("{auth}\nhost = 'host/other'"));
    assert_eq!(resolve(&stranger, "crm").await.expect_err("a stranger").code, "vault_login_refused");
    let asked = bench.conjur.asked();
    assert_eq!(asked[0], "POST /authn-jwt/clusters%2Feu/acme%20corp/authenticate");
    assert_eq!(asked[2], "POST /authn-jwt/clusters%2Feu/acme%20corp/host%2Fpod/authenticate");
}

#[tokio::test]
async fn one_access_token_serves_all_until_85_percent_of_its_life() {
    let mut bench = Bench::new();
    let clock = Arc::new(ManualClock::new(
        BootTime::from_duration(Duration::from_secs(1000)),
        WallTime::from_unix_millis(1_700_000_000_000),
    ));
    bench.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    for n in 0..64 {
        bench.put(&format!("id-{n}"), &format!("c-{n}"), &format!("s-{n}"));
    }
    let resolver = bench.resolver("");
    let all = || {
        futures_util::future::join_all((0..64).map(|n| {
            let resolver = Arc::clone(&resolver);
            async move {
                let found = resolve(&resolver, &format!("id-{n}")).await.expect("found");
                assert_eq!(pair(&found), (format!("c-{n}").as_str(), format!("s-{n}").as_str()));
            }
        }))
    };
    all().await;
    assert_eq!(bench.conjur.sign_ins(), 1);
    clock.advance(Duration::from_secs(359));
    all().await;
    assert_eq!(bench.conjur.sign_ins(), 1, "75 % of 480 s are 360 s");
    clock.advance(Duration::from_secs(49));
    all().await;
    assert_eq!(bench.conjur.sign_ins(), 2, "85 % of 480 s are 408 s");
    // Ended before its time: all of them meet it, one signs in.
    bench.conjur.expire_tokens();
    all().await;
    assert_eq!(bench.conjur.sign_ins(), 3);
}

#[tokio::test]
async fn a_rotated_api_key_heals_and_a_wrong_one_is_not_insisted_on() {
    let bench = Bench::new();
    bench.put("crm", "midward", "s");
    let resolver = bench.resolver("");
    assert!(resolve(&resolver, "crm").await.is_ok());
    assert!(bench.conjur.set_api_key(LOGIN, "rotated-hunter2"));
    bench.conjur.expire_tokens();
    let before = bench.conjur.sign_ins();
    for _ in 0..20 {
        let refused = resolve(&resolver, "crm").await.expect_err("refused");
        assert_eq!((refused.code.as_str(), refused.persistence), ("vault_login_refused", Persistence::Permanent));
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    assert!(bench.conjur.sign_ins() - before < 10);
    bench.write("key", "rotated-hunter2");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("healed")), ("midward", "s"));
}

#[tokio::test]
async fn a_look_up_that_is_given_up_leaves_no_sign_in_behind() {
    let bench = Bench::new();
    bench.put("crm", "midward", "s");
    bench.conjur.set_sign_in_fault(HttpFault::Hang);
    let resolver = bench.resolver("");
    let late = within(&resolver, "crm", Duration::from_millis(50)).await.expect_err("late");
    assert_eq!((late.code.as_str(), late.persistence), ("vault_timeout", Persistence::Transient));
    assert!(late.detail.contains("50 ms"), "{late}");
    bench.conjur.clear_faults();
    // It does not wait for the first one, which nobody waits for any more.
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

#[tokio::test]
async fn what_is_missing_or_forbidden_is_said_so() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    let missing = resolve(&resolver, "none").await.expect_err("there is none");
    assert_eq!((missing.code.as_str(), missing.persistence), ("vault_not_found", Persistence::Permanent));
    bench.conjur.set("half/client_id", "midward");
    assert_eq!(resolve(&resolver, "half").await.expect_err("one is missing").code, "vault_not_found");
    bench.put("closed", "a", "b");
    bench.conjur.forbid("closed/client_secret");
    assert_eq!(resolve(&resolver, "closed").await.expect_err("forbidden").code, "vault_denied");
    bench.put("empty", "a", "");
    assert_eq!(resolve(&resolver, "empty").await.expect_err("empty").code, "empty_secret");
    assert_eq!(bench.conjur.sign_ins(), 1);
}

#[tokio::test]
async fn identifiers_that_could_ask_for_something_else_ask_nothing() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    for bad in
        ["", "/a", "a/", "a//b", "../a", "a/..", "a,b", "a%2fb", "a#b", "a\\b", "{id}", "a?b", "-a", "a;b", "a\nb"]
    {
        assert_eq!(resolve(&resolver, bad).await.expect_err(bad).code, "invalid_credential_id");
    }
    assert!(bench.conjur.asked().is_empty());
}

#[tokio::test]
async fn answers_that_no_vault_gives_are_failures_without_their_text() {
    let bench = Bench::new();
    bench.put("crm", "a", "canary-b");
    let page = vec![("content-type".to_owned(), "text/html".to_owned())];
    let faults = [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Empty200, "vault_answer_invalid"),
        (
            HttpFault::Respond { status: 200, headers: Vec::new(), body: r#"{"canary":7}"#.into() },
            "vault_answer_invalid",
        ),
        (HttpFault::Respond { status: 403, headers: page, body: "canary".into() }, "vault_answer_invalid"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::Redirect { location: "http://127.0.0.1:1/".into() }, "vault_answer_invalid"),
        (HttpFault::Large { bytes: 4 << 20 }, "vault_answer_invalid"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ];
    let signed_in = bench.resolver("timeout_ms = 2000");
    resolve(&signed_in, "crm").await.expect("found");
    for (fault, code) in faults {
        bench.conjur.set_fault(fault.clone());
        let failure = resolve(&signed_in, "crm").await.expect_err("no secret");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
        // The same, met by the sign-in.
        bench.conjur.set_sign_in_fault(fault.clone());
        let resolver = bench.resolver("timeout_ms = 2000");
        let failure = resolve(&resolver, "crm").await.expect_err("no token");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn an_unknown_ca_is_not_trusted_and_settings_that_cannot_work_are_refused() {
    let mut bench = Bench::new();
    bench.way = WayOut::plain_default().expect("a way out");
    assert_eq!(resolve(&bench.resolver(""), "crm").await.expect_err("unknown CA").code, "vault_tls");
    let auth = "method = 'api_key'\nlogin = 'host/a'\napi_key_file = '/nowhere/key'";
    for (url, more, auth) in [
        ("http://vault.example", "", auth),
        ("https://vault.example/?q", "", auth),
        ("https://vault.example", "variables = { client_id = 'fixed', client_secret = '{id}/s' }", auth),
        ("https://vault.example", "variables = { client_secret = '{id}/s' }", auth),
        ("https://vault.example", "variables = { client_id = '{id}/i' }", auth),
        ("https://vault.example", "", "method = 'api_key'\nlogin = ''\napi_key_file = '/nowhere/key'"),
    ] {
        let resolver = bench.at(url, more, auth);
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)), "{url} {more}");
        assert_eq!(resolve(&resolver, "crm").await.expect_err("unusable").code, "resolver_misconfigured");
    }
}

struct Conforming {
    bench: Bench,
    resolver: Arc<dyn Resolver>,
    kept: Mutex<std::collections::HashMap<String, String>>,
}

impl Vault for Conforming {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        self.kept.lock().expect("unpoisoned").insert(name.to_owned(), secret.to_owned());
        self.bench.put(name, client_id, secret);
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let (conjur, variable) = (&self.bench.conjur, format!("{name}/client_secret"));
        match trouble {
            Trouble::NotFound => unreachable!("never ordered"),
            Trouble::Ambiguous => return Box::pin(async { Err("an identifier names one variable") }),
            Trouble::Denied => conjur.forbid(&variable),
            Trouble::Empty => conjur.set(&variable, ""),
            Trouble::Slow => conjur.set_fault(HttpFault::Hang),
            Trouble::Dead => conjur.set_fault(HttpFault::DropAfterRead),
        }
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.bench.conjur.clear_faults();
        self.bench.conjur.permit(&format!("{name}/client_secret"));
        let secret = self.kept.lock().expect("unpoisoned")[name].clone();
        self.bench.conjur.set(&format!("{name}/client_secret"), secret);
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        self.bench.conjur.asked().len()
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["", "/a", "a/", "a//b", "a,b", "a%2fb", "a#b", "{id}", ".."]
    }
}

#[tokio::test]
async fn conjur_conforms() {
    let bench = Bench::new();
    let resolver = bench.resolver("");
    conformance::run(&Conforming { bench, resolver, kept: Mutex::default() }, &[Trouble::Ambiguous]).await;
}
