//! `cyberark_ccp` over REST and SOAP, against the stand-in for the Central Credential Provider.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock as _, Failure, Persistence, SystemClock, SystemRandom};
use midward_fakes::HttpFault;
use midward_fakes::proxy::{Proxy, ProxyConfig};
use midward_fakes::tap::Tap;
use midward_fakes::tls::{Ca, Identity, Tls};
use midward_fakes::vault::ccp::{Ccp, CcpConfig, certificate_thumbprint};
use midward_fakes::vault::{Account, Application, Vault, VaultConfig, VaultFault};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, ResolverReport, build};
use support::pair;

const SECRET: &str = "p@ss,w;rd|\"x\" <100%> &amp; \u{fc}\r\n end ";
const APIS: [&str; 2] = ["rest", "soap"];

struct Bench {
    folder: tempfile::TempDir,
    ca: Arc<Ca>,
    client: Identity,
    vault: Vault,
    ccp: Ccp,
}

impl Bench {
    fn new(tls: fn(Arc<Ca>) -> Tls) -> Self {
        let ca = Arc::new(Ca::generate("CCP CA").expect("CA"));
        let client = ca.issue_client("midward").expect("certificate");
        let dual = Account::new("Apps", "crm-a", "crm-a", "dual").with_property("VirtualUserName", "crm-dual");
        let vault = Vault::start(VaultConfig {
            applications: vec![Application::new("App", &["Apps", "Other"])],
            accounts: vec![
                Account::new("Apps", "crm", "client-1", SECRET)
                    .with_address("crm.example")
                    .with_property("ClientID", "c"),
                Account::new("Other", "crm", "client-2", "other"),
                dual,
            ],
            ..VaultConfig::default()
        })
        .expect("the vault starts");
        let ccp = Ccp::start(&vault, CcpConfig { tls: tls(Arc::clone(&ca)), ..CcpConfig::default() }).expect("CCP");
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        Self { folder, ca, client, vault, ccp }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    /// Settings of the client certificate.
    fn certificate(&self, identity: &Identity) -> String {
        let certificate = self.write("client.pem", identity.certificate_pem.as_bytes());
        let key = self.write("client.key", identity.key_pem.as_bytes());
        format!("certificate_file = '{}'\nkey_file = '{}'", certificate.display(), key.display())
    }

    fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        self.at(&self.ccp.url(), more)
    }

    fn at(&self, url: &str, more: &str) -> Arc<dyn Resolver> {
        self.of("App", url, more)
    }

    fn of(&self, app_id: &str, url: &str, more: &str) -> Arc<dyn Resolver> {
        let config = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
        self.through(&config, app_id, url, more)
    }

    fn through(&self, way: &WayConfig, app_id: &str, url: &str, more: &str) -> Arc<dyn Resolver> {
        let text = format!("kind = 'cyberark_ccp'\nurl = '{url}'\napp_id = '{app_id}'\nsafe = 'Apps'\n{more}");
        let context = ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: self.folder.path().to_owned(),
            trampoline: Vec::new(),
            java: "/nowhere".into(),
            vaults: WayOut::new(way, self.folder.path()).expect("a way out"),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let config: ResolverConfig = toml::from_str(&text).expect("configuration");
        build("vault", &config, &context)
    }
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
    assert!(!format!("{failure:?}").contains("p@ss") && !format!("{failure:?}").contains("hunter2"), "{failure:?}");
    failure
}

#[tokio::test]
async fn accounts_are_read_byte_for_byte_by_every_key() {
    let bench = Bench::new(Tls::Server);
    for api in APIS {
        let resolver = |more: &str| bench.resolver(&format!("api = '{api}'\n{more}"));
        let crm = || ("client-1".to_owned(), SECRET.to_owned());
        let plain = resolver("reason = 'a token'\nconnection_timeout_s = 5");
        assert_eq!((plain.kind(), plain.report()), ("cyberark_ccp", ResolverReport::Ready));
        assert_eq!(found(&*plain, "crm").await, crm(), "{api}");
        assert_eq!(found(&*plain, "Other:crm").await.0, "client-2", "{api}");
        assert_eq!(pair(&ask(&*plain, "", Some("crm.example")).await.expect("by address")), crm(), "{api}");
        let dual = resolver("lookup_by = 'virtual_user_name'");
        assert_eq!(found(&*dual, "crm-dual").await, ("crm-a".to_owned(), "dual".to_owned()), "{api}");
        assert_eq!(found(&*resolver("query_format = 'regexp'"), "cr.").await, crm(), "{api}");
        assert_eq!(found(&*resolver("client_id_property = 'clientid'"), "crm").await.0, "c", "{api}");
    }
    let asked = bench.vault.requests();
    assert_eq!(asked[0].fields.value("Query"), Some("Safe=Apps;Folder=root;Object=crm"));
    assert_eq!(asked[0].fields.value("Reason"), Some("a token"));
}

