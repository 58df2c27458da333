//! Clients of the API: roles, rotation, expiry, tokens, rates, entity tags, pages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::{Value, json};

use super::support::{Instance, Place, ScriptedMid};
use super::{submit, with_document};

async fn key(instance: &Instance, fields: Value) -> String {
    let (status, answer) = instance.post("/api/v1/api-keys", &fields).await;
    assert_eq!(status, 201, "{answer}");
    answer["key"].as_str().expect("a key").to_owned()
}

pub(crate) async fn each_role_may_do_its_own_and_nothing_else(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "GET").await;
    let leases = mid.poll(&instance, 5000, true).await;
    assert_eq!(mid.report(&instance, &id, leases[0].epoch, "private").await, "accepted");
    let waiting = json!({"connection": "crm", "method": "POST", "path": "/", "expires_in_ms": 60000});
    let call = json!({"connection": "crm", "method": "GET", "path": "/"});
    let connection = json!({"base_url": "https://api.test/v2", "credential": "crm-cred"});
    let client = json!({"name": "x", "role": "auditor"});
    // Method, path, body; status for administrator, operator, auditor, caller.
    let cases = [
        (Method::GET, "/api/v1/connections", &Value::Null, [200, 200, 200, 403]),
        (Method::GET, "/api/v1/mids", &Value::Null, [200, 200, 200, 403]),
        (Method::GET, "/api/v1/api-keys", &Value::Null, [200, 403, 200, 403]),
        (Method::PUT, "/api/v1/connections/crm", &connection, [200, 403, 403, 403]),
        (Method::POST, "/api/v1/mids/enroll-tokens", &json!({}), [201, 403, 403, 403]),
        (Method::POST, "/api/v1/mids/mid-a/validate", &Value::Null, [200, 403, 403, 403]),
        (Method::POST, "/api/v1/mids/mid-a/pause", &Value::Null, [200, 200, 403, 403]),
        (Method::POST, "/api/v1/mids/mid-a/resume", &Value::Null, [200, 200, 403, 403]),
        (Method::POST, "/api/v1/api-keys", &client, [201, 403, 403, 403]),
        (Method::POST, "/api/v1/requests", &call, [202, 403, 403, 202]),
    ];
    let mut keys = vec![instance.key.clone()];
    for role in ["operator", "auditor", "caller"] {
        keys.push(key(&instance, json!({"name": role, "role": role, "connections": ["crm"]})).await);
    }
    for (method, path, body, expected) in cases {
        for (key, expected) in keys.iter().zip(expected) {
            let (status, answer) = instance.api_as(key, method.clone(), path, body).await;
            assert_eq!(status, expected, "{method} {path}: {answer}");
        }
    }
    let path = format!("/api/v1/requests/{id}");
    for (key, sees, reads) in [(&keys[0], 200, true), (&keys[1], 200, false), (&keys[2], 200, false)] {
        let (status, answer) = instance.api_as(key, Method::GET, &path, &Value::Null).await;
        assert_eq!((status, answer["status"].as_u64()), (sees, Some(201)), "{answer}");
        assert_eq!(answer["body_base64"] == json!(STANDARD.encode("private")), reads, "{answer}");
    }
    assert_eq!(instance.api_as(&keys[3], Method::GET, &path, &Value::Null).await.0, 404);
    let (_, answer) = instance.post("/api/v1/mids/mid-a/pause", &Value::Null).await;
    assert_eq!(answer["state"], "paused");
    let (_, answer) = instance.post("/api/v1/requests", &waiting).await;
    let path = format!("/api/v1/requests/{}/cancel", answer["id"].as_str().expect("an id"));
    assert_eq!(instance.api_as(&keys[2], Method::POST, &path, &Value::Null).await.0, 403);
    assert_eq!(instance.api_as(&keys[1], Method::POST, &path, &Value::Null).await.0, 200);
    instance.stop().await;
}

