//! A clock that follows tokio's paused time, and an authorization server and a vault with faults to order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{
    BootTime, CircuitRules, ClientMaterial, Clock, Failure, FingerprintKey, Hop, ManualClock, MaterialField, Secret,
    SeededRandom, Trace, WallTime,
};
use midward_oauth::{
    AssertionRules, BoxFuture, ClientAuth, CredentialRef, DpopNonces, Expected, FixedEndpoints, GrantFetcher,
    GrantType, Material, MaterialSource, RevocationEndpoint, TokenCache, TokenCacheConfig, TokenHandle, TokenHttpReply,
    TokenHttpRequest, TokenKey, TokenRequestSpec, TokenTransport, TransportFailure, TransportFailureKind,
};
use url::Url;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(1000);

/// tokio's paused time plus what a [`ManualClock`] was moved by: `advance` of the latter is a suspend, which no timer
/// of the runtime sees.
pub(crate) struct TestClock {
    start: tokio::time::Instant,
    pub(crate) moved: ManualClock,
    /// How often the time was asked for.
    pub(crate) asked: AtomicUsize,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        #[expect(clippy::disallowed_methods, reason = "the runtime's paused time, made the clock of the test")]
        let start = tokio::time::Instant::now();
        let moved = ManualClock::new(
            BootTime::from_duration(Duration::from_hours(1)),
            WallTime::from_unix_millis(1_800_000_000_000),
        );
        Arc::new(Self { start, moved, asked: AtomicUsize::new(0) })
    }
}

