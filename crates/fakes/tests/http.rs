//! The authorization server, the target API, the proxy and the tap, over HTTP and TLS.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use midward_core::{Clock as _, ManualClock, SystemClock};
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{
    AuthorizationServer, AuthorizationServerConfig, BasicDecoding, OAuthClient, OAuthFault, SigningAlgorithm,
    TokenFault,
};
use midward_fakes::client;
use midward_fakes::proxy::{Proxy, ProxyConfig};
use midward_fakes::tap::Tap;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use midward_fakes::tls::{Ca, Tls};
use serde_json::Value;

const ID: &str = "id:/+%=& ";
const SECRET: &str = "se:/+%=& cret";
const AUDIENCE: &str = "https://api.example";

fn config() -> AuthorizationServerConfig {
    AuthorizationServerConfig { clients: vec![OAuthClient::new(ID, SECRET)], ..AuthorizationServerConfig::default() }
}

fn encoded(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn token_request(server: &AuthorizationServer, authorization: Option<String>, body: &str) -> Request<Bytes> {
    let mut request = Request::post(server.token_url()).header("content-type", "application/x-www-form-urlencoded");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.body(Bytes::from(body.to_owned())).expect("a request")
}

async fn ask(server: &AuthorizationServer) -> std::io::Result<Response<Bytes>> {
    let credentials = basic(&encoded(ID), &encoded(SECRET));
    let body = "grant_type=client_credentials&scope=read+write";
    client::send(token_request(server, Some(credentials), body), None).await
}

fn json(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).expect("JSON")
}

async fn call(api: &TargetApi, method: &str, path: &str, token: &str) -> std::io::Result<Response<Bytes>> {
    let request = Request::builder().method(method).uri(format!("{}{path}", api.url()));
    let request = request.header("authorization", format!("Bearer {token}")).body(Bytes::from("body")).expect("good");
    client::send(request, None).await
}