pub(crate) async fn a_rotated_key_overlaps_and_an_expired_one_is_refused(place: Place) {
    let instance = with_document(&place).await;
    let call = |key: String| {
        let instance = &instance;
        async move { instance.api_as(&key, Method::GET, "/api/v1/requests", &Value::Null).await.0 }
    };
    let old = key(&instance, json!({"name": "app", "role": "caller", "expires_in_seconds": 1000})).await;
    let (status, answer) = instance.post("/api/v1/api-keys/app/rotate", &json!({"overlap_seconds": 100})).await;
    assert_eq!((status, &answer["expires_at"]), (200, &Value::Null), "{answer}");
    let new = answer["key"].as_str().expect("a key").to_owned();
    assert!(answer["prefix"].as_str().is_some_and(|prefix| new.starts_with(prefix) && !old.starts_with(prefix)));
    assert_eq!((call(old.clone()).await, call(new.clone()).await), (200, 200), "side by side");
    instance.clock.set_wall_ahead(101);
    assert_eq!((call(old).await, call(new.clone()).await), (401, 200));
    let (_, answer) =
        instance.post("/api/v1/api-keys/app/rotate", &json!({"overlap_seconds": 0, "expires_in_seconds": 50})).await;
    let newest = answer["key"].as_str().expect("a key").to_owned();
    assert_eq!((call(new).await, call(newest.clone()).await), (401, 200));
    instance.clock.set_wall_ahead(152);
    assert_eq!(call(newest).await, 401);
    let (_, answer) = instance.get("/api/v1/api-keys/app").await;
    assert!(answer["key"].is_null() && answer["prefix"].is_string(), "{answer}");
    instance.stop().await;
}

async fn token(instance: &Instance, basic: Option<&str>, form: &str) -> Response<Bytes> {
    let mut request = Request::post(format!("{}/api/v1/oauth/token", instance.started.public_url))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(basic) = basic {
        request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(basic)));
    }
    instance.send(request.body(Bytes::from(form.to_owned())).expect("a request")).await
}

pub(crate) async fn an_oauth_client_gets_short_lived_tokens_at_the_instances_own_endpoint(place: Place) {
    let instance = with_document(&place).await;
    let new = json!({"name": "billing", "role": "caller", "connections": ["crm"]});
    let (status, answer) = instance.post("/api/v1/oauth-clients", &new).await;
    assert_eq!(status, 201, "{answer}");
    let text = |name: &str| answer[name].as_str().expect("text").to_owned();
    let (id, secret) = (text("client_id"), text("client_secret"));
    for form in [
        format!("grant_type=client_credentials&client_id={id}&client_secret=wrong"),
        format!("grant_type=client_credentials&client_id={}&client_secret={secret}", "0".repeat(32)),
        "grant_type=client_credentials".to_owned(),
    ] {
        let refused = token(&instance, None, &form).await;
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("www-authenticate")), (401, true));
        assert!(String::from_utf8_lossy(refused.body()).contains("invalid_client"));
    }
    let refused = token(&instance, None, "grant_type=password&username=a&password=b").await;
    assert!(String::from_utf8_lossy(refused.body()).contains("unsupported_grant_type"));
    let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    assert_eq!(token(&instance, None, &form).await.status(), 200);
    let granted = token(&instance, Some(&format!("{id}:{secret}")), "grant_type=client_credentials").await;
    assert_eq!(
        (granted.status().as_u16(), &granted.headers()["cache-control"]),
        (200, &"no-store".parse().expect("a value"))
    );
    let granted: Value = serde_json::from_slice(granted.body()).expect("JSON");
    assert_eq!((&granted["token_type"], &granted["expires_in"]), (&json!("Bearer"), &json!(300)));
    let access = granted["access_token"].as_str().expect("a token").to_owned();
    let call = json!({"connection": "crm", "method": "GET", "path": "/"});
    let (status, submitted) = instance.api_as(&access, Method::POST, "/api/v1/requests", &call).await;
    assert_eq!(status, 202, "{submitted}");
    let (_, listed) = instance.get(&format!("/api/v1/requests?client={id}")).await;
    assert_eq!(listed["items"][0]["id"], submitted["id"], "{listed}");
    assert_eq!(instance.api_as(&access, Method::GET, "/api/v1/mids", &Value::Null).await.0, 403);
    // The secret itself is no key, and a changed token no token.
    assert_eq!(instance.api_as(&secret, Method::GET, "/api/v1/requests", &Value::Null).await.0, 401);
    let (rest, signature) = access.rsplit_once('.').expect("three parts");
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{rest}.{first}{}", &signature[1..]);
    assert_eq!(instance.api_as(&forged, Method::GET, "/api/v1/requests", &Value::Null).await.0, 401);
    instance.clock.set_wall_ahead(301);
    assert_eq!(instance.api_as(&access, Method::GET, "/api/v1/requests", &Value::Null).await.0, 401, "five minutes");
    instance.clock.set_wall_ahead(0);
    assert_eq!(instance.api_as(&access, Method::GET, "/api/v1/requests", &Value::Null).await.0, 200);
    instance.api_as(&instance.key, Method::DELETE, "/api/v1/oauth-clients/billing", &Value::Null).await;
    assert_eq!(instance.api_as(&access, Method::GET, "/api/v1/requests", &Value::Null).await.0, 401, "dropped at once");
    instance.stop().await;
}