#[tokio::test]
async fn a_failure_goes_by_its_code_and_not_by_its_status() {
    let bench = Bench::new(Tls::Server);
    let error = |code: &str| VaultFault::Error { code: code.to_owned(), text: "hunter2".to_owned() };
    for api in APIS {
        let plain = bench.resolver(&format!("api = '{api}'"));
        for (fault, code, persistence) in [
            (VaultFault::Denied, "vault_denied", Persistence::Permanent),
            (VaultFault::Ambiguous, "vault_ambiguous", Persistence::Permanent),
            (VaultFault::EmptySecret, "empty_secret", Persistence::Permanent),
            (error("APPAP007E"), "vault_unreachable", Persistence::Transient),
            (error("APPAP286E"), "vault_changing", Persistence::Transient),
            (error("AIMWS031E"), "vault_bad_request", Persistence::Permanent),
            (error("APPXX999E"), "vault_error", Persistence::Transient),
        ] {
            bench.vault.set_fault(fault, Some(1));
            let failure = refused(&*plain, "crm").await;
            assert_eq!((failure.code.as_str(), failure.persistence), (code, persistence), "{api}: {failure}");
        }
        assert_eq!(refused(&*plain, "nobody").await.code, "vault_not_found", "{api}");
        let before = bench.vault.request_count();
        for bad in ["a;Safe=Other", "a\nb", "-a", "a:b:c:d", ""] {
            assert_eq!(refused(&*plain, bad).await.code, "invalid_credential_id", "{api} {bad:?}");
        }
        assert_eq!(bench.vault.request_count(), before, "nothing was asked");
        assert!(bench.vault.set_change_in_process("Apps", "crm", true));
        assert!(ask(&*plain, "crm", None).await.expect("found").changing, "{api}");
        let strict = bench.resolver(&format!("api = '{api}'\nfail_on_password_change = true"));
        assert_eq!(refused(&*strict, "crm").await.code, "vault_changing", "{api}");
        assert!(bench.vault.set_change_in_process("Apps", "crm", false));
        assert!(!ask(&*plain, "crm", None).await.expect("found").changing, "{api}");
    }
}

