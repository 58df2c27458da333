//! What is read, and what is not.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use midward_core::Persistence;
use midward_fakes::HttpFault;
use midward_fakes::any_http::AnyHttp;
use midward_fakes::tls::{Ca, Tls};
use midward_resolvers::ResolverReport;
use serde_json::{Value, json};

use crate::bench::{Bench, pair, resolve, secret, within};

#[tokio::test]
async fn a_secret_is_read_whole_and_its_rotation_is_seen() {
    let bench = Bench::new("1h").await;
    let long = "é;\"'%+&, :\u{1F512}".repeat(256);
    bench.bao.put("oauth/crm%20prod", secret("midward", &long)).await.expect("stored");
    let resolver = bench.resolver("");
    assert_eq!((resolver.kind(), resolver.report()), ("hashicorp_vault", ResolverReport::Ready));
    let found = resolve(&resolver, "oauth/crm prod").await.expect("found");
    assert_eq!(pair(&found), ("midward", long.as_str()));
    assert_eq!(found.trace.0[0].what, "Vault answered (version 1)");
    bench.bao.put("oauth/crm%20prod", secret("midward", "new")).await.expect("stored");
    let rotated = resolve(&resolver, "oauth/crm prod").await.expect("found");
    assert_eq!(pair(&rotated), ("midward", "new"));
    assert_eq!(rotated.trace.0[0].what, "Vault answered (version 2)");
    assert_eq!(bench.log_ins(), 1);
}

#[tokio::test]
async fn fields_of_other_names_a_prefix_and_a_client_id_of_the_resolvers_are_used() {
    let bench = Bench::new("1h").await;
    bench.bao.put("oauth/crm", json!({ "user": "u", "pw": "p", "n": 7 })).await.expect("stored");
    bench.bao.put("oauth/plain", json!({ "client_secret": "s" })).await.expect("stored");
    let named = "path_prefix = 'oauth'\nfields = { client_id = 'user', client_secret = 'pw' }";
    assert_eq!(pair(&resolve(&bench.resolver(named), "crm").await.expect("found")), ("u", "p"));
    let with_id = bench.resolver("path_prefix = 'oauth'\nclient_id = 'midward'");
    assert_eq!(pair(&resolve(&with_id, "plain").await.expect("found")), ("midward", "s"));
    let bare = bench.resolver("");
    for id in ["oauth/crm", "oauth/plain"] {
        let failure = resolve(&bare, id).await.expect_err("incomplete");
        assert_eq!((failure.code.as_str(), failure.persistence), ("empty_secret", Persistence::Permanent));
    }
    bench.bao.put("oauth/crm", secret("midward", "")).await.expect("stored");
    assert_eq!(resolve(&bare, "oauth/crm").await.expect_err("empty").code, "empty_secret");
}

#[tokio::test]
async fn the_first_version_of_the_engine_is_read_too() {
    let bench = Bench::new("1h").await;
    bench.bao.allow("midward", "old/*").await.expect("policy");
    let mount = json!({ "type": "kv", "options": { "version": "1" } });
    bench.bao.api(Method::POST, "sys/mounts/old/kv", mount).await.expect("mounted");
    bench.bao.api(Method::POST, "old/kv/crm", secret("midward", "s")).await.expect("stored");
    let resolver = bench.resolver("mount = 'old/kv'\nkv_version = 1");
    let found = resolve(&resolver, "crm").await.expect("found");
    assert_eq!(pair(&found), ("midward", "s"));
    assert_eq!(found.trace.0[0].what, "Vault answered");
    assert_eq!(resolve(&resolver, "none").await.expect_err("none").code, "vault_not_found");
    // The other version's paths.
    let wrong = bench.resolver("mount = 'old/kv'");
    assert_eq!(resolve(&wrong, "crm").await.expect_err("wrong version").code, "vault_not_found");
}

