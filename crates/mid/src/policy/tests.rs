use std::collections::BTreeMap;

use midward_core::SeededRandom;
use midward_wire::{
    ApiCall, Bytes64, ClientAuth, ConfigDocument, ConnectionConfig, CredentialConfig, GrantType, JwtBearerConfig,
    ProfileConfig, ReplayRule,
};
use proptest::prelude::*;

use super::*;

mod dpop;

const POLICY: &str = r#"
version = 1

[[rule]]
name = "crm"
instance = "prod"
credential_id = "crm-client"
resolver = "cyberark"
token_urls = ["https://login.example/oauth/token"]
client_auth = ["client_secret_basic"]
scopes = ["read", "write"]
audiences = ["https://crm.example/"]
resources = ["urn:crm"]
issuers = ["https://login.example"]
api_origins = ["https://crm.example"]
path_prefixes = ["/api/v2/contacts"]
methods = ["GET", "POST"]
extra_parameters = { tenant = ["eu", "us"] }

[[rule]]
name = "billing"
credential_id = "billing-*-client"
match = "pattern"
resolver = "vault"
token_urls = ["https://login.example/billing/token"]
api_origins = ["https://billing.example:8443"]
methods = ["GET"]
"#;

fn policy() -> Policy {
    Policy::parse(POLICY).expect("a policy")
}

fn config() -> ConfigDocument {
    ConfigDocument {
        version: 1,
        connection: ConnectionConfig {
            alias: "crm".into(),
            base_url: "https://crm.example/api/v2".into(),
            timeout_ms: 1000,
            replay_methods: None,
        },
        credential: CredentialConfig {
            name: "crm".into(),
            credential_id: "crm-client".into(),
            resolver: "cyberark".into(),
        },
        profile: ProfileConfig {
            name: "crm".into(),
            grant_type: GrantType::ClientCredentials,
            jwt_bearer: None,
            token_exchange: None,
            token_url: Some("https://login.example/oauth/token".into()),
            revocation_url: None,
            client_auth: ClientAuth::ClientSecretBasic,
            scopes: vec!["read".into()],
            audience: Some("https://crm.example/".into()),
            resource: vec!["urn:crm".into()],
            extra_parameters: BTreeMap::from([("tenant".into(), "eu".into())]),
            issuer: Some("https://login.example".into()),
            assertion_audience: None,
            assertion_algorithm: None,
            certificate_bound_tokens: false,
            dpop_bound_tokens: false,
        },
    }
}

fn call() -> ApiCall {
    ApiCall {
        method: "GET".into(),
        path: "/contacts/7?full=1".into(),
        headers: vec![("Accept".into(), "application/json".into())],
        body: Bytes64::default(),
        replay: ReplayRule::ByMethod,
    }
}

fn decide(policy: &Policy, config: &ConfigDocument, call: &ApiCall) -> Result<Permit, Refusal> {
    policy.decide(&ask(config, call), &SeededRandom::new(1))
}

fn ask<'a>(config: &'a ConfigDocument, call: &'a ApiCall) -> Ask<'a> {
    Ask { instance_id: "0001", instance_name: "prod", config, call: Some(call), ways: Ways::default() }
}

#[test]
fn what_one_rule_lists_is_allowed() {
    let permit = decide(&policy(), &config(), &call()).expect("allowed");
    assert_eq!(permit.rule, "crm");
    assert_eq!(permit.token_url.as_ref().map(::url::Url::as_str), Some("https://login.example/oauth/token"));
    let permitted = permit.call.expect("a call");
    assert_eq!(permitted.target.as_str(), "https://crm.example/api/v2/contacts/7?full=1");
    assert_eq!(permitted.headers.get("accept").map(http::HeaderValue::as_bytes), Some(&b"application/json"[..]));
}

#[test]
fn an_empty_policy_allows_nothing() {
    let refusal = decide(&Policy::parse("version = 1").expect("a policy"), &config(), &call()).expect_err("refused");
    assert_eq!(refusal.code, "policy_no_rule");
}