impl TestClock {
    /// Paused time since the start.
    pub(crate) fn start_elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Clock for TestClock {
    fn boot(&self) -> BootTime {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.moved.boot() + self.start.elapsed()
    }

    fn wall(&self) -> WallTime {
        self.moved.wall() + self.start.elapsed()
    }
}

/// What the server does next.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A token with this many seconds.
    Token(&'static str),
    /// One token for all, which ends at this time, and the seconds that are left.
    Same(BootTime),
    Status(u16, &'static str),
    Headers(u16, &'static [(&'static str, &'static str)], &'static str),
    Unreachable,
    Never,
}

/// Counts requests, and answers only to the secret it knows.
pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    /// Of each credential, as the vault returns it.
    pub(crate) vault: Mutex<HashMap<String, String>>,
    /// As the vault's own cache returns it, for reads that are not fresh.
    pub(crate) stale: Mutex<HashMap<String, String>>,
    /// Secrets that the server accepts.
    pub(crate) accepted: Mutex<Vec<String>>,
    /// What it answers to any other.
    pub(crate) refusal: Mutex<Reply>,
    pub(crate) reply: Mutex<Reply>,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) vault_latency: Mutex<Duration>,
    pub(crate) vault_failure: Mutex<Option<Failure>>,
    /// The vault says of every read that it is changing the secret.
    pub(crate) changing: AtomicBool,
    pub(crate) reads: AtomicUsize,
    /// Token requests that run, and the most that ever did.
    pub(crate) running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    /// Who sent them, in order.
    pub(crate) clients: Mutex<Vec<String>>,
    /// What they sent.
    pub(crate) secrets: Mutex<Vec<String>>,
    pub(crate) posts: Mutex<Vec<BootTime>>,
    /// The last request's fields.
    pub(crate) last_form: Mutex<HashMap<String, String>>,
    pub(crate) nonces: Arc<DpopNonces>,
    /// Token text to the times it is good for, by the server's own account.
    pub(crate) issued: Mutex<BTreeMap<String, (BootTime, Duration, String)>>,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: TestClock::new(),
            vault: Mutex::default(),
            stale: Mutex::default(),
            accepted: Mutex::new(vec!["s3cret".into()]),
            refusal: Mutex::new(Reply::Status(401, r#"{"error":"invalid_client"}"#)),
            reply: Mutex::new(Reply::Token("3600")),
            latency: Mutex::new(Duration::from_millis(50)),
            vault_latency: Mutex::new(Duration::from_millis(20)),
            vault_failure: Mutex::default(),
            changing: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            clients: Mutex::default(),
            secrets: Mutex::default(),
            posts: Mutex::default(),
            last_form: Mutex::default(),
            nonces: Arc::default(),
            issued: Mutex::default(),
        })
    }

    pub(crate) fn cache(self: &Arc<Self>) -> TokenCache {
        TokenCache::new(self.clock.clone(), Arc::new(SeededRandom::new(7)), TokenCacheConfig::default())
    }

    pub(crate) fn handle(
        self: &Arc<Self>,
        cache: &TokenCache,
        instance: &str,
        credential_id: &str,
        scope: &str,
    ) -> TokenHandle {
        let spec = spec(scope);
        let key = key(instance, credential_id, &spec);
        cache.handle(key, self.fetcher(credential_id, spec))
    }

    /// At an authorization server of its own, with a vault of its own if the world is another one.
    pub(crate) fn handle_at(
        self: &Arc<Self>,
        cache: &TokenCache,
        token_url: &str,
        credential_id: &str,
        scope: &str,
    ) -> TokenHandle {
        let spec = TokenRequestSpec { token_url: Url::parse(token_url).unwrap(), ..spec(scope) };
        let key = key("i", credential_id, &spec);
        cache.handle(key, self.fetcher(credential_id, spec))
    }

    pub(crate) fn fetcher(self: &Arc<Self>, credential_id: &str, spec: TokenRequestSpec) -> Arc<GrantFetcher> {
        let expected = Expected::of(&spec);
        Arc::new(GrantFetcher {
            expected,
            endpoints: Arc::new(FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None)),
            spec,
            source: Arc::new(Vault { world: Arc::clone(self), credential_id: credential_id.to_owned() }),
            transport: Arc::new(Server(Arc::clone(self))),
            clock: self.clock.clone(),
            random: Arc::new(SeededRandom::new(2)),
            fingerprint_key: FingerprintKey::generate(&SeededRandom::new(1)),
            circuit_rules: CircuitRules::default(),
            nonces: Arc::clone(&self.nonces),
        })
    }

    pub(crate) fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub(crate) fn posts(&self) -> usize {
        self.posts.lock().unwrap().len()
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Seconds that a token still lives by the server's account; negative when it is over.
    pub(crate) fn left(&self, token: &str) -> f64 {
        let end = {
            let issued = self.issued.lock().unwrap();
            let (asked, lifetime, _) = &issued[token];
            *asked + *lifetime
        };
        end.as_duration().as_secs_f64() - self.clock.boot().as_duration().as_secs_f64()
    }

    /// Whether a token was minted for this form, and still lives by the server's account.
    pub(crate) fn is_good_for(&self, token: &str, shape: &str) -> bool {
        let issued = self.issued.lock().unwrap();
        let (asked, lifetime, minted_for) = &issued[token];
        minted_for == shape && self.clock.boot() < *asked + *lifetime
    }
}

pub(crate) fn spec(scope: &str) -> TokenRequestSpec {
    TokenRequestSpec {
        token_url: Url::parse("https://as.example/token").unwrap(),
        grant: GrantType::ClientCredentials,
        client_auth: ClientAuth::ClientSecretPost,
        scopes: scope.split_whitespace().map(str::to_owned).collect(),
        audience: None,
        resource: vec![],
        extra_parameters: BTreeMap::new(),
        assertion: AssertionRules::default(),
        certificate_bound: false,
        dpop: false,
    }
}

pub(crate) fn key(instance: &str, credential_id: &str, spec: &TokenRequestSpec) -> TokenKey {
    let credential = CredentialRef {
        instance: instance.to_owned(),
        credential_id: credential_id.to_owned(),
        address: None,
        resolver: "cyberark".to_owned(),
    };
    TokenKey::new(credential, spec)
}