#[tokio::test]
async fn what_is_missing_deleted_or_forbidden_is_said_so_without_another_sign_in() {
    let bench = Bench::new("1h").await;
    let resolver = bench.resolver("");
    let missing = resolve(&resolver, "none").await.expect_err("there is none");
    assert_eq!((missing.code.as_str(), missing.persistence), ("vault_not_found", Persistence::Permanent));
    assert!(missing.action.contains("kv_version"), "{missing}");
    bench.bao.put("gone", secret("a", "b")).await.expect("stored");
    bench.bao.api(Method::DELETE, "secret/data/gone", Value::Null).await.expect("deleted");
    assert_eq!(resolve(&resolver, "gone").await.expect_err("deleted").code, "vault_secret_disabled");
    bench.bao.allow("midward", "secret/data/open/*").await.expect("policy");
    bench.bao.put("closed", secret("a", "b")).await.expect("stored");
    for _ in 0..3 {
        let denied = resolve(&resolver, "closed").await.expect_err("forbidden");
        assert_eq!((denied.code.as_str(), denied.persistence), ("vault_denied", Persistence::Permanent));
    }
    assert_eq!(bench.log_ins(), 1, "the token was good");
    let nowhere = bench.resolver("mount = 'nowhere'");
    assert_eq!(resolve(&nowhere, "crm").await.expect_err("no mount").code, "vault_denied");
}

#[tokio::test]
async fn each_namespace_has_its_own_secrets() {
    let bench = Bench::new("1h").await;
    bench.bao.api(Method::POST, "sys/namespaces/team", json!({})).await.expect("namespace");
    let in_team = |method, path, body| bench.bao.api_in(Some("team"), method, path, body);
    let mount = json!({ "type": "kv", "options": { "version": "2" } });
    in_team(Method::POST, "sys/mounts/secret", mount).await.expect("mounted");
    in_team(Method::POST, "secret/data/crm", json!({ "data": secret("team", "t") })).await.expect("stored");
    bench.bao.put("crm", secret("root", "r")).await.expect("stored");
    assert_eq!(pair(&resolve(&bench.resolver(""), "crm").await.expect("found")), ("root", "r"));

    // Signed in where the role is, with a policy for the namespace below.
    bench.bao.allow("midward", "team/secret/data/*").await.expect("policy");
    let below = bench.resolver("namespace = 'team'\nauth_namespace = ''");
    assert_eq!(pair(&resolve(&below, "crm").await.expect("found")), ("team", "t"));
    let nobody = bench.resolver("namespace = 'team'");
    assert_eq!(resolve(&nobody, "crm").await.expect_err("no such role there").code, "vault_login_refused");

    // A role of the namespace's own.
    in_team(Method::POST, "sys/auth/approle", json!({ "type": "approle" })).await.expect("auth method");
    let rule = json!({ "policy": "path \"secret/data/*\" { capabilities = [\"read\"] }" });
    in_team(Method::PUT, "sys/policies/acl/reader", rule).await.expect("policy");
    in_team(Method::POST, "auth/approle/role/own", json!({ "token_policies": "reader" })).await.expect("role");
    let id = in_team(Method::GET, "auth/approle/role/own/role-id", Value::Null).await.expect("role id");
    let own = in_team(Method::POST, "auth/approle/role/own/secret-id", json!({})).await.expect("secret id");
    let file = bench.write("own", own["data"]["secret_id"].as_str().expect("a secret id"));
    let auth =
        format!("method = 'approle'\nrole_id = {}\nsecret_id_file = '{}'", id["data"]["role_id"], file.display());
    let own = bench.with_auth("namespace = 'team/'", &auth);
    assert_eq!(pair(&resolve(&own, "crm").await.expect("found")), ("team", "t"));
}

