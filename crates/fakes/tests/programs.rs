//! The fakes as programs: each starts from its file, says where it is, and takes orders at its admin endpoint.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::{Request, StatusCode};
use midward_fakes::client;
use serde_json::Value;

/// A started program; it is killed when this is dropped.
struct Program {
    child: Child,
    started: Value,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path).args(arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        Self { child, started: serde_json::from_str(&line).expect("a line of JSON") }
    }

    fn text(&self, name: &str) -> String {
        self.started[name].as_str().expect("a text").to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

async fn post(url: String, body: &str) -> StatusCode {
    let request = Request::post(url).body(Bytes::from(body.to_owned())).expect("a request");
    client::send(request, None).await.expect("an answer").status()
}

#[tokio::test]
async fn the_vault_reads_its_file_and_rotates_to_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vault.toml");
    let contents = r#"
        [[applications]]
        app_id = "Midward"
        safes = ["OAuth Safe"]

        [[accounts]]
        safe = "OAuth Safe"
        name = "crm"
        user_name = "client-1"
        password = "old"
    "#;
    std::fs::write(&file, contents).expect("written");
    let vault = Program::start(env!("CARGO_BIN_EXE_fake-vault"), &["--file", file.to_str().expect("UTF-8")]);
    let ask = || {
        let output = Command::new(env!("CARGO_BIN_EXE_clipasswordsdk"))
            .env("FAKE_AIM_PORT", vault.started["port"].to_string())
            .args(["GetPassword", "-p", "AppDescs.AppID=Midward", "-p", "Query=Safe=OAuth Safe;Object=crm"])
            .args(["-o", "PassProps.UserName,Password", "-d", ":"])
            .output()
            .expect("the program runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ask(), "client-1:old\n");
    let admin = vault.text("admin_url");
    let rotated = post(format!("{admin}/accounts/OAuth%20Safe/crm/password"), r#"{"password":"new"}"#).await;
    assert_eq!((rotated, ask()), (StatusCode::OK, "client-1:new\n".to_owned()));
    let unknown = post(format!("{admin}/accounts/OAuth%20Safe/none/password"), r#"{"password":"new"}"#).await;
    assert_eq!(unknown, StatusCode::NOT_FOUND);
    let fault = r#"{"fault":{"kind":"error","code":"APPAP289E","text":"ordered"},"requests":1,"object":"crm"}"#;
    assert_eq!(post(format!("{admin}/faults"), fault).await, StatusCode::OK);
    assert_eq!((ask(), ask()), (String::new(), "client-1:new\n".to_owned()));
    let cli = r#"{"fault":{"kind":"cli","mode":"secret_on_stderr"}}"#;
    assert_eq!(post(format!("{admin}/faults"), cli).await, StatusCode::OK);
    assert_eq!(ask(), "");
    assert_eq!(post(format!("{admin}/faults"), "{}").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_ccp_serves_the_same_file_over_https() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("vault.json");
    let contents = serde_json::json!({
        "applications": [{ "app_id": "Midward", "safes": ["OAuth Safe"] }],
        "accounts": [{ "safe": "OAuth Safe", "name": "crm", "user_name": "client-1", "password": "secret" }],
    });
    std::fs::write(&file, contents.to_string()).expect("written");
    let (file, place) = (file.to_str().expect("UTF-8"), folder.path().to_str().expect("UTF-8"));
    let arguments = ["--file", file, "--folder", place, "--client-certificate", "required", "--service", "Own"];
    let ccp = Program::start(env!("CARGO_BIN_EXE_fake-ccp"), &arguments);
    // curl would do; Python is what the tests of `pyaim` have anyway.
    let script = "import ssl, sys, urllib.request as u\nc = ssl.create_default_context(cafile=sys.argv[2])\n\
                  c.load_cert_chain(sys.argv[3], sys.argv[4])\nprint(u.urlopen(sys.argv[1], context=c).read().decode())";
    let output = Command::new("python3")
        .args(["-c", script, &format!("{}/Own/api/Accounts?AppID=Midward&Object=crm", ccp.text("url"))])
        .args(["ca_file", "certificate_file", "key_file"].map(|name| ccp.text(name)))
        .output()
        .expect("Python");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(answer["Content"], "secret", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_authorization_server_and_the_api_work_together_and_take_orders() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.json");
    std::fs::write(&file, r#"[{"client_id":"crm","client_secrets":["old"]}]"#).expect("written");
    let arguments = ["--clients", file.to_str().expect("UTF-8"), "--lifetime-seconds", "60"];
    let server = Program::start(env!("CARGO_BIN_EXE_fake-authorization-server"), &arguments);
    let url = server.text("url");
    let arguments = ["--issuer", &url, "--jwks-url", &server.text("jwks_url")];
    let api = Program::start(env!("CARGO_BIN_EXE_fake-target-api"), &arguments);
    let token = |secret: &str| {
        let request = Request::post(server.text("token_url"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(format!("grant_type=client_credentials&client_id=crm&client_secret={secret}")))
            .expect("a request");
        async move { client::send(request, None).await.expect("an answer") }
    };
    let reply: Value = serde_json::from_slice(token("old").await.body()).expect("JSON");
    let call = Request::get(format!("{}/api/hello", api.text("url")))
        .header("authorization", format!("Bearer {}", reply["access_token"].as_str().expect("a token")))
        .body(Bytes::new())
        .expect("a request");
    assert_eq!(client::send(call.clone(), None).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(post(format!("{}/_revoke", api.text("url")), "").await, StatusCode::OK);
    assert_eq!(client::send(call, None).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);

    assert_eq!(post(format!("{url}/_clients/crm/secret"), r#"{"secret":"new"}"#).await, StatusCode::OK);
    assert_eq!(token("old").await.status(), StatusCode::UNAUTHORIZED);
    for fault in [r#"{"kind":"too_many_requests","retry_after":"1"}"#, r#"{"kind":"unauthorized_client"}"#] {
        let order = format!(r#"{{"fault":{fault},"requests":1}}"#);
        assert_eq!(post(format!("{url}/_faults"), &order).await, StatusCode::OK, "{fault}");
        assert!(token("new").await.status().is_client_error(), "{fault}");
    }
    assert_eq!(token("new").await.status(), StatusCode::OK);
    let stats = client::get(&format!("{url}/_stats"), None).await.expect("an answer");
    assert_eq!(serde_json::from_slice::<Value>(stats.body()).expect("JSON")["token_requests"], 5);
}

#[tokio::test]
async fn conjur_signs_in_gives_variables_and_takes_orders() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("conjur.toml");
    let contents = r#"
        account = "acme"

        [[identities]]
        login = "host/mid"
        api_key = "old"

        [[variables]]
        id = "crm/client_id"
        value = "client-1"
    "#;
    std::fs::write(&file, contents).expect("written");
    let conjur = Program::start(env!("CARGO_BIN_EXE_fake-conjur"), &["--file", file.to_str().expect("UTF-8")]);
    let url = conjur.text("url");
    let sign_in = |key: &str| {
        let request = Request::post(format!("{url}/authn/acme/host%2Fmid/authenticate"));
        let request = request.body(Bytes::from(key.to_owned())).expect("a request");
        async move { client::send(request, None).await.expect("an answer") }
    };
    let token = sign_in("old").await.into_body();
    let token = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, token);
    let read = |target: &str, encoding: &str| {
        let request = Request::get(format!("{url}/secrets{target}"))
            .header("authorization", format!("Token token=\"{token}\""))
            .header("accept-encoding", encoding)
            .body(Bytes::new())
            .expect("a request");
        async move { client::send(request, None).await.expect("an answer") }
    };
    assert_eq!(read("/acme/variable/crm%2Fclient_id", "identity").await.into_body(), "client-1");
    let encoded = read("/acme/variable/crm%2Fclient_id", "base64").await;
    assert_eq!(
        (encoded.headers()["content-encoding"].as_bytes(), &encoded.body()[..]),
        (&b"base64"[..], &b"Y2xpZW50LTE="[..])
    );
    assert_eq!(post(format!("{url}/_variables/crm/client_secret"), r#"{"value":"s"}"#).await, StatusCode::OK);
    let both = "?variable_ids=acme:variable:crm%2Fclient_id,acme:variable:crm%2Fclient_secret";
    let batch: Value = serde_json::from_slice(read(both, "identity").await.body()).expect("JSON");
    let expected =
        serde_json::json!({ "acme:variable:crm/client_id": "client-1", "acme:variable:crm/client_secret": "s" });
    assert_eq!(batch, expected);
    let one_missing = "?variable_ids=acme:variable:crm%2Fclient_id,acme:variable:none";
    assert_eq!(read(one_missing, "identity").await.status(), StatusCode::NOT_FOUND);

    assert_eq!(post(format!("{url}/_identities/host/mid/api_key"), r#"{"api_key":"new"}"#).await, StatusCode::OK);
    assert_eq!(sign_in("old").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(sign_in("new").await.status(), StatusCode::OK);
    let fault = r#"{"fault":{"kind":"error500"},"requests":1}"#;
    assert_eq!(post(format!("{url}/_faults"), fault).await, StatusCode::OK);
    assert_eq!(read(both, "identity").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let expire = Request::delete(format!("{url}/_tokens")).body(Bytes::new()).expect("a request");
    assert_eq!(client::send(expire, None).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(read(both, "identity").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(post(format!("{url}/_nothing"), "{}").await, StatusCode::BAD_REQUEST);
}
