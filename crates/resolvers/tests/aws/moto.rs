//! moto's server (PyPI `moto`), which `scripts/setup.sh moto` puts below `build/tools`: Amazon's API without Amazon.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use midward_net::{AddressGuard, SendOptions, WayOut};
use serde_json::{Value, json};

pub(crate) struct Moto {
    process: Child,
    pub(crate) url: String,
    way: WayOut,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/tools/moto/bin/moto_server");
        let mut process = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env_clear()
            // Lets a test switch the check of signatures and policies on.
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "1000000")
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto_server: run scripts/setup.sh moto");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("Running on ").map(|(_, url)| url.trim().to_owned()))
            .expect("moto says where it listens");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url, way: WayOut::plain_default().expect("a way out") }
    }

    pub(crate) async fn create(&self, name: &str, value: &Value) -> String {
        let answer = self.secrets_manager("CreateSecret", &json!({"Name": name, "SecretString": text(value)})).await;
        answer["VersionId"].as_str().expect("a version").to_owned()
    }

    pub(crate) async fn put(&self, name: &str, value: &Value) -> String {
        let body = json!({"SecretId": name, "SecretString": text(value)});
        let answer = self.secrets_manager("PutSecretValue", &body).await;
        answer["VersionId"].as_str().expect("a version").to_owned()
    }

    pub(crate) async fn secrets_manager(&self, action: &str, body: &Value) -> Value {
        let answer = self
            .post("secretsmanager", "application/x-amz-json-1.1", Some(action), body.to_string().into_bytes())
            .await;
        serde_json::from_slice(&answer).expect("JSON")
    }

    /// One of IAM's actions, in the form of its query API.
    pub(crate) async fn iam(&self, form: &str) -> String {
        let body = format!("{form}&Version=2010-05-08").into_bytes();
        let answer = self.post("iam", "application/x-www-form-urlencoded", None, body).await;
        String::from_utf8(answer.to_vec()).expect("XML")
    }

    /// A new access key of a user: its id and the key.
    pub(crate) async fn access_key(&self, user: &str) -> (String, String) {
        let answer = self.iam(&format!("Action=CreateAccessKey&UserName={user}")).await;
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).expect("in the answer");
            rest.split_once('<').expect("its end").0.to_owned()
        };
        (field("AccessKeyId"), field("SecretAccessKey"))
    }

    /// From now on every request must be signed by a known key whose policies allow it.
    pub(crate) async fn check_signatures(&self) {
        self.unchecked("0").await;
    }

    /// From now on anybody may do anything again.
    pub(crate) async fn check_nothing(&self) {
        self.unchecked("1000000").await;
    }

    async fn unchecked(&self, requests: &'static str) {
        let body = Bytes::from_static(requests.as_bytes());
        let request = Request::post(format!("{}/moto-api/reset-auth", self.url)).body(body);
        assert_eq!(self.send(request.expect("a request")).await.status(), 200);
    }

    async fn post(&self, service: &str, content_type: &str, action: Option<&str>, body: Vec<u8>) -> Bytes {
        // moto finds the service in the signature's scope.
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-central-1/{service}/aws4_request, SignedHeaders=host, Signature=x"
        );
        let request = Request::post(&self.url).header("authorization", scope).header("content-type", content_type);
        let request = match action {
            Some(action) => request.header("x-amz-target", format!("secretsmanager.{action}")),
            None => request,
        };
        let answer = self.send(request.body(Bytes::from(body)).expect("a request")).await;
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(answer.body()));
        answer.into_body()
    }

    async fn send(&self, request: Request<Bytes>) -> http::Response<Bytes> {
        let guard = AddressGuard::new(["127.0.0.1/32".parse().expect("a network")]);
        let options = SendOptions { deadline: Duration::from_secs(60), max_body: 1 << 20, guard };
        self.way.send(request, &options).await.expect("moto answers")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