#[tokio::test]
async fn identifiers_that_could_ask_for_something_else_ask_nothing() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new("1h").await);
    let resolver = bench.at(&server.url(), "path_prefix = 'oauth'", &bench.app_role(""));
    let long = "a".repeat(161);
    for bad in
        ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "a?b", "a#b", "a%2fb", "a\\b", "-a", "a;b", "a\nb", &long]
    {
        let failure = resolve(&resolver, bad).await.expect_err(bad);
        assert_eq!((failure.code.as_str(), failure.persistence), ("invalid_credential_id", Persistence::Permanent));
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn answers_that_no_vault_gives_are_failures_without_their_text() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new("1h").await);
    // The sign-in is the first that meets them.
    let faults = [
        (HttpFault::Html200, "vault_answer_invalid"),
        (HttpFault::Empty200, "vault_answer_invalid"),
        (respond(200, r#"{"auth":null}"#), "vault_answer_invalid"),
        (
            respond(200, r#"{"auth":{"client_token":"a\r\nX: y","lease_duration":1,"renewable":true}}"#),
            "vault_answer_invalid",
        ),
        (respond(400, "<html>canary</html>"), "vault_answer_invalid"),
        (respond(400, r#"{"errors":["canary"]}"#), "vault_login_refused"),
        (respond(503, r#"{"errors":["canary: Vault is sealed"]}"#), "vault_unavailable"),
        (HttpFault::Error500, "vault_unavailable"),
        (HttpFault::TooManyRequests { retry_after: "1".into() }, "vault_throttled"),
        (HttpFault::Redirect { location: "http://127.0.0.1:1/".into() }, "vault_unavailable"),
        (HttpFault::Large { bytes: 4 << 20 }, "vault_answer_invalid"),
        (HttpFault::Raw { bytes: "canary\r\n\r\n".into() }, "vault_answer_invalid"),
        (HttpFault::DropAfterRead, "vault_unreachable"),
        (HttpFault::Hang, "vault_timeout"),
    ];
    for (fault, code) in faults {
        server.set_fault(fault.clone());
        let resolver = bench.at(&server.url(), "timeout_ms = 2000", &bench.app_role(""));
        let failure = resolve(&resolver, "crm").await.expect_err("no secret");
        assert_eq!(failure.code, code, "{fault:?}: {failure}");
        assert!(!failure.to_string().contains("canary"), "{failure}");
        assert!(matches!(resolver.report(), ResolverReport::Degraded(_)), "{fault:?}");
    }
}

fn respond(status: u16, body: &str) -> HttpFault {
    HttpFault::Respond { status, headers: Vec::new(), body: body.to_owned() }
}

#[tokio::test]
async fn the_callers_deadline_holds_and_an_unknown_ca_is_not_trusted() {
    let (server, bench) = (AnyHttp::start(Tls::Plain).expect("server"), Bench::new("1h").await);
    server.set_fault(HttpFault::Hang);
    let resolver = bench.at(&server.url(), "", &bench.app_role(""));
    let late = within(&resolver, "crm", Duration::from_millis(50)).await.expect_err("late");
    assert_eq!((late.code.as_str(), late.persistence), ("vault_timeout", Persistence::Transient));
    assert!(late.detail.contains("50 ms"), "{late}");
    assert!(matches!(resolver.report(), ResolverReport::Degraded(_)), "a caller's shorter patience hides nothing");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let dead = bench.at(&format!("http://{closed}"), "", &bench.app_role(""));
    assert_eq!(resolve(&dead, "crm").await.expect_err("dead").code, "vault_unreachable");
    let ca = Arc::new(Ca::generate("vault CA").expect("CA"));
    let server = AnyHttp::start(Tls::Server(ca)).expect("server");
    let untrusting = bench.at(&server.url(), "", &bench.app_role(""));
    assert_eq!(resolve(&untrusting, "crm").await.expect_err("unknown CA").code, "vault_tls");
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn settings_that_cannot_work_make_the_resolver_unusable_with_the_reason() {
    let bench = Bench::new("1h").await;
    let auth = bench.app_role("");
    for (url, more) in [
        ("http://vault.example", ""),
        ("https://u:p@vault.example", ""),
        ("https://vault.example", "kv_version = 3"),
        ("https://vault.example", "mount = '/secret'"),
        ("https://vault.example", "path_prefix = 'a/../b'"),
        ("https://vault.example", "namespace = 'a b'"),
    ] {
        let resolver = bench.at(url, more, &auth);
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)), "{url} {more}");
        assert_eq!(resolve(&resolver, "crm").await.expect_err("unusable").code, "resolver_misconfigured");
    }
}