fn allowed_with(change: impl Fn(&mut ProfileConfig), lines: &str) -> Result<Permit, Refusal> {
    let mut config = config();
    change(&mut config.profile);
    let text = POLICY.replacen("scopes = ", &format!("{lines}\nscopes = "), 1);
    decide(&Policy::parse(&text).expect("a policy"), &config, &call())
}

type BearerChange = fn(&mut JwtBearerConfig);

#[test]
fn a_grant_is_bound_by_name_and_by_whom_it_speaks_for() {
    let bearer = |change: fn(&mut JwtBearerConfig)| {
        move |profile: &mut ProfileConfig| {
            profile.grant_type = GrantType::JwtBearer;
            let mut bearer = JwtBearerConfig::default();
            change(&mut bearer);
            profile.jwt_bearer = Some(bearer);
        }
    };
    let refused = |result: Result<Permit, Refusal>| result.expect_err("refused").code;
    let grants = "grants = [\"jwt_bearer\"]";
    assert_eq!(refused(allowed_with(bearer(|_| {}), "")), "policy_grant");
    // The rule names its grants, and client credentials is none of them.
    assert_eq!(refused(allowed_with(|_| {}, grants)), "policy_grant");
    let permit = allowed_with(bearer(|_| {}), grants).expect("allowed");
    assert_eq!(permit.grant_audience.as_deref(), Some("https://login.example"));
    let changes: [(BearerChange, &str, &str); 4] = [
        (|b| b.subject = Some("ceo".into()), "policy_assertion_subject", "assertion_subjects = [\"ceo\"]"),
        (|b| b.issuer = Some("x".into()), "policy_assertion_issuer", "assertion_issuers = [\"x\"]"),
        (|b| b.audience = Some("y".into()), "policy_assertion_audience", "assertion_audiences = [\"y\"]"),
        (
            |b| b.claims = BTreeMap::from([("t".into(), "z".into())]),
            "policy_assertion_claim",
            "assertion_claims = { t = [\"z\"] }",
        ),
    ];
    for (change, code, line) in changes {
        assert_eq!(refused(allowed_with(bearer(change), grants)), code);
        allowed_with(bearer(change), &format!("{grants}\n{line}")).expect(code);
    }
    // Listed audiences bind the default too.
    let elsewhere = format!("{grants}\nassertion_audiences = [\"https://other.example\"]");
    assert_eq!(refused(allowed_with(bearer(|_| {}), &elsewhere)), "policy_assertion_audience");
    let exchange = |profile: &mut ProfileConfig| {
        profile.grant_type = GrantType::TokenExchange;
        profile.token_exchange = None;
    };
    assert_eq!(refused(allowed_with(exchange, "grants = [\"token_exchange\"]")), "policy_grant");
}

#[test]
fn an_issuer_in_place_of_a_token_url_is_bound_and_so_is_what_it_names() {
    let permit = allowed_with(|profile| profile.token_url = None, "").expect("allowed");
    assert_eq!(permit.token_url, None);
    let found = ::url::Url::parse("https://evil.example/token").expect("a URL");
    assert!(!permit.token_urls.contains(&found));
    let text = permit.unlisted_endpoint("https://login.example", &found);
    assert!(
        text.contains("token_urls = [\"https://login.example/oauth/token\", \"https://evil.example/token\"]"),
        "{text}"
    );
    for (issuer, code) in [
        (Some("https://evil.example"), "policy_issuer"),
        (Some("http://login.example"), "policy_issuer"),
        (Some("ftp://login.example"), "policy_issuer"),
        (None, "policy_token_url"),
    ] {
        let result = allowed_with(
            |profile| {
                profile.token_url = None;
                profile.issuer = issuer.map(str::to_owned);
            },
            "",
        );
        assert_eq!(result.expect_err("refused").code, code, "{issuer:?}");
    }
}

#[test]
fn a_revocation_url_is_listed_to_the_letter_even_on_the_token_urls_origin() {
    let at = |url: &'static str| move |profile: &mut ProfileConfig| profile.revocation_url = Some(url.into());
    let listed = "revocation_urls = [\"https://login.example/oauth/revoke\"]";
    assert!(allowed_with(at("https://login.example/oauth/revoke"), listed).is_ok());
    for url in
        ["https://login.example/oauth/revoke/", "https://login.example/other", "https://evil.example/oauth/revoke"]
    {
        assert_eq!(allowed_with(at(url), listed).expect_err(url).code, "policy_revocation_url");
        assert_eq!(allowed_with(at(url), "").expect_err(url).code, "policy_revocation_url");
    }
}

