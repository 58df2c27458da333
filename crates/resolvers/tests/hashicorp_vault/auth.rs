//! Each way to sign in.

use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use midward_core::{Clock as _, SystemClock};
use midward_fakes::HttpFault;
use midward_fakes::any_http::AnyHttp;
use midward_fakes::client;
use midward_fakes::openbao::ROOT;
use midward_fakes::tls::{Ca, Tls};
use midward_resolvers::ResolverReport;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::bench::{Bench, SECRET_ID, pair, resolve, secret, until};

#[tokio::test]
async fn a_wrong_secret_id_is_not_insisted_on_and_a_right_one_heals_at_once() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    bench.write("secret-id", "wrong-hunter2");
    let resolver = bench.resolver("");
    for _ in 0..20 {
        let refused = resolve(&resolver, "crm").await.expect_err("refused");
        assert_eq!(refused.code, "vault_login_refused");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    assert!(bench.log_ins() < 10, "{} sign-ins", bench.log_ins());
    assert!(matches!(resolver.report(), ResolverReport::Degraded(why) if why.contains("vault_login_refused")));
    bench.write("secret-id", SECRET_ID);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("healed")), ("midward", "s"));
    assert_eq!(resolver.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused_and_one_that_comes_later_is_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let file = bench.folder.path().join("secret-id");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("mode");
    let resolver = bench.resolver("");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("exposed").code, "resolver_misconfigured");
    std::fs::remove_file(&file).expect("removed");
    resolver.warm_up().await;
    assert!(matches!(resolver.report(), ResolverReport::Degraded(_)));
    assert_eq!(bench.log_ins(), 0);
    bench.write("secret-id", SECRET_ID);
    // By the background task alone.
    until("a sign-in", async || resolver.report() == ResolverReport::Ready).await;
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

#[tokio::test]
async fn a_wrapped_secret_id_is_unwrapped_once_and_serves_later_sign_ins() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    bench.write("secret-id", &wrapped(&bench, "auth/approle/role/mid/secret-id").await);
    let resolver = bench.with_auth("", &bench.app_role("wrapped = true"));
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    let revoke = "sys/leases/revoke-prefix/auth/approle";
    bench.bao.api(Method::PUT, revoke, json!({})).await.expect("revoked");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    assert_eq!((bench.log_ins(), bench.asked("POST /v1/sys/wrapping/unwrap ")), (2, 1));

    // Another MID, with the same token: it comes too late, and says what that may mean.
    let late = bench.with_auth("", &bench.app_role("wrapped = true"));
    let failure = resolve(&late, "crm").await.expect_err("used up");
    assert_eq!(failure.code, "vault_wrapping_refused");
    assert!(failure.action.contains("somebody else"), "{failure}");

    // What somebody else had wrapped is not even unwrapped.
    bench.write("secret-id", &wrapped(&bench, "auth/token/create").await);
    let failure = resolve(&late, "crm").await.expect_err("of another kind");
    assert_eq!(failure.code, "vault_wrapping_refused");
    assert_eq!(bench.asked("POST /v1/sys/wrapping/unwrap "), 1);
}

async fn wrapped(bench: &Bench, path: &str) -> String {
    let request = http::Request::post(format!("{}/v1/{path}", bench.bao.url()))
        .header("x-vault-token", ROOT)
        .header("x-vault-wrap-ttl", "300")
        .body("{}".into())
        .expect("a request");
    let answer = client::send(request, None).await.expect("an answer");
    let answer: Value = serde_json::from_slice(answer.body()).expect("JSON");
    answer["wrap_info"]["token"].as_str().expect("a wrapping token").to_owned()
}

#[tokio::test]
async fn a_token_of_an_administrators_is_renewed_replaced_and_never_revoked() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let first = token(&bench).await;
    let file = bench.write("token", &format!("{first}\n"));
    let auth = format!("method = 'token'\ntoken_file = '{}'", file.display());
    let resolver = bench.with_auth("", &auth);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    bench.bao.api(Method::POST, "auth/token/revoke", json!({ "token": first })).await.expect("revoked");
    let refused = resolve(&resolver, "crm").await.expect_err("revoked");
    assert_eq!(refused.code, "vault_login_refused");
    let second = token(&bench).await;
    bench.write("token", &second);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("replaced")), ("midward", "s"));
    resolver.shut_down().await;
    let known = bench.bao.api(Method::POST, "auth/token/lookup", json!({ "token": second })).await.expect("known");
    assert_eq!(known["data"]["policies"], json!(["default", "midward"]));
}