struct Vault {
    world: Arc<World>,
    credential_id: String,
}

impl MaterialSource for Vault {
    fn read(&self, fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async move {
            let world = &self.world;
            world.reads.fetch_add(1, Ordering::SeqCst);
            let latency = *world.vault_latency.lock().unwrap();
            tokio::time::sleep(latency).await;
            if let Some(failure) = world.vault_failure.lock().unwrap().clone() {
                return Err(failure);
            }
            let of = |map: &Mutex<HashMap<String, String>>| map.lock().unwrap().get(&self.credential_id).cloned();
            let current = || of(&world.vault).unwrap_or_else(|| "s3cret".to_owned());
            let secret = if fresh { current() } else { of(&world.stale).unwrap_or_else(current) };
            let material = ClientMaterial::new()
                .with(MaterialField::ClientId, Secret::from(self.credential_id.as_str()))
                .with(MaterialField::ClientSecret, Secret::from(secret));
            let mut trace = Trace::default();
            trace.push(Hop::Vault, "secret read", latency);
            Ok(Material { material, changing: world.changing.load(Ordering::SeqCst), trace })
        })
    }
}

struct Server(Arc<World>);

impl TokenTransport for Server {
    fn post(
        &self,
        request: TokenHttpRequest,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let world = &self.0;
            let asked = world.clock.boot();
            let number = {
                let mut posts = world.posts.lock().unwrap();
                posts.push(asked);
                posts.len()
            };
            let reply = world.reply.lock().unwrap().clone();
            let latency = *world.latency.lock().unwrap();
            let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
            world.most_running.fetch_max(running, Ordering::SeqCst);
            tokio::time::sleep(latency).await;
            world.running.fetch_sub(1, Ordering::SeqCst);
            let body = request.body.expose_str().unwrap().to_owned();
            let form: HashMap<_, _> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
            world.last_form.lock().unwrap().clone_from(&form);
            world.clients.lock().unwrap().push(form["client_id"].clone());
            world.secrets.lock().unwrap().push(form["client_secret"].clone());
            let known = world.accepted.lock().unwrap().contains(&form["client_secret"]);
            let reply = match reply {
                Reply::Token(_) | Reply::Same(_) if !known => world.refusal.lock().unwrap().clone(),
                other => other,
            };
            let answer = |status, headers: &[(&'static str, &'static str)], body: String| {
                let headers = headers
                    .iter()
                    .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
                    .collect();
                Ok(TokenHttpReply { status, headers, body: Secret::from(body) })
            };
            match reply {
                Reply::Token(expires_in) => {
                    let token = format!("token-{number}");
                    let lifetime = expires_in.parse().map_or(Duration::from_mins(5), Duration::from_secs);
                    let shape = format!("{} {}", form["client_id"], form.get("scope").map_or("", String::as_str));
                    world.issued.lock().unwrap().insert(token.clone(), (asked, lifetime, shape));
                    answer(
                        200,
                        &[],
                        format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{expires_in}}}"#),
                    )
                }
                Reply::Same(end) => {
                    let left = end.saturating_since(world.clock.boot()).as_secs();
                    let shape = format!("{} {}", form["client_id"], form.get("scope").map_or("", String::as_str));
                    let life = (asked, end.saturating_since(asked), shape);
                    world.issued.lock().unwrap().insert("the-same".to_owned(), life);
                    let body = format!(r#"{{"access_token":"the-same","token_type":"bearer","expires_in":{left}}}"#);
                    answer(200, &[], body)
                }
                Reply::Status(status, body) => answer(status, &[], body.to_owned()),
                Reply::Headers(status, headers, body) => answer(status, headers, body.to_owned()),
                Reply::Unreachable => Err(TransportFailure {
                    kind: TransportFailureKind::Unreachable,
                    detail: "the connection was refused".to_owned(),
                }),
                Reply::Never => std::future::pending().await,
            }
        })
    }
}