pub(crate) async fn a_client_beyond_its_rate_is_told_when_to_come_back(place: Place) {
    let instance = with_document(&place).await;
    let slow =
        key(&instance, json!({"name": "slow", "role": "caller", "connections": ["crm"], "requests_per_second": 2}))
            .await;
    let ask = |url: String| {
        Request::get(url).header("authorization", format!("Bearer {slow}")).body(Bytes::new()).expect("a request")
    };
    let api = format!("{}/api/v1/requests", instance.started.public_url);
    let call = format!("{}/api/v1/connections/crm/call/", instance.started.call_url);
    // Two a second: of four at once, on either address, some are refused.
    let mut refused = Vec::new();
    for url in [&api, &api, &call, &api] {
        let answer = instance.send(ask(url.clone())).await;
        if answer.status() == 429 {
            refused.push(answer);
        }
    }
    let answer = refused.first().expect("one is refused");
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(String::from_utf8_lossy(answer.body()).contains("too_many_requests"));
    assert_eq!(instance.get("/api/v1/requests").await.0, 200, "others are not concerned");
    instance.clock.skip(2);
    assert_eq!(instance.send(ask(api)).await.status(), 200);
    instance.stop().await;
}

pub(crate) async fn a_change_that_depends_on_what_was_seen_is_refused_after_another_one(place: Place) {
    let instance = with_document(&place).await;
    let url = format!("{}/api/v1/connections/crm", instance.started.public_url);
    let send = |method: Method, condition: Option<(&'static str, String)>, timeout: u32| {
        let mut request =
            Request::builder().method(method).uri(&url).header("authorization", format!("Bearer {}", instance.key));
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        let body = json!({"base_url": "https://api.test/v1", "credential": "crm-cred", "timeout_ms": timeout});
        instance.send(request.body(Bytes::from(body.to_string())).expect("a request"))
    };
    let tag = |answer: &Response<Bytes>| answer.headers()["etag"].to_str().expect("text").to_owned();
    let seen = tag(&send(Method::GET, None, 0).await);
    let again = send(Method::GET, Some(("if-none-match", seen.clone())), 0).await;
    assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
    let changed = send(Method::PUT, Some(("if-match", seen.clone())), 7).await;
    assert_eq!(changed.status(), 200);
    assert_ne!(tag(&changed), seen);
    let late = send(Method::PUT, Some(("if-match", seen.clone())), 8).await;
    assert_eq!(late.status(), 412);
    assert_eq!(send(Method::DELETE, Some(("if-match", seen)), 0).await.status(), 412);
    assert_eq!(send(Method::PUT, Some(("if-none-match", "*".into())), 9).await.status(), 412, "it is there already");
    assert_eq!(instance.get("/api/v1/connections/crm").await.1["timeout_ms"], 7);
    assert_eq!(send(Method::DELETE, Some(("if-match", tag(&changed))), 0).await.status(), 204);
    assert_eq!(send(Method::PUT, Some(("if-none-match", "*".into())), 9).await.status(), 200);
    instance.stop().await;
}

pub(crate) async fn lists_come_in_pages_and_by_filters(place: Place) {
    let instance = with_document(&place).await;
    for number in 0..5 {
        let body = json!({"base_url": "https://api.test/v1", "credential": "crm-cred"});
        let path = format!("/api/v1/connections/c{number}");
        assert_eq!(instance.api_as(&instance.key, Method::PUT, &path, &body).await.0, 200);
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = instance.get(&format!("/api/v1/connections?limit=2{after}")).await;
        let items = page["items"].as_array().expect("items");
        names.extend(items.iter().map(|item| item["alias"].as_str().expect("a name").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4", "crm"]);
    let mut ids = Vec::new();
    for connection in ["crm", "c1", "crm"] {
        let request = json!({"connection": connection, "method": "GET", "path": "/"});
        ids.push(instance.post("/api/v1/requests", &request).await.1["id"].as_str().expect("an id").to_owned());
    }
    let (_, page) = instance.get("/api/v1/requests?connection=crm&limit=1&state=queued").await;
    let [newest] = page["items"].as_array().expect("items").as_slice() else { panic!("one: {page}") };
    assert!(newest["id"] == ids[2].as_str() || newest["id"] == ids[0].as_str(), "{page}");
    let (_, rest) =
        instance.get(&format!("/api/v1/requests?connection=crm&before={}", page["next"].as_str().expect("more"))).await;
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_ne!(rest["items"][0]["id"], newest["id"]);
    assert_eq!(instance.get("/api/v1/requests?state=replied").await.1["items"], json!([]));
    for bad in ["limit=0", "limit=x", "status=queued", "state=lost", "before=%00"] {
        let (status, problem) = instance.get(&format!("/api/v1/requests?{bad}")).await;
        assert!(status == 400 && problem["code"].is_string(), "{bad}: {problem}");
    }
    instance.stop().await;
}
