//! A real instance on loopback, an HTTP client, and a scripted MID that speaks the real protocol.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response};
use midward_core::{BootTime, Clock, SystemClock, SystemRandom, WallTime};
use midward_instance::{EncryptionConfig, InstanceConfig, LimitsConfig, PostgresConfig, Started, TlsConfig, TlsMode};
use midward_telemetry::Tracer;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that comes about by itself.
const WITHIN: Duration = Duration::from_secs(30);

/// Looks again and again until it is so, and returns what was seen then.
pub(crate) async fn eventually<T: Debug>(what: &str, look: impl AsyncFnMut() -> T, is_so: impl FnMut(&T) -> bool) -> T {
    eventually_within(WITHIN, what, look, is_so).await
}

/// The same of what takes its time. A look that takes longer than `bound` counts as none.
pub(crate) async fn eventually_within<T: Debug>(
    bound: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> T,
    mut is_so: impl FnMut(&T) -> bool,
) -> T {
    let mut last = None;
    let looks = async {
        loop {
            let seen = look().await;
            if is_so(&seen) {
                return seen;
            }
            last = Some(seen);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(bound, looks).await.ok();
    found.unwrap_or_else(|| panic!("never within {bound:?}: {what}; seen last: {last:?}"))
}

/// The machine's clocks, but for a suspend that the test makes, and a wall clock that it moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShiftedClock(Arc<std::sync::atomic::AtomicU64>, Arc<std::sync::atomic::AtomicU64>);

impl ShiftedClock {
    /// As if the instance had not run for some seconds.
    pub(crate) fn skip(&self, seconds: u64) {
        self.0.fetch_add(seconds, std::sync::atomic::Ordering::SeqCst);
    }

    /// From now on the wall clock is so many seconds ahead of the machine's.
    pub(crate) fn set_wall_ahead(&self, seconds: u64) {
        self.1.store(seconds, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn boot(&self) -> BootTime {
        SystemClock.boot() + Duration::from_secs(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn wall(&self) -> WallTime {
        SystemClock.wall() + Duration::from_secs(self.1.load(std::sync::atomic::Ordering::SeqCst))
    }
}

/// Where an instance keeps its things.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    postgres: Option<PostgresConfig>,
    keys: Option<PathBuf>,
    /// What several instances share as their address.
    pub(crate) public_url: Option<String>,
    pub(crate) finished_hours: u32,
    pub(crate) finished_bytes: Option<u64>,
    pub(crate) audit_days: u32,
    pub(crate) body_bytes: usize,
    /// But for `body_bytes`.
    pub(crate) limits: LimitsConfig,
    pub(crate) leave_seconds: u32,
    pub(crate) encryption: EncryptionConfig,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            folder,
            postgres: None,
            keys: None,
            public_url: None,
            finished_hours: 1,
            finished_bytes: None,
            audit_days: 400,
            body_bytes: 64 * 1024,
            limits: LimitsConfig::default(),
            leave_seconds: 0,
            encryption: EncryptionConfig::default(),
        }
    }

    /// On a database that may be shared with others.
    pub(crate) fn postgres(url: &str) -> Self {
        let postgres = Some(PostgresConfig { url: url.to_owned(), password_file: None, connections: 6 });
        Self { postgres, ..Self::sqlite() }
    }

    /// For another instance on the same database, with the same keys.
    pub(crate) fn beside(&self) -> Self {
        let keys = Some(self.path().to_owned());
        let public_url = self.public_url.clone();
        let (encryption, limits) = (self.encryption.clone(), self.limits.clone());
        Self { postgres: self.postgres.clone(), keys, public_url, encryption, limits, ..Self::sqlite() }
    }

    /// Encrypts from now on with a key made of this byte; what was the key before becomes an older one.
    pub(crate) fn encrypt(&mut self, byte: u8) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.path().join(format!("at-rest-{byte}"));
        std::fs::write(&file, format!("{byte:02x}5a").repeat(16)).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        self.encryption.older_key_files.extend(self.encryption.key_file.replace(file.clone()));
        file
    }

    /// The database itself.
    pub(crate) async fn database(&self) -> sqlx::AnyPool {
        sqlx::any::install_default_drivers();
        let url = match &self.postgres {
            Some(postgres) => postgres.url.clone(),
            None => format!("sqlite://{}", self.path().join("midward.db").display()),
        };
        sqlx::AnyPool::connect(&url).await.expect("a database")
    }

    /// With keys that no other instance has.
    pub(crate) fn own_keys(&mut self) {
        self.keys = None;
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

pub(crate) struct Instance {
    pub(crate) started: Started,
    pub(crate) key: String,
    pub(crate) clock: ShiftedClock,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), midward_instance::InstanceError>>,
}

impl Instance {
    /// Starts an instance on a data folder; `key` when the folder was used before.
    pub(crate) async fn start(place: &Place, key: Option<String>) -> Self {
        Self::launch(place, key).await.expect("the instance starts")
    }

    /// The error's text when it does not start.
    pub(crate) async fn try_start(place: &Place) -> Result<Self, String> {
        Self::launch(place, Some(String::new())).await
    }

    async fn launch(place: &Place, key: Option<String>) -> Result<Self, String> {
        let mut config = InstanceConfig::default();
        config.server.listen = "127.0.0.1:0".parse().expect("an address");
        config.server.call_listen = config.server.listen;
        config.server.tls = TlsConfig::Mode(TlsMode::Off);
        config.store.path = place.path().to_owned();
        config.store.postgres.clone_from(&place.postgres);
        config.store.keys.clone_from(&place.keys);
        config.server.public_url.clone_from(&place.public_url);
        config.server.leave_seconds = place.leave_seconds;
        config.limits = place.limits.clone();
        config.limits.body_bytes = place.body_bytes;
        config.retention.finished_hours = place.finished_hours;
        config.retention.finished_bytes = place.finished_bytes;
        config.encryption = place.encryption.clone();
        let shutdown = CancellationToken::new();
        let (sender, notice) = oneshot::channel();
        // So that it is seen within a test.
        config.audit.checkpoint_seconds = 1;
        config.audit.keep_days = place.audit_days;
        let clock = ShiftedClock::default();
        let (wall, random) = (Arc::new(clock.clone()), Arc::new(SystemRandom));
        let run = midward_instance::run(config, wall, random, Tracer::off(), shutdown.clone(), sender);
        let task = tokio::spawn(run);
        let Ok(started) = notice.await else {
            return Err(task.await.expect("no panic").expect_err("it did not start").to_string());
        };
        let key = key.unwrap_or_else(|| {
            std::fs::read_to_string(place.path().join("first-admin-key")).expect("the first administrator's key")
        });
        Ok(Self { started, key, clock, shutdown, task })
    }

    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn stop(self) {
        self.ask_to_stop();
        self.task.await.expect("no panic").expect("a clean end");
    }

    /// The error's text of an instance that ends by itself.
    pub(crate) async fn ends_by_itself(self) -> String {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it ends");
        ended.expect("no panic").expect_err("it does not end well").to_string()
    }

    pub(crate) async fn send(&self, request: Request<Bytes>) -> Response<Bytes> {
        Box::pin(midward_fakes::client::send(request, None)).await.expect("an answer")
    }

    pub(crate) async fn api_as(&self, key: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.started.api_addr))
            .header("authorization", format!("Bearer {key}"))
            .body(Bytes::from(body.to_string()))
            .expect("a request");
        let answer = self.send(request).await;
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.api_as(&self.key, Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.api_as(&self.key, Method::POST, path, body).await
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}/api/v1/connections/{path}", self.started.call_url))
            .header("authorization", format!("Bearer {}", self.key))
    }

    pub(crate) async fn enroll_token(&self, name: &str, prevalidated: bool) -> midward_wire::EnrollToken {
        let (status, answer) =
            self.post("/api/v1/mids/enroll-tokens", &json!({ "name": name, "prevalidated": prevalidated })).await;
        assert_eq!(status, 201, "{answer}");
        midward_wire::EnrollToken::decode(answer["token"].as_str().expect("a token")).expect("a good token")
    }
}

pub(crate) fn document() -> Value {
    json!({
        "version": 1,
        "oauth_entities": [{"name": "idp", "token_url": "https://idp.test/token", "client_auth": "client_secret_basic"}],
        "oauth_entity_profiles": [{"name": "crm-read", "oauth_entity": "idp", "scopes": ["read"]}],
        "credentials": [{"name": "crm-cred", "credential_id": "safe:crm", "resolver": "cyberark",
                         "oauth_entity_profile": "crm-read", "applies_to": "all"}],
        "connections": [{"alias": "crm", "base_url": "https://api.test/v1", "credential": "crm-cred"}],
    })
}

/// A MID that does what the test says.
pub(crate) struct ScriptedMid {
    pub(crate) id: String,
    key: Ed25519KeyPair,
    pub(crate) token: String,
    pub(crate) incarnation: String,
    pub(crate) received: u64,
}

impl ScriptedMid {
    /// Enrolls; the answer to its first token request is not asked for yet.
    pub(crate) async fn enroll(instance: &Instance, name: &str, prevalidated: bool) -> Self {
        let token = instance.enroll_token(name, prevalidated).await;
        let key = Ed25519KeyPair::generate().expect("a key");
        let request = json!({"version": 1, "secret": token.secret, "name": name,
                             "public_key": URL_SAFE_NO_PAD.encode(key.public_key().as_ref())});
        let (status, answer) = instance.post(midward_wire::paths::ENROLL, &request).await;
        assert_eq!(status, 200, "{answer}");
        let id = answer["mid_id"].as_str().expect("an id").to_owned();
        Self { id, key, token: String::new(), incarnation: "inc-1".into(), received: 0 }
    }

    /// Ready to work.
    pub(crate) async fn working(instance: &Instance, name: &str) -> Self {
        let mut mid = Self::enroll(instance, name, true).await;
        mid.sign_in(instance, "jti-1").await;
        mid.heartbeat(instance, "ready").await;
        mid
    }

    pub(crate) async fn token_request(&self, instance: &Instance, jti: &str) -> (u16, Value) {
        let now = SystemClock.wall().unix_seconds();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "EdDSA", "typ": "JWT"}));
        let audience = format!("{}{}", instance.started.public_url, midward_wire::paths::TOKEN);
        let claims =
            part(json!({"iss": self.id, "sub": self.id, "aud": audience, "exp": now + 60, "iat": now, "jti": jti}));
        let input = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()).as_ref());
        let form = format!(
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type\
             %3Ajwt-bearer&client_assertion={input}.{signature}"
        );
        let request = Request::post(format!("http://{}{}", instance.started.api_addr, midward_wire::paths::TOKEN))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .expect("a request");
        let answer = instance.send(request).await;
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).expect("JSON"))
    }

    /// The same program once more, from a copy of its state folder.
    pub(crate) fn clone_of(&self, incarnation: &str) -> Self {
        let mut clone = self.clone_for_poll();
        (clone.incarnation, clone.received) = (incarnation.to_owned(), 0);
        clone
    }

    /// Gets a new key with a one-time token.
    pub(crate) async fn rekey(&mut self, instance: &Instance, token: &str) {
        let token = midward_wire::EnrollToken::decode(token).expect("a token");
        let key = Ed25519KeyPair::generate().expect("a key");
        let request = json!({"version": 1, "secret": token.secret, "name": "whatever",
                             "public_key": URL_SAFE_NO_PAD.encode(key.public_key().as_ref())});
        let (status, answer) = instance.post(midward_wire::paths::ENROLL, &request).await;
        assert_eq!((status, answer["mid_id"].as_str()), (200, Some(self.id.as_str())), "{answer}");
        self.key = key;
    }

    pub(crate) async fn sign_in(&mut self, instance: &Instance, jti: &str) {
        let (status, answer) = self.token_request(instance, jti).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().expect("a token").clone_into(&mut self.token);
    }

    pub(crate) async fn heartbeat(&self, instance: &Instance, health: &str) -> (u16, Value) {
        let beat = json!({"version": 1, "incarnation": self.incarnation, "program_version": "0", "capacity": 8,
            "running": 0, "draining": false,
            "resolvers": [{"name": "cyberark", "kind": "jar", "health": health, "reason": "JAR missing"}]});
        instance.api_as(&self.token, Method::POST, midward_wire::paths::HEARTBEAT, &beat).await
    }

    /// Polls; the batch is acknowledged by the next poll only when `acknowledge`.
    pub(crate) async fn poll(
        &mut self,
        instance: &Instance,
        wait_ms: u64,
        acknowledge: bool,
    ) -> Vec<midward_wire::LeaseGrant> {
        self.poll_for(instance, 8, wait_ms, acknowledge).await
    }

    /// Polls until it has so many requests, and no more.
    pub(crate) async fn hold(&mut self, instance: &Instance, count: usize) -> Vec<midward_wire::LeaseGrant> {
        let mut held = Vec::new();
        let what = format!("it is given {count} requests");
        let look = async || {
            held.extend(self.poll(instance, 1000, true).await);
            held.len()
        };
        let number = eventually(&what, look, |number| *number >= count).await;
        assert_eq!(number, count, "{held:?}");
        held
    }

    pub(crate) async fn poll_for(
        &mut self,
        instance: &Instance,
        capacity: u32,
        wait_ms: u64,
        acknowledge: bool,
    ) -> Vec<midward_wire::LeaseGrant> {
        let poll = json!({"version": 1, "incarnation": self.incarnation, "capacity": capacity, "wait_ms": wait_ms,
                          "received_batch": self.received});
        let (status, answer) = instance.api_as(&self.token, Method::POST, midward_wire::paths::LEASE, &poll).await;
        assert_eq!(status, 200, "{answer}");
        if acknowledge {
            self.received = answer["batch"].as_u64().expect("a number");
        }
        serde_json::from_value(answer["leases"].clone()).expect("leases")
    }

    /// The same MID once more, for a poll that is left behind.
    pub(crate) fn clone_for_poll(&self) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a key, which is not used");
        let (id, token, incarnation) = (self.id.clone(), self.token.clone(), self.incarnation.clone());
        Self { id, key, token, incarnation, received: self.received }
    }

    pub(crate) async fn report(&self, instance: &Instance, id: &str, epoch: i64, body: &str) -> String {
        self.report_status(instance, id, epoch, (201, body)).await
    }

    pub(crate) async fn report_status(
        &self,
        instance: &Instance,
        id: &str,
        epoch: i64,
        (status, body): (u16, &str),
    ) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(body);
        let reply = json!({"status": status, "headers": [["X-Api", "yes"], ["Set-Cookie", "a=b"],
            ["Connection", "close"], ["Content-Type", "text/plain"]], "body": body});
        self.report_reply(instance, id, epoch, reply).await
    }

    pub(crate) async fn report_reply(&self, instance: &Instance, id: &str, epoch: i64, reply: Value) -> String {
        let report = json!({"version": 1, "incarnation": self.incarnation, "outcomes": [{
            "request_id": id, "epoch": epoch, "outcome": {"kind": "replied", "reply": reply},
            "trace": [{"hop": "api", "what": "POST answered 201", "micros": 7}]}]});
        let (status, answer) = instance.api_as(&self.token, Method::POST, midward_wire::paths::OUTCOMES, &report).await;
        assert_eq!(status, 200, "{answer}");
        answer["verdicts"][0].as_str().expect("a verdict").to_owned()
    }
}
