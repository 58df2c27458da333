//! Independent clients of CyberArk's interfaces against our stand-ins: `pyaim` from PyPI, over HTTPS and over the AIM
//! client's command line; and plain HTTP requests for what it never sends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use midward_fakes::client;
use midward_fakes::tls::{Ca, Tls};
use midward_fakes::vault::ccp::{Ccp, CcpConfig, certificate_thumbprint};
use midward_fakes::vault::{Account, Application, Vault, VaultConfig, VaultFault};
use serde_json::{Value, json};

const SECRET: &str = "p@ss w;rd|\"x\" 100% +&= \u{fc}";

struct Bench {
    folder: tempfile::TempDir,
    ca: Arc<Ca>,
    vault: Vault,
    ccp: Ccp,
}

impl Bench {
    fn new(tls: fn(Arc<Ca>) -> Tls) -> Self {
        let ca = Arc::new(Ca::generate("CCP CA").expect("CA"));
        let vault = Vault::start(VaultConfig {
            applications: vec![Application::new("My App", &["O Auth"])],
            accounts: vec![
                Account::new("O Auth", "crm", "client-1", SECRET).with_address("crm.example"),
                Account::new("O Auth", "dual-a", "a", "dual").with_property("VirtualUserName", "dual"),
                Account::new("O Auth", "twin-1", "twin", "x"),
                Account::new("O Auth", "twin-2", "twin", "y"),
            ],
            ..VaultConfig::default()
        })
        .expect("the vault starts");
        let ccp = Ccp::start(&vault, CcpConfig { tls: tls(Arc::clone(&ca)), ..CcpConfig::default() })
            .expect("the CCP starts");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        Self { folder, ca, vault, ccp }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn ccp(&self, ask: Value) -> Value {
        pyaim(&json!({ "through": "ccp", "url": self.ccp.url(), "ca": self.path("ca.pem"), "ask": ask }), &self.vault)
    }

    fn cli(&self, ask: Value) -> Value {
        pyaim(&json!({ "through": "cli", "path": env!("CARGO_BIN_EXE_clipasswordsdk"), "ask": ask }), &self.vault)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::get(format!("{}{path}", self.ccp.url())).body(Bytes::new()).expect("a request");
        let config = self.ca.client_config().expect("a client's set-up");
        let answer = client::send(request, Some(config)).await.expect("an answer");
        (answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default())
    }
}

/// Runs the client; what it found, or what it raised.
fn pyaim(order: &Value, vault: &Vault) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python: PathBuf = folder.join("../../build/tools/pyaim/bin/python");
    assert!(python.exists(), "`make test` installs pyaim: no {}", python.display());
    let mut child = Command::new(python)
        .arg(folder.join("tests/pyaim/client.py"))
        .env("FAKE_AIM_PORT", vault.port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    child.stdin.take().expect("a pipe").write_all(order.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("Python ends");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn pyaim_reads_accounts_over_https() {
    let bench = Bench::new(Tls::Server);
    let found = &bench.ccp(json!({ "appid": "My App", "safe": "O Auth", "object": "crm", "reason": "a b" }))["found"];
    assert_eq!(
        (&found["Content"], &found["UserName"], &found["Address"]),
        (&json!(SECRET), &json!("client-1"), &json!("crm.example"))
    );
    assert_eq!(
        (&found["PasswordChangeInProcess"], &found["Name"], &found["Safe"]),
        (&json!("False"), &json!("crm"), &json!("O Auth"))
    );
    let by_user = bench.ccp(json!({ "appid": "My App", "safe": "O Auth", "username": "client-1", "folder": "Root" }));
    assert_eq!(by_user["found"]["Content"], SECRET);
    let dual = bench.ccp(json!({ "appid": "My App", "safe": "O Auth", "username": "dual", "dual_accounts": true }));
    assert_eq!(dual["found"]["Content"], "dual");

    let ambiguous = bench.ccp(json!({ "appid": "My App", "safe": "O Auth", "username": "twin" }));
    assert!(ambiguous["text"].as_str().is_some_and(|text| text.contains("CCP Error APPAP227E")), "{ambiguous}");
    for (ask, status) in [
        (json!({ "appid": "My App", "safe": "O Auth", "object": "none" }), "Status: 404"),
        (json!({ "appid": "Nobody", "safe": "O Auth", "object": "crm" }), "Status: 403"),
    ] {
        let raised = bench.ccp(ask);
        assert!(raised["text"].as_str().is_some_and(|text| text.contains(status)), "{raised}");
    }
    assert_eq!(bench.vault.request_count(), 6);
}

#[test]
fn pyaim_shows_a_client_certificate_where_one_is_wanted() {
    let bench = Bench::new(Tls::Mutual);
    let identity = bench.ca.issue_client("midward").expect("a certificate");
    std::fs::write(bench.path("client.pem"), &identity.certificate_pem).expect("written");
    std::fs::write(bench.path("client.key"), &identity.key_pem).expect("written");
    let certificates = Some(vec![certificate_thumbprint(&identity).expect("a thumbprint")]);
    bench.vault.add_application(Application { certificates, ..Application::new("Bound", &["O Auth"]) });
    let order = |cert: Value| {
        json!({
            "through": "ccp", "url": bench.ccp.url(), "ca": bench.path("ca.pem"), "cert": cert,
            "ask": { "appid": "Bound", "safe": "O Auth", "object": "crm" },
        })
    };
    let shown = pyaim(&order(json!([bench.path("client.pem"), bench.path("client.key")])), &bench.vault);
    assert_eq!(shown["found"]["Content"], SECRET);
    let hidden = pyaim(&order(Value::Null), &bench.vault);
    assert_eq!(hidden["raised"], "ConnectionError", "{hidden}");
    // Where it is optional, the application may still want it.
    let config = CcpConfig { tls: Tls::Optional(Arc::clone(&bench.ca)), ..CcpConfig::default() };
    let optional = Ccp::start(&bench.vault, config).expect("the CCP starts");
    let mut refused = order(Value::Null);
    refused["url"] = json!(optional.url());
    let refused = pyaim(&refused, &bench.vault);
    assert!(refused["text"].as_str().is_some_and(|text| text.contains("Status: 403")), "{refused}");
}

#[test]
fn pyaim_reads_accounts_over_the_command_line() {
    let bench = Bench::new(Tls::Server);
    let output = "PassProps.UserName,PassProps.Address,Password";
    let ask = json!({ "appid": "My App", "safe": "O Auth", "object": "crm", "output": output, "delimiter": "\u{1}" });
    let expected = json!({ "PassProps.UserName": "client-1", "PassProps.Address": "crm.example", "Password": SECRET });
    assert_eq!(bench.cli(ask)["found"], expected);
    let dual = bench.cli(json!({ "appid": "My App", "safe": "O Auth", "username": "dual", "dual_accounts": true }));
    assert_eq!(dual["found"]["Password"], "dual");
    let raised = bench.cli(json!({ "appid": "My App", "safe": "O Auth", "object": "none" }));
    assert!(raised["text"].as_str().is_some_and(|text| text.contains("APPAP004E")), "{raised}");
}

#[tokio::test]
async fn names_and_paths_have_any_case_and_a_query_overrides() {
    let bench = Bench::new(Tls::Server);
    for path in [
        "/AIMWebService/api/Accounts?AppID=My+App&Safe=O+Auth&Object=crm",
        "/aimwebservice/API/accounts/?appid=My%20App&SAFE=O%20Auth&object=CRM&FailRequestOnPasswordChange=False",
        "/AIMWebService/api/Accounts?AppID=My%20App&Object=none&Query=Safe%3DO%20Auth%3BObject%3Dcrm",
    ] {
        let (status, body) = bench.get(path).await;
        assert_eq!((status, &body["Content"]), (StatusCode::OK, &json!(SECRET)), "{path}");
    }
    for (path, status, code) in [
        ("/AIMWebService/api/Accounts?Safe=O+Auth", StatusCode::BAD_REQUEST, "AIMWS031E"),
        ("/AIMWebService/api/Accounts?AppID=My+App", StatusCode::BAD_REQUEST, "AIMWS030E"),
        ("/AIMWebService/api/Accounts?AppID=My+App&Object=none", StatusCode::NOT_FOUND, "APPAP004E"),
        ("/AIMWebService/api/Accounts?AppID=Nobody&Object=crm", StatusCode::FORBIDDEN, "APPAP008E"),
    ] {
        let (answered, body) = bench.get(path).await;
        assert_eq!((answered, body["ErrorCode"].as_str()), (status, Some(code)), "{path}");
        assert!(body["ErrorMsg"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    bench.vault.set_fault(VaultFault::Error { code: "APPAP007E".to_owned(), text: "ordered".to_owned() }, Some(1));
    let (status, body) = bench.get("/AIMWebService/api/Accounts?AppID=My+App&Object=crm").await;
    assert_eq!((status, &body["ErrorCode"]), (StatusCode::BAD_REQUEST, &json!("APPAP007E")));
    assert_eq!(bench.get("/Other/api/Accounts?AppID=My+App&Object=crm").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_soap_interface_answers_with_an_account_or_a_fault() {
    let bench = Bench::new(Tls::Server);
    let post = async |object: &str, action: &'static str| {
        let body = format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><GetPassword \
             xmlns=\"https://tempuri.org/\"><passwordWSRequest><AppID>My App</AppID><Safe>O Auth</Safe><Object>{object}</Object>\
             </passwordWSRequest></GetPassword></s:Body></s:Envelope>"
        );
        let request = Request::post(format!("{}/AIMWebService/V1.1/AIM.asmx", bench.ccp.url()))
            .header("content-type", "text/xml; charset=utf-8")
            .header("soapaction", action)
            .body(Bytes::from(body))
            .expect("a request");
        let config = bench.ca.client_config().expect("a client's set-up");
        let answer = client::send(request, Some(config)).await.expect("an answer");
        (answer.status(), String::from_utf8(answer.body().to_vec()).expect("text"))
    };
    let (status, body) = post("crm", "\"https://tempuri.org/GetPassword\"").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        body.contains("<Content>p@ss w;rd|\"x\" 100% +&amp;= \u{fc}</Content><UserName>client-1</UserName>"),
        "{body}"
    );
    let (status, body) = post("none", "https://tempuri.org/GetPassword").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("<faultstring>") && body.contains("APPAP004E"), "{body}");
    let (status, body) = post("crm", "https://tempuri.org/Other").await;
    assert!(status == StatusCode::INTERNAL_SERVER_ERROR && body.contains("SOAPAction"), "{body}");
}