async fn token(bench: &Bench) -> String {
    let order = json!({ "policies": ["midward"], "ttl": "1h" });
    let made = bench.bao.api(Method::POST, "auth/token/create", order).await.expect("a token");
    made["auth"]["client_token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_signed_token_is_exchanged() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let key = KeyPair::generate().expect("key");
    bench.bao.api(Method::POST, "sys/auth/workloads", json!({ "type": "jwt" })).await.expect("auth method");
    let config = json!({ "jwt_validation_pubkeys": [key.public_key_pem()], "bound_issuer": "https://issuer.example" });
    bench.bao.api(Method::POST, "auth/workloads/config", config).await.expect("configured");
    let role = json!({
        "role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub", "token_policies": ["midward"],
    });
    bench.bao.api(Method::POST, "auth/workloads/role/mid", role).await.expect("role");
    let file = bench.write("jwt", &signed(&key, &json!({ "aud": "somebody else" })));
    let auth = format!("method = 'jwt'\nrole = 'mid'\nmount = 'workloads'\ntoken_file = '{}'", file.display());
    let resolver = bench.with_auth("", &auth);
    assert_eq!(resolve(&resolver, "crm").await.expect_err("another audience").code, "vault_login_refused");
    bench.write("jwt", &signed(&key, &json!({ "aud": "vault" })));
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

fn signed(key: &KeyPair, more: &Value) -> String {
    let now = SystemClock.wall().unix_seconds();
    let mut claims = json!({
        "iss": "https://issuer.example", "sub": "system:serviceaccount:apps:midward", "iat": now, "exp": now + 600,
        "kubernetes.io": { "namespace": "apps", "serviceaccount": { "name": "midward", "uid": "uid-1" } },
    });
    claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("key");
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).expect("signed")
}

/// The vault is real; the Kubernetes API that it asks about the pod's token says what was ordered.
#[tokio::test]
async fn a_pods_token_is_exchanged_whoever_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let api = AnyHttp::start(Tls::Plain).expect("server");
    bench.bao.api(Method::POST, "sys/auth/kubernetes", json!({ "type": "kubernetes" })).await.expect("auth method");
    let config = json!({
        "kubernetes_host": api.url(), "token_reviewer_jwt": signed(&KeyPair::generate().expect("key"), &json!({})),
        "disable_local_ca_jwt": true, "kubernetes_ca_cert": Ca::generate("unused").expect("CA").pem(),
    });
    bench.bao.api(Method::POST, "auth/kubernetes/config", config).await.expect("configured");
    let role = json!({
        "bound_service_account_names": ["midward"], "bound_service_account_namespaces": ["apps"],
        "token_policies": ["midward"], "audience": "vault",
    });
    bench.bao.api(Method::POST, "auth/kubernetes/role/mid", role).await.expect("role");
    let token = signed(&KeyPair::generate().expect("key"), &json!({ "aud": ["vault"] }));
    let file = bench.write("pod", &token);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let auth = format!("method = 'kubernetes'\nrole = 'mid'\ntoken_file = '{}'", file.display());

    api.set_fault(review(&json!({ "authenticated": false, "error": "canary" })));
    let stranger = bench.with_auth("", &auth);
    assert_eq!(resolve(&stranger, "crm").await.expect_err("refused").code, "vault_login_refused");
    let user = json!({ "username": "system:serviceaccount:apps:midward", "uid": "uid-1" });
    api.set_fault(review(&json!({ "authenticated": true, "user": user, "audiences": ["vault"] })));
    let resolver = bench.with_auth("", &auth);
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

fn review(status: &Value) -> HttpFault {
    let body = json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    HttpFault::Respond { status: 201, headers, body: body.to_string() }
}

#[tokio::test]
async fn a_client_certificate_signs_in_and_is_replaced_with_its_file() {
    let bench = Bench::with_tls().await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let (ca, other) = (Ca::generate("clients").expect("CA"), Ca::generate("strangers").expect("CA"));
    bench.bao.api(Method::POST, "sys/auth/cert", json!({ "type": "cert" })).await.expect("auth method");
    let role = json!({ "certificate": ca.pem(), "allowed_common_names": "mid-1", "token_policies": "midward", "token_ttl": "1h" });
    bench.bao.api(Method::POST, "auth/cert/certs/mid", role).await.expect("role");
    let show = |ca: &Ca, name: &str| {
        let identity = ca.issue_client(name).expect("certificate");
        (bench.write("cert.pem", &identity.certificate_pem), bench.write("key.pem", &identity.key_pem))
    };
    let (certificate, key) = show(&other, "mid-1");
    let auth = format!(
        "method = 'cert'\nrole = 'mid'\ncertificate_file = '{}'\nkey_file = '{}'",
        certificate.display(),
        key.display()
    );
    let resolver = bench.with_auth("", &auth);
    assert_eq!(resolve(&resolver, "crm").await.expect_err("a stranger").code, "vault_login_refused");
    show(&ca, "mid-2");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("another name").code, "vault_login_refused");
    show(&ca, "mid-1");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    // Revoked, and the certificate renewed: as it happens once in a while.
    bench.bao.api(Method::PUT, "sys/leases/revoke-prefix/auth/cert", json!({})).await.expect("revoked");
    show(&ca, "mid-1");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    bench.write("key.pem", &ca.issue_client("mid-1").expect("certificate").key_pem);
    bench.bao.api(Method::PUT, "sys/leases/revoke-prefix/auth/cert", json!({})).await.expect("revoked");
    assert_eq!(resolve(&resolver, "crm").await.expect_err("of another one").code, "resolver_misconfigured");
}