#[tokio::test]
async fn what_is_not_the_ccp_is_an_error_that_says_so() {
    let bench = Bench::new(Tls::Server);
    let respond = |status: u16, body: &str| HttpFault::Respond { status, headers: Vec::new(), body: body.to_owned() };
    for api in APIS {
        let plain = bench.resolver(&format!("api = '{api}'"));
        for (fault, code) in [
            (HttpFault::Html200, "vault_answer_invalid"),
            (HttpFault::Empty200, "vault_answer_invalid"),
            (HttpFault::Large { bytes: 1024 * 1024 }, "vault_answer_invalid"),
            (HttpFault::Gzip, "vault_answer_invalid"),
            (HttpFault::Redirect { location: "https://elsewhere.example/".to_owned() }, "vault_answer_invalid"),
            (HttpFault::Error500, "vault_unavailable"),
            (respond(503, "<html>hunter2</html>"), "vault_unavailable"),
            (respond(403, "<html>hunter2</html>"), "vault_login_refused"),
            (respond(404, "<html>hunter2</html>"), "vault_answer_invalid"),
            (respond(200, r#"{"Message":"hunter2"}"#), "vault_answer_invalid"),
            (respond(404, r#"{"Content":"hunter2","UserName":"u"}"#), "vault_answer_invalid"),
        ] {
            bench.ccp.set_fault(fault.clone(), Some(1));
            let failure = refused(&*plain, "crm").await;
            assert_eq!(failure.code, code, "{api} {fault:?}: {failure}");
        }
        let hasty = bench.resolver(&format!("api = '{api}'\ntimeout_ms = 500"));
        for fault in [HttpFault::Hang, HttpFault::Drip { millis: 100 }] {
            bench.ccp.set_fault(fault.clone(), Some(1));
            assert_eq!(refused(&*hasty, "crm").await.code, "vault_timeout", "{api} {fault:?}");
            bench.ccp.clear_faults();
        }
        assert_eq!(found(&*plain, "crm").await.1, SECRET, "{api}");
    }
    let own = Ccp::start(
        &bench.vault,
        CcpConfig {
            tls: Tls::Server(Arc::clone(&bench.ca)),
            service: Some("Own/AIM".to_owned()),
            change_flag_is_boolean: true,
            port: 0,
        },
    )
    .expect("CCP");
    assert_eq!(refused(&*bench.at(&own.url(), ""), "crm").await.code, "vault_answer_invalid");
    let named = bench.at(&own.url(), "service = 'own/aim'");
    assert!(bench.vault.set_change_in_process("Apps", "crm", true));
    assert!(ask(&*named, "crm", None).await.expect("found").changing, "a JSON boolean");
}

#[tokio::test]
async fn the_client_certificate_is_shown_from_pem_and_pfx_and_renewed_without_a_restart() {
    let bench = Bench::new(Tls::Mutual);
    let thumbprint = |identity: &Identity| certificate_thumbprint(identity).expect("a certificate");
    let other = bench.ca.issue_client("midward-2").expect("certificate");
    let certificates = Some(vec![thumbprint(&bench.client)]);
    bench.vault.add_application(Application { certificates, ..Application::new("Bound", &["Apps"]) });
    let settings = bench.certificate(&bench.client);
    assert_eq!(found(&*bench.resolver(&settings), "crm").await.1, SECRET);

    let bound = bench.of("Bound", &bench.ccp.url(), &settings);
    assert_eq!(found(&*bound, "crm").await.1, SECRET);
    bench.certificate(&other);
    assert_eq!(refused(&*bound, "crm").await.code, "vault_denied", "the new certificate is another application's");
    bench.certificate(&bench.client);
    assert_eq!(found(&*bound, "crm").await.1, SECRET);

    let none = bench.resolver("");
    // The server's alert may be lost with the connection that it ends.
    let failure = refused(&*none, "crm").await;
    assert!(["vault_tls", "vault_unreachable"].contains(&&*failure.code), "{failure}");
    assert!(failure.action.contains("certificate_file"), "{failure}");
    std::fs::remove_file(bench.folder.path().join("client.key")).expect("removed");
    assert!(matches!(bound.report(), ResolverReport::Unusable(why) if why.contains("key_file")));
    assert_eq!(refused(&*bound, "crm").await.code, "resolver_misconfigured");
}

#[tokio::test]
async fn a_pfx_of_openssl_is_shown_and_its_faults_are_named() {
    let bench = Bench::new(Tls::Mutual);
    bench.certificate(&bench.client);
    let pfx = |legacy: &[&str], name: &str| {
        let status = std::process::Command::new("openssl")
            .current_dir(bench.folder.path())
            .args([
                "pkcs12",
                "-export",
                "-inkey",
                "client.key",
                "-in",
                "client.pem",
                "-passout",
                "pass:hunter2",
                "-out",
                name,
            ])
            .args(legacy)
            .status()
            .expect("openssl");
        assert!(status.success());
        bench.write(name, &std::fs::read(bench.folder.path().join(name)).expect("a file"))
    };
    let password = bench.write("pfx-password", b"hunter2\n");
    let modern = pfx(&[], "modern.pfx");
    let legacy = pfx(&["-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1"], "legacy.pfx");
    for file in [&modern, &legacy] {
        let settings = format!("pfx_file = '{}'\npfx_password_file = '{}'", file.display(), password.display());
        assert_eq!(found(&*bench.resolver(&settings), "crm").await.1, SECRET, "{}", file.display());
    }
    let wrong = bench.write("wrong-password", b"hunter3");
    let unusable = |settings: String| match bench.resolver(&settings).report() {
        ResolverReport::Unusable(why) => why,
        other => panic!("{settings}: {other:?}"),
    };
    let why = unusable(format!("pfx_file = '{}'\npfx_password_file = '{}'", modern.display(), wrong.display()));
    assert!(why.contains("the password is not that of the PKCS #12 file") && !why.contains("hunter"), "{why}");
    let why = unusable(format!("pfx_file = '{}'", bench.folder.path().join("ca.pem").display()));
    assert!(why.contains("chmod 600"), "{why}");
    assert!(unusable(format!("pfx_file = '{}'\nkey_file = '/x'", modern.display())).contains("either"));
    assert!(unusable("certificate_file = '/x'".to_owned()).contains("either"));
}

#[tokio::test]
async fn a_connection_is_kept_and_its_end_while_idle_costs_one_more_try() {
    let bench = Bench::new(Tls::Server);
    let address = format!("127.0.0.1:{}", bench.ccp.port()).parse().expect("an address");
    let tap = Tap::start(address).expect("tap");
    let plain = bench.at(&format!("https://localhost:{}", tap.addr().port()), "");
    // Each TLS connection begins with one handshake record (22) that holds a ClientHello (1).
    let hellos = || {
        let sent = tap.tapped().sent;
        sent.windows(6).filter(|window| window[0] == 22 && window[1] == 3 && window[5] == 1).count()
    };
    for _ in 0..5 {
        assert_eq!(found(&*plain, "crm").await.1, SECRET);
    }
    assert_eq!(hellos(), 1, "five look-ups, one connection");
    // The server answers once more and closes the connection after it.
    let body = r#"{"ErrorCode":"APPAP004E","ErrorMsg":"x"}"#;
    let bytes = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    bench.ccp.set_fault(HttpFault::Raw { bytes }, Some(1));
    assert_eq!(refused(&*plain, "crm").await.code, "vault_not_found");
    assert_eq!(found(&*plain, "crm").await.1, SECRET);
    bench.ccp.set_fault(HttpFault::DropBeforeRead, Some(1));
    assert_eq!(found(&*plain, "crm").await.1, SECRET, "asked once more");
    bench.ccp.set_fault(HttpFault::DropBeforeRead, Some(2));
    assert_eq!(refused(&*plain, "crm").await.code, "vault_unreachable", "and not more often");
}

#[tokio::test]
async fn the_way_out_s_proxy_is_passed_with_its_password() {
    let bench = Bench::new(Tls::Server);
    let credentials = Some(("user".to_owned(), "hunter2".to_owned()));
    let proxy = Proxy::start(ProxyConfig { credentials, ..ProxyConfig::default() }).expect("proxy");
    bench.write("proxy-password", b"hunter2\n");
    let config = format!(
        "ca_file = 'ca.pem'\n[proxy]\nurl = '{}'\nusername = 'user'\npassword_file = 'proxy-password'",
        proxy.url()
    );
    let way = toml::from_str(&config).expect("configuration");
    assert_eq!(found(&*bench.through(&way, "App", &bench.ccp.url(), ""), "crm").await.1, SECRET);
    assert!(proxy.requests().iter().any(|seen| seen.method == "CONNECT" && seen.authorized));
}

#[tokio::test]
async fn only_https_and_only_a_trusted_certificate_will_do() {
    let bench = Bench::new(Tls::Server);
    for url in ["http://127.0.0.1:1", "http://ccp.example", "https://user@ccp.example", "https://ccp.example?x"] {
        let wrong = bench.at(url, "");
        assert!(matches!(wrong.report(), ResolverReport::Unusable(_)), "{url}");
        assert_eq!(refused(&*wrong, "crm").await.code, "resolver_misconfigured", "{url}");
    }
    let stranger = Bench::new(Tls::Server);
    assert_eq!(refused(&*bench.at(&stranger.ccp.url(), ""), "crm").await.code, "vault_tls");
    let begin = SystemClock.boot();
    let slow = bench.resolver("timeout_ms = 1000");
    bench.vault.set_fault(VaultFault::Hang, Some(1));
    assert_eq!(refused(&*slow, "crm").await.code, "vault_timeout");
    assert!(SystemClock.boot().saturating_since(begin) < Duration::from_secs(10));
}