#[test]
fn a_suggested_rule_allows_the_grant_it_was_made_for() {
    let mut config = config();
    config.profile.grant_type = GrantType::JwtBearer;
    config.profile.revocation_url = Some("https://login.example/oauth/revoke".into());
    config.profile.jwt_bearer = Some(JwtBearerConfig {
        issuer: Some("x".into()),
        subject: Some("robot".into()),
        audience: Some("https://login.example/oauth".into()),
        claims: BTreeMap::from([("tenant".into(), "a".into())]),
        ..JwtBearerConfig::default()
    });
    let call = call();
    let text = format!("version = 1\n{}", suggest(&ask(&config, &call)));
    let suggested = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let permit = decide(&suggested, &config, &call).unwrap_or_else(|refusal| panic!("{refusal:?}: {text}"));
    assert_eq!(permit.grant_audience.as_deref(), Some("https://login.example/oauth"));
    // Where metadata is to name the endpoint, its owner writes it: what is suggested allows nothing by itself.
    config.profile.token_url = None;
    let text = format!("version = 1\n{}", suggest(&ask(&config, &call)));
    let permit = decide(&Policy::parse(&text).expect("a policy"), &config, &call).expect("allowed");
    assert!(permit.token_urls[0].as_str().contains("write.the.token.url.here"), "{text}");
}

#[test]
fn one_address_is_explained_once() {
    let mut config = config();
    config.profile.token_url = Some("https://127.0.0.1/token".into());
    config.connection.base_url = "https://127.0.0.1/api".into();
    let refusal = decide(&policy(), &config, &call()).expect_err("refused");
    assert_eq!(refusal.explanation.matches("is a loopback address").count(), 1, "{}", refusal.explanation);
}

/// Two honest records paired by a hostile instance.
#[test]
fn one_rule_must_allow_everything() {
    let mut paired = config();
    paired.connection.base_url = "https://billing.example:8443".into();
    assert_eq!(decide(&policy(), &paired, &call()).expect_err("refused").code, "policy_api_origin");
    let mut paired = config();
    paired.credential.credential_id = "billing-eu-client".into();
    assert!(decide(&policy(), &paired, &call()).is_err());
}

#[test]
fn every_field_is_bound() {
    type Change = fn(&mut ConfigDocument, &mut ApiCall);
    let changes: [(&str, Change); 18] = [
        ("policy_no_rule", |c, _| c.credential.credential_id = "crm-client2".into()),
        ("policy_resolver", |c, _| c.credential.resolver = "vault".into()),
        ("policy_token_url", |c, _| c.profile.token_url = Some("https://evil.example/oauth/token".into())),
        ("policy_token_url", |c, _| c.profile.token_url = Some("https://login.example/oauth/token/".into())),
        ("policy_token_url", |c, _| c.profile.token_url = Some("https://login.example/oauth/token?x".into())),
        ("policy_client_auth", |c, _| c.profile.client_auth = ClientAuth::ClientSecretPost),
        ("policy_scope", |c, _| c.profile.scopes.push("admin".into())),
        ("policy_scope", |c, _| c.profile.scopes = vec!["read write".into()]),
        ("policy_scope", |c, _| c.profile.scopes.clear()),
        ("policy_audience", |c, _| c.profile.audience = Some("https://crm.example".into())),
        ("policy_resource", |c, _| c.profile.resource.push("urn:hr".into())),
        ("policy_issuer", |c, _| c.profile.issuer = Some("https://evil.example".into())),
        ("policy_extra_parameter", |c, _| {
            c.profile.extra_parameters.insert("tenant".into(), "cn".into());
        }),
        ("policy_extra_parameter", |c, _| {
            c.profile.extra_parameters.insert("scope".into(), "eu".into());
        }),
        ("policy_api_origin", |c, _| c.connection.base_url = "https://crm.example:444/api/v2".into()),
        ("policy_api_origin", |c, _| c.connection.base_url = "http://crm.example/api/v2".into()),
        ("policy_path", |_, call| call.path = "/contactsX".into()),
        ("policy_method", |_, call| call.method = "DELETE".into()),
    ];
    for (code, change) in changes {
        let (mut config, mut call) = (config(), call());
        change(&mut config, &mut call);
        assert_eq!(decide(&policy(), &config, &call).expect_err(code).code, code);
    }
    let config = config();
    let call = call();
    let elsewhere = Ask { instance_name: "test", ..ask(&config, &call) };
    assert_eq!(policy().decide(&elsewhere, &SeededRandom::new(1)).expect_err("refused").code, "policy_instance");
    let ways = Ways { api_proxy: Some("http://proxy:3128"), token_proxy: None };
    let proxied = Ask { ways, ..ask(&config, &call) };
    assert_eq!(policy().decide(&proxied, &SeededRandom::new(1)).expect_err("refused").code, "policy_proxy");
}