#[tokio::test]
async fn both_client_authentication_methods_get_a_token_and_two_at_once_do_not() {
    let server = AuthorizationServer::start(config()).expect("starts");
    let good = ask(&server).await.expect("an answer");
    assert_eq!(good.status(), StatusCode::OK);
    assert_eq!(json(&good)["token_type"], "Bearer");
    assert_eq!(json(&good)["expires_in"], 300);
    assert_eq!(json(&good)["scope"], "read write");
    let post = format!("grant_type=client_credentials&client_id={}&client_secret={}", encoded(ID), encoded(SECRET));
    let send = |authorization, body: String| {
        let request = token_request(&server, authorization, &body);
        async move { client::send(request, None).await.expect("an answer") }
    };
    assert_eq!(send(None, post.clone()).await.status(), StatusCode::OK);
    let both = send(Some(basic(&encoded(ID), &encoded(SECRET))), post).await;
    assert_eq!((both.status(), json(&both)["error"].clone()), (StatusCode::BAD_REQUEST, "invalid_request".into()));
    let plain = "grant_type=client_credentials".to_owned();
    let raw = send(Some(basic(ID, SECRET)), plain.clone()).await;
    assert_eq!((raw.status(), json(&raw)["error"].clone()), (StatusCode::UNAUTHORIZED, "invalid_client".into()));
    let seen = server.requests();
    assert_eq!((seen[0].method, seen[0].client_id.as_str()), ("client_secret_basic", ID));
    assert_eq!(seen[1].method, "client_secret_post");
    assert!(seen.iter().all(|request| request.form.iter().all(|(name, _)| name != "client_secret")));

    let raw_server = AuthorizationServer::start(AuthorizationServerConfig {
        clients: vec![OAuthClient::new("plain", SECRET)],
        basic_decoding: BasicDecoding::Raw,
        ..config()
    })
    .expect("starts");
    let request = token_request(&raw_server, Some(basic("plain", SECRET)), &plain);
    assert_eq!(client::send(request, None).await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_rotated_secret_ends_the_old_one_unless_both_live() {
    let server = AuthorizationServer::start(config()).expect("starts");
    assert!(server.set_client_secret(ID, "new", true));
    assert_eq!(ask(&server).await.expect("an answer").status(), StatusCode::OK);
    assert!(server.set_client_secret(ID, "newer", false));
    assert_eq!(ask(&server).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert!(!server.set_client_secret("nobody", "x", false));
}

#[tokio::test]
async fn token_faults_come_to_order() {
    let server = AuthorizationServer::start(config()).expect("starts");
    let oauth = |fault| TokenFault::OAuth(fault);
    server.set_fault(oauth(OAuthFault::WithoutExpiresIn), Some(1));
    assert!(json(&ask(&server).await.expect("an answer")).get("expires_in").is_none());
    server.set_fault(oauth(OAuthFault::ExpiresIn { json: "\"60\"".to_owned() }), Some(1));
    assert_eq!(json(&ask(&server).await.expect("an answer"))["expires_in"], "60");
    server.set_fault(oauth(OAuthFault::TokenType { json: "\"mac\"".to_owned() }), Some(1));
    assert_eq!(json(&ask(&server).await.expect("an answer"))["token_type"], "mac");
    server.set_fault(oauth(OAuthFault::UnauthorizedClient), Some(1));
    assert_eq!(json(&ask(&server).await.expect("an answer"))["error"], "unauthorized_client");
    server.set_fault(oauth(OAuthFault::Error200), Some(1));
    let error = ask(&server).await.expect("an answer");
    assert_eq!((error.status(), json(&error)["error"].clone()), (StatusCode::OK, "server_error".into()));
    server.set_fault(oauth(OAuthFault::SameToken), Some(2));
    let first = json(&ask(&server).await.expect("an answer"));
    assert_eq!(first["access_token"], json(&ask(&server).await.expect("an answer"))["access_token"]);

    let order = |fault| server.set_fault(TokenFault::Http(fault), Some(1));
    order(HttpFault::TooManyRequests { retry_after: "7".to_owned() });
    let limited = ask(&server).await.expect("an answer");
    assert_eq!(
        (limited.status(), &limited.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"7".parse().expect("good"))
    );
    for fault in [HttpFault::DropBeforeRead, HttpFault::DropAfterRead, HttpFault::Raw { bytes: "nonsense".to_owned() }]
    {
        order(fault.clone());
        assert!(ask(&server).await.is_err(), "{fault:?}");
    }
    order(HttpFault::Raw { bytes: "HTTP/1.1 200 OK\r\nX-Odd: 1\r\nContent-Length: 2\r\n\r\nok".to_owned() });
    assert_eq!(ask(&server).await.expect("an answer").headers()["x-odd"], "1");
    order(HttpFault::Gzip);
    assert!(ask(&server).await.expect("an answer").body().starts_with(&[0x1f, 0x8b]));
    order(HttpFault::Large { bytes: 10_000_000 });
    assert_eq!(ask(&server).await.expect("an answer").body().len(), 10_000_000);
    order(HttpFault::Drip { millis: 1 });
    assert!(json(&ask(&server).await.expect("an answer"))["access_token"].is_string());
    order(HttpFault::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(100), ask(&server)).await.is_err());
    assert_eq!(ask(&server).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(server.requests().iter().filter(|request| request.error.as_deref() == Some("fault")).count(), 6);
}

#[tokio::test]
async fn the_api_takes_good_tokens_only_and_counts_what_it_did() {
    for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::Rs256] {
        let now = SystemClock;
        let clock = Arc::new(ManualClock::new(now.boot(), now.wall()));
        let server =
            AuthorizationServer::start(AuthorizationServerConfig { algorithm, clock: clock.clone(), ..config() })
                .expect("starts");
        let mut api_config = TargetApiConfig::new(&server.url(), &server.jwks_url(), AUDIENCE);
        api_config.required_scope = Some("read".to_owned());
        api_config.clock = clock.clone();
        let api = TargetApi::start(api_config).expect("starts");
        let token = json(&ask(&server).await.expect("an answer"))["access_token"].as_str().expect("text").to_owned();

        assert_eq!(call(&api, "GET", "/api/hello", &token).await.expect("an answer").status(), StatusCode::OK);
        assert_eq!(json(&call(&api, "POST", "/api/counter", &token).await.expect("an answer"))["count"], 1);
        let echo = json(&call(&api, "PUT", "/api/echo/x?a=1", &token).await.expect("an answer"));
        assert_eq!(
            (echo["method"].as_str(), echo["query"].as_str(), echo["body"].as_str()),
            (Some("PUT"), Some("a=1"), Some("body"))
        );
        assert!(!echo.to_string().contains(&token));
        let told = call(&api, "GET", "/api/echo-token", &token).await.expect("an answer");
        assert_eq!(told.headers()["x-echoed-token"], token);
        assert_eq!(
            call(&api, "GET", "/api/status/418", &token).await.expect("an answer").status(),
            StatusCode::IM_A_TEAPOT
        );
        assert_eq!(call(&api, "GET", "/api/bytes/1000", &token).await.expect("an answer").body().len(), 1000);
        assert_eq!((api.counter(), api.executed().len()), (1, 6));

        api.set_fault(HttpFault::DropAfterRead, Some(1));
        assert!(call(&api, "POST", "/api/counter", &token).await.is_err());
        api.set_fault(HttpFault::DropBeforeRead, Some(1));
        assert!(call(&api, "POST", "/api/counter", &token).await.is_err());
        assert_eq!(api.counter(), 2, "dropped after reading is executed, dropped before is not");

        let wrong_audience = server.issue(ID, "read", "https://other.example").expect("a token");
        let wrong_scope = server.issue(ID, "write", AUDIENCE).expect("a token");
        let mut forged = token.clone();
        forged.replace_range(token.len() - 8..token.len() - 4, "AAAA");
        for (bad, status) in [
            (wrong_audience.as_str(), StatusCode::UNAUTHORIZED),
            (&wrong_scope, StatusCode::FORBIDDEN),
            (&forged, StatusCode::UNAUTHORIZED),
            ("not.a.token", StatusCode::UNAUTHORIZED),
        ] {
            let response = call(&api, "GET", "/api/hello", bad).await.expect("an answer");
            assert_eq!(response.status(), status, "{bad}");
            assert!(response.headers().contains_key("www-authenticate"));
        }
        api.revoke_all_before(clock.wall());
        let revoked = call(&api, "GET", "/api/hello", &token).await.expect("an answer");
        assert_eq!(revoked.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        clock.advance(Duration::from_millis(1));
        let fresh = server.issue(ID, "read", AUDIENCE).expect("a token");
        assert_eq!(call(&api, "GET", "/api/hello", &fresh).await.expect("an answer").status(), StatusCode::OK);
        clock.advance(Duration::from_secs(301));
        assert_eq!(
            call(&api, "GET", "/api/hello", &fresh).await.expect("an answer").status(),
            StatusCode::UNAUTHORIZED
        );
    }
}

#[tokio::test]
async fn metadata_introspection_and_revocation_work() {
    let server = AuthorizationServer::start(config()).expect("starts");
    let metadata = client::get(&format!("{}/.well-known/oauth-authorization-server", server.url()), None).await;
    assert_eq!(json(&metadata.expect("an answer"))["issuer"], server.url());
    let token = server.issue(ID, "read", AUDIENCE).expect("a token");
    for (path, active) in [("introspect", Some(true)), ("revoke", None), ("introspect", Some(false))] {
        let request = Request::post(format!("{}/{path}", server.url()))
            .header("authorization", basic(&encoded(ID), &encoded(SECRET)))
            .body(Bytes::from(format!("token={token}")))
            .expect("a request");
        let answer = client::send(request, None).await.expect("an answer");
        assert_eq!(json(&answer)["active"].as_bool(), active);
    }
}

#[tokio::test]
async fn tls_is_trusted_by_the_ca_and_clients_may_be_asked_for_theirs() {
    let ca = Arc::new(Ca::generate("test CA").expect("a CA"));
    let server = AuthorizationServer::start(AuthorizationServerConfig { tls: Tls::Server(ca.clone()), ..config() });
    let server = server.expect("starts");
    let good = client::get(&server.jwks_url(), Some(ca.client_config().expect("a set-up"))).await;
    assert_eq!(good.expect("an answer").status(), StatusCode::OK);
    let stranger = Ca::generate("another CA").expect("a CA").client_config().expect("a set-up");
    assert!(client::get(&server.jwks_url(), Some(stranger)).await.is_err());
    let mutual = AuthorizationServer::start(AuthorizationServerConfig { tls: Tls::Mutual(ca.clone()), ..config() });
    let anonymous = Some(ca.client_config().expect("a set-up"));
    assert!(client::get(&mutual.expect("starts").jwks_url(), anonymous).await.is_err());
}

#[tokio::test]
async fn the_tap_and_the_proxy_pass_on_and_remember() {
    let server = AuthorizationServer::start(config()).expect("starts");
    let tap = Tap::start(server.addr()).expect("starts");
    let keys = client::get(&format!("{}/jwks", tap.url()), None).await.expect("an answer");
    assert_eq!(keys.status(), StatusCode::OK);
    assert!(tap.tapped().sent.starts_with(b"GET /jwks"));
    assert!(tap.tapped().received.ends_with(keys.body()));

    let credentials = Some(("user".to_owned(), "pass".to_owned()));
    let proxy = Proxy::start(ProxyConfig { credentials, ..ProxyConfig::default() }).expect("starts");
    for (authorization, status) in [(None, "407"), (Some(basic("user", "pass")), "200")] {
        let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.expect("connects");
        let shown = authorization.map(|shown| format!("Proxy-Authorization: {shown}\r\n")).unwrap_or_default();
        let head = format!("CONNECT {} HTTP/1.1\r\nHost: {}\r\n{shown}\r\n", server.addr(), server.addr());
        let answer = exchange(&mut stream, &head, b"\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        if status == "200" {
            let answer = exchange(&mut stream, "GET /jwks HTTP/1.1\r\nHost: x\r\n\r\n", b"]}").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(proxy.tapped().sent.starts_with(b"GET /jwks"));
        }
    }
    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.expect("connects");
    let shown = basic("user", "pass");
    let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {shown}\r\n\r\n", server.jwks_url());
    assert!(exchange(&mut stream, &head, b"]}").await.starts_with("HTTP/1.1 200"));
    let authorized: Vec<bool> = proxy.requests().iter().map(|request| request.authorized).collect();
    assert_eq!(authorized, [false, true, true]);
}

/// Sends a head and reads until the end is seen.
async fn exchange(stream: &mut tokio::net::TcpStream, head: &str, end: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = async {
        while !answer.windows(end.len()).any(|window| window == end) {
            assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "closed early");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}
