//! A vault with one AppRole, and resolvers in front of it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use midward_core::{Failure, MaterialField, SystemClock, SystemRandom};
use midward_fakes::openbao::OpenBao;
use midward_fakes::tap::Tap;
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, build};
use serde_json::{Value, json};

pub(crate) const ROLE_ID: &str = "midward-role-id";
pub(crate) const SECRET_ID: &str = "midward-secret-id-hunter2";

pub(crate) struct Bench {
    pub(crate) bao: OpenBao,
    /// Between resolvers and vault.
    pub(crate) tap: Tap,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) way: WayOut,
}

impl Bench {
    /// Plain HTTP, and the AppRole `mid` whose tokens live for `ttl` and may read all of `secret/`.
    pub(crate) async fn new(ttl: &str) -> Self {
        let bao = OpenBao::start().await.expect("OpenBao: run scripts/setup.sh openbao");
        let tap = Tap::start(bao.addr()).expect("tap");
        let bench = Self {
            bao,
            tap,
            folder: tempfile::tempdir().expect("folder"),
            way: WayOut::plain_default().expect("a way out"),
        };
        bench.write("secret-id", &format!("{SECRET_ID}\n"));
        set_up(&bench.bao, json!({ "token_ttl": ttl })).await;
        bench
    }

    pub(crate) async fn with_tls() -> Self {
        let bao = OpenBao::start_with_tls().await.expect("OpenBao: run scripts/setup.sh openbao");
        let tap = Tap::start(bao.addr()).expect("tap");
        let config = WayConfig { ca_file: Some(bao.ca_file()), ..WayConfig::default() };
        let way = WayOut::new(&config, std::path::Path::new("/")).expect("a way out");
        bao.allow("midward", "secret/data/*").await.expect("policy");
        Self { bao, tap, folder: tempfile::tempdir().expect("folder"), way }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path
    }

    /// By the AppRole, through the tap.
    pub(crate) fn resolver(&self, more: &str) -> Arc<dyn Resolver> {
        self.with_auth(more, &self.app_role(""))
    }

    pub(crate) fn app_role(&self, more: &str) -> String {
        let file = self.folder.path().join("secret-id");
        format!("method = 'approle'\nrole_id = '{ROLE_ID}'\nsecret_id_file = '{}'\n{more}", file.display())
    }

    pub(crate) fn with_auth(&self, more: &str, auth: &str) -> Arc<dyn Resolver> {
        let scheme = self.bao.url().split_once("://").expect("a URL").0.to_owned();
        self.at(&format!("{scheme}://{}", self.tap.addr()), more, auth)
    }

    pub(crate) fn at(&self, url: &str, more: &str, auth: &str) -> Arc<dyn Resolver> {
        let more = if more.contains("timeout_ms") { more.to_owned() } else { format!("timeout_ms = 60000\n{more}") };
        let text = format!("kind = 'hashicorp_vault'\nurl = '{url}'\n{more}\n[auth]\n{auth}");
        let config: ResolverConfig = toml::from_str(&text).expect("configuration");
        let context = ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: self.folder.path().to_owned(),
            trampoline: Vec::new(),
            java: "/nowhere".into(),
            vaults: self.way.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        build("vault", &config, &context)
    }

    /// Requests of this kind that went to the vault, such as `GET /v1/secret/data/crm`.
    pub(crate) fn asked(&self, start: &str) -> usize {
        String::from_utf8_lossy(&self.tap.tapped().sent).matches(start).count()
    }

    pub(crate) fn log_ins(&self) -> usize {
        self.asked("POST /v1/auth/approle/login ")
    }
}

/// The AppRole `mid` and the policy that lets it read.
pub(crate) async fn set_up(bao: &OpenBao, mut role: Value) {
    bao.allow("midward", "secret/data/*").await.expect("policy");
    bao.api(Method::POST, "sys/auth/approle", json!({ "type": "approle" })).await.expect("auth method");
    role["token_policies"] = json!("midward");
    bao.api(Method::POST, "auth/approle/role/mid", role).await.expect("role");
    bao.api(Method::POST, "auth/approle/role/mid/role-id", json!({ "role_id": ROLE_ID })).await.expect("role id");
    let secret_id = json!({ "secret_id": SECRET_ID });
    bao.api(Method::POST, "auth/approle/role/mid/custom-secret-id", secret_id).await.expect("secret id");
}

pub(crate) fn secret(id: &str, secret: &str) -> Value {
    json!({ "client_id": id, "client_secret": secret })
}

pub(crate) async fn resolve(resolver: &Arc<dyn Resolver>, id: &str) -> Result<Resolution, Failure> {
    within(resolver, id, Duration::from_secs(60)).await
}

pub(crate) async fn within(resolver: &Arc<dyn Resolver>, id: &str, deadline: Duration) -> Result<Resolution, Failure> {
    let lookup = Lookup { credential_id: id.to_owned(), address: None, fresh: false };
    resolver.resolve(&lookup, deadline).await.map_err(|error| *error.0)
}

pub(crate) fn pair(resolution: &Resolution) -> (&str, &str) {
    let text = |field| resolution.material.field(field).and_then(|value| value.expose_str()).unwrap_or_default();
    (text(MaterialField::ClientId), text(MaterialField::ClientSecret))
}

/// Waits for something that must happen, and looks ever again.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let poll = async {
        while !probe().await {
            pause.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), poll).await.is_ok(), "{what} did not happen");
}