#[test]
fn the_audience_of_an_assertion_is_the_policys() {
    let ready = POLICY.replacen("client_secret_basic", "private_key_jwt", 1);
    let pinned = ready.replacen("methods =", "assertion_audiences = [\"https://login.example/a\"]\nmethods =", 1);
    let (ready, pinned) = (Policy::parse(&ready).expect("a policy"), Policy::parse(&pinned).expect("a policy"));
    let mut config = config();
    config.profile.client_auth = ClientAuth::PrivateKeyJwt;
    let audience = |policy, config: &ConfigDocument| {
        decide(policy, config, &call()).map(|permit| permit.assertion_audience).map_err(|refusal| refusal.code)
    };

    assert_eq!(audience(&ready, &config), Ok(Some("https://login.example".into())), "the issuer");
    assert_eq!(audience(&pinned, &config), Err("policy_assertion_audience"));
    config.profile.issuer = None;
    assert_eq!(audience(&ready, &config), Ok(Some("https://login.example/oauth/token".into())), "else the token URL");
    config.profile.assertion_audience = Some("https://login.example/a".into());
    assert_eq!(audience(&ready, &config), Err("policy_assertion_audience"));
    assert_eq!(audience(&pinned, &config), Ok(Some("https://login.example/a".into())));
    config.profile.assertion_audience = Some("https://other.example".into());
    assert_eq!(audience(&pinned, &config), Err("policy_assertion_audience"));
    let call = call();
    let suggested = Policy::parse(&format!("version = 1\n{}", suggest(&ask(&config, &call)))).expect("a policy");
    assert_eq!(audience(&suggested, &config), Ok(Some("https://other.example".into())));
}

#[test]
fn a_refusal_tells_the_owner_the_line_and_the_instance_nothing() {
    let mut config = config();
    config.profile.scopes = vec!["admin".into()];
    let refusal = decide(&policy(), &config, &call()).expect_err("refused");
    assert!(refusal.explanation.contains(r#"scopes = ["read", "write", "admin"]"#), "{}", refusal.explanation);
    let failure = refusal.failure();
    assert_eq!(failure.hop, midward_core::Hop::Policy);
    assert_eq!(failure.reference.as_deref(), Some(refusal.reference.as_str()));
    assert!(failure.action.ends_with(&format!("policy explain {}", refusal.reference)));
    assert!(!failure.to_string().contains("write"));
}

#[test]
fn a_suggested_rule_allows_what_it_was_made_from() {
    let mut config = config();
    config.credential.credential_id = "some \"odd\"\nname".into();
    config.connection.base_url = "http://127.0.0.1:8081/x".into();
    config.profile.token_url = Some("http://localhost:8080/token".into());
    let call = call();
    let ways = Ways { token_proxy: None, api_proxy: Some("http://proxy:3128") };
    let ask = Ask { ways, ..ask(&config, &call) };
    let suggested = Policy::parse(&format!("version = 1\n{}", suggest(&ask))).expect("a policy");
    let permit = suggested.decide(&ask, &SeededRandom::new(1)).expect("allowed");
    assert_eq!(permit.guard.check("127.0.0.1".parse().expect("an address")), Ok(()));
    let none =
        Policy::parse("version = 1").expect("a policy").decide(&ask, &SeededRandom::new(1)).expect_err("refused");
    assert!(none.explanation.ends_with(&suggest(&ask)));
}

#[test]
fn refusals_are_remembered_up_to_a_bound() {
    let store = PolicyStore::new(policy(), std::sync::Arc::new(SeededRandom::new(4)));
    let (mut config, call) = (config(), call());
    assert!(store.decide(&ask(&config, &call)).is_ok());
    config.credential.resolver = "vault".into();
    let first = store.decide(&ask(&config, &call)).expect_err("refused");
    assert_eq!(store.explain(&first.reference), Some(first.clone()));
    config.profile.scopes = vec!["\u{e4}".repeat(100_000)];
    let long = store.decide(&ask(&config, &call)).expect_err("refused");
    assert!(long.explanation.len() <= 16 * 1024);
    config.profile.scopes = vec!["read".into()];
    for _ in 0..1000 {
        store.decide(&ask(&config, &call)).expect_err("refused");
    }
    assert_eq!(store.explain(&first.reference), None);
    store.replace(Policy::parse(&POLICY.replace("\"cyberark\"", "\"vault\"")).expect("a policy"));
    assert!(store.decide(&ask(&config, &call)).is_ok());
}

#[test]
fn a_policy_file_is_read_strictly() {
    let rule = |line: &str, replacement: &str| POLICY.replacen(line, replacement, 1);
    for (bad, why) in [
        (rule("version = 1", "version = 2"), "version"),
        (rule("scopes =", "scope ="), "unknown field"),
        (rule("\"billing\"", "\"crm\""), "same name"),
        (rule("match = \"pattern\"", ""), "holds a *"),
        (rule("https://crm.example\"]\npath", "https://crm.example/x\"]\npath"), "it holds a path"),
        (rule("https://login.example/oauth", "http://login.example/oauth"), "allow_plain_http"),
        (rule("\"GET\", \"POST\"", "\"GET\", \"TRACE\""), "TRACE"),
        (rule("\"GET\", \"POST\"", "\"get\""), "get"),
        (rule("\"GET\", \"POST\"", ""), "methods is empty"),
        (rule("\"read\", \"write\"", "\"read write\""), "one scope"),
        (rule("tenant =", "scope ="), "cannot be an extra parameter"),
        (rule("\"/api/v2/contacts\"", "\"api\""), "prefix"),
        (rule("https://crm.example\"", "https://crm.example.\""), "canonical"),
    ] {
        let error = Policy::parse(&bad).expect_err(why).to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_pattern_matches_only_as_a_whole() {
    let mut config = config();
    config.credential.resolver = "vault".into();
    config.connection.base_url = "https://billing.example:8443".into();
    config.profile = ProfileConfig {
        token_url: Some("https://login.example/billing/token".into()),
        scopes: Vec::new(),
        audience: None,
        resource: Vec::new(),
        extra_parameters: BTreeMap::new(),
        issuer: None,
        ..config.profile
    };
    for (id, allowed) in [
        ("billing-eu-client", true),
        ("billing--client", true),
        ("billing-client", false),
        ("xbilling-eu-client", false),
        ("billing-eu-client2", false),
        ("billing-eu-Client", false),
    ] {
        config.credential.credential_id = id.into();
        assert_eq!(decide(&policy(), &config, &call()).is_ok(), allowed, "{id}");
    }
}

#[test]
fn hostile_paths_are_refused() {
    let base = strict_url("https://crm.example/api").expect("a URL");
    for path in [
        "",
        "x",
        "?q=1",
        "//evil.example/",
        "///evil",
        "/\\evil",
        "\\\\evil",
        "https://evil.example/",
        "http:evil",
        "/..",
        "/../x",
        "/x/..",
        "/x/../y",
        "/./x",
        "/x/.",
        "/%2e%2e/x",
        "/%2E%2e/x",
        "/.%2e/x",
        "/%2e./x",
        "/%2e/x",
        "/%252e%252e/x",
        "/%25252e%25252e/x",
        "/..%2fx",
        "/x%2f..%2fy",
        "/%2e%2e%2fx",
        "/..;/x",
        "/..;a=b/x",
        "/%2e%2e;/x",
        "/..%3b/x",
        "/.;/x",
        "/x%5c..%5cy",
        "/%5cevil",
        "/%255cevil",
        "/x#frag",
        "/#",
        "/x y",
        "/x\ty",
        "/x\r\nHost: evil",
        "/x%0d%0aHost:evil",
        "/x%00",
        "/x\0",
        "/%c0%ae%c0%ae/x",
        "/%ff",
        "/x\u{a0}",
        "/ä",
        "/\u{ff0e}\u{ff0e}/x",
        " /x",
        "/x ",
        "@evil.example/",
        ":8080/",
        ".evil.example/",
        "/x\u{7f}",
    ] {
        assert!(join(&base, path).is_err(), "{path:?}");
    }
    assert_eq!(join(&base, &format!("/{}", "a".repeat(9000))), Err(UrlFault::TooLong));
    for (path, target) in [
        ("/", "https://crm.example/api/"),
        ("/x//y", "https://crm.example/api/x//y"),
        ("/x%2Fy", "https://crm.example/api/x%2Fy"),
        ("/...", "https://crm.example/api/..."),
        ("/@evil.example", "https://crm.example/api/@evil.example"),
        ("/x:y?u=https://a/../b", "https://crm.example/api/x:y?u=https://a/../b"),
        ("/100%25?a=%0a", "https://crm.example/api/100%25?a=%0a"),
    ] {
        assert_eq!(join(&base, path).expect(path).as_str(), target);
    }
}

#[test]
fn hostile_urls_are_refused() {
    for url in [
        "",
        "crm.example",
        "//crm.example",
        "https:crm.example",
        "https:/crm.example",
        "https:///crm.example",
        "ftp://crm.example",
        "file:///etc/passwd",
        "gopher://crm.example",
        "ws://crm.example",
        "unix://run/x",
        "javascript:alert(1)",
        "data:,x",
        "https://user@crm.example",
        "https://u:p@crm.example",
        "https://@crm.example",
        "https://crm.example@evil.example",
        "https://crm.example\\@evil.example",
        "https:\\\\crm.example",
        "https://crm.example.",
        "https://crm.example./x",
        "https://.crm.example.",
        "https://",
        "https://:443",
        "https://crm.example:",
        "https://crm.example:0",
        "https://crm.example:0443",
        "https://crm.example:99999",
        "https://crm.example:-1",
        "https://crm.example:+443",
        "https://crm.example:44 3",
        "https://crm%2eexample",
        "https://crm.example%00",
        "https://crm.example%2f@evil",
        "https://0x7f.1",
        "https://0177.0.0.1",
        "https://2130706433",
        "https://127.1",
        "https://0x7f000001",
        "https://017700000001",
        "https://[::1",
        "https://::1",
        "https://[::0001]",
        "https://[::ffff:127.0.0.1]",
        "https://[fe80::1%25eth0]",
        "https://crm.example/#",
        "https://crm.example#x",
        "https://crm.example/..",
        "https://crm.example/%2e%2e/x",
        "https://crm.example/\t",
        "https://crm\u{2024}example",
        "https://\u{441}rm.example",
        "https://crm\u{ff0e}example",
        "https://crm.ex\u{ad}ample",
        " https://crm.example",
        "https://crm.example ",
        "ht\ntps://crm.example",
        "https://crm.example/\r\n",
        "https://crm..example:x",
        "https://c rm.example",
        "https://crm.example/a\\b",
    ] {
        assert!(strict_url(url).is_err(), "{url:?}");
    }
    for url in
        ["https://CRM.example", "https://crm.example:443/x?y", "http://127.0.0.1:8080", "https://[::1]:1/", "HTTPS://a"]
    {
        assert!(strict_url(url).is_ok(), "{url:?}");
    }
    // A look-alike in its ASCII form is a host like any other: another one.
    assert_ne!(
        strict_url("https://xn--rm-2mc.example").map(|url| url.origin()),
        strict_url("https://crm.example").map(|url| url.origin())
    );
}

#[test]
fn hostile_calls_are_refused() {
    for method in ["CONNECT", "TRACE", "trace", "Connect", "TRACK", "", "GE T", "GET\r\n", "GÉT"] {
        let call = ApiCall { method: method.into(), ..call() };
        assert_eq!(check_call(&call), Err(CallFault::Method), "{method:?}");
    }
    for name in [
        "Authorization",
        "proxy-authorization",
        "HOST",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "Cookie",
        "X-Forwarded-For",
        "x-forwarded-anything",
        "X_Forwarded_For",
        "content_length",
        "Forwarded",
        "TE",
        "Upgrade",
        "X-HTTP-Method-Override",
        "X-Original-URL",
    ] {
        let call = ApiCall { headers: vec![(name.into(), "x".into())], ..call() };
        assert_eq!(check_call(&call), Err(CallFault::ForbiddenHeader(0)), "{name:?}");
    }
    for (name, value, fault) in [
        ("A\r\nB", "x", CallFault::HeaderName(0)),
        ("A B", "x", CallFault::HeaderName(0)),
        ("", "x", CallFault::HeaderName(0)),
        ("A:", "x", CallFault::HeaderName(0)),
        ("A", "x\r\nAuthorization: y", CallFault::HeaderValue(0)),
        ("A", "x\ny", CallFault::HeaderValue(0)),
        ("A", "x\0", CallFault::HeaderValue(0)),
    ] {
        let call = ApiCall { headers: vec![(name.into(), value.into())], ..call() };
        assert_eq!(check_call(&call), Err(fault), "{name:?}: {value:?}");
    }
    let many = ApiCall { headers: vec![("A".into(), "x".into()); 101], ..call() };
    assert_eq!(check_call(&many), Err(CallFault::TooManyHeaders));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_the_rule_passes(field in 0_usize..10, text in "\\PC{0,20}", at in 0_usize..80, byte in any::<char>()) {
        let (mut config, mut call) = (config(), call());
        let slot = match field {
            0 => &mut config.credential.credential_id,
            1 => &mut config.credential.resolver,
            2 => config.profile.token_url.as_mut().expect("set"),
            3 => &mut config.profile.scopes[0],
            4 => config.profile.audience.as_mut().expect("set"),
            5 => &mut config.profile.resource[0],
            6 => config.profile.issuer.as_mut().expect("set"),
            7 => config.profile.extra_parameters.get_mut("tenant").expect("set"),
            8 => &mut config.connection.base_url,
            _ => &mut call.method,
        };
        let original = slot.clone();
        // Either something else altogether, or the right value with one character more.
        if text.is_empty() {
            let mut changed: Vec<char> = slot.chars().collect();
            changed.insert(at.min(changed.len()), byte);
            *slot = changed.into_iter().collect();
        } else {
            slot.clone_from(&text);
        }
        let listed = ["write", "us", "POST"].contains(&slot.as_str());
        let same_place = *slot == original || matches!((strict_url(slot), strict_url(&original)), (Ok(a), Ok(b)) if a == b);
        if let Ok(permit) = decide(&policy(), &config, &call) {
            prop_assert!(permit.rule == "crm");
            prop_assert_eq!(permit.token_url.as_ref().map(::url::Url::as_str), Some("https://login.example/oauth/token"));
            let target = permit.call.expect("a call").target;
            prop_assert_eq!(target.origin().ascii_serialization(), "https://crm.example");
            prop_assert!(target.path().starts_with("/api/v2/contacts/"));
            // A base URL may differ in its path as long as the target stays below the prefix.
            prop_assert!(same_place || listed || field == 8, "field {} as {:?}", field, config);
        }
    }

    #[test]
    fn a_joined_path_stays_below_the_base(path in "[/.%25cCeEfF;a\\\\@:?#]{0,24}") {
        let base = strict_url("https://crm.example/api/v2").expect("a URL");
        if let Ok(url) = join(&base, &path) {
            prop_assert_eq!(url.origin().ascii_serialization(), "https://crm.example");
            prop_assert!(url.path().starts_with("/api/v2/"));
            prop_assert!(!url.path().split('/').any(|segment| segment == ".." || segment == "."));
        }
    }
}
