//! Ten thousand profiles whose tokens end within one minute, at one server: how many requests it gets in its busiest
//! second, beside its budget, and what a refresh costs in CPU time. The hours pass in the runtime's paused time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use midward_core::{
    BootTime, CircuitRules, ClientMaterial, Clock, Failure, FingerprintKey, MaterialField, Secret, SeededRandom,
    SystemClock, Trace, WallTime,
};
use midward_oauth::{
    BoxFuture, BudgetRules, Expected, FixedEndpoints, GrantFetcher, Material, MaterialSource, RevocationEndpoint,
    TokenCache, TokenCacheConfig, TokenHttpReply, TokenHttpRequest, TokenKey, TokenTransport, TransportFailure,
};

use crate::profiles::{credential, spec};
use crate::report::Figure;

const PROFILES: usize = 10_000;
const PER_SECOND: u32 = 250;
const BURST: u32 = 50;

/// The runtime's paused time.
struct Paused(tokio::time::Instant);

impl Clock for Paused {
    fn boot(&self) -> BootTime {
        BootTime::from_duration(Duration::from_hours(1) + self.0.elapsed())
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix_millis(1_800_000_000_000) + self.0.elapsed()
    }
}

struct Vault;

impl MaterialSource for Vault {
    fn read(&self, _fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let material = ClientMaterial::new()
                .with(MaterialField::ClientId, Secret::from("id"))
                .with(MaterialField::ClientSecret, Secret::from("s3cret"));
            Ok(Material { material, changing: false, trace: Trace::default() })
        })
    }
}

/// Notes when each request came.
struct Server(Arc<dyn Clock>, Arc<Mutex<Vec<BootTime>>>);

impl TokenTransport for Server {
    fn post(
        &self,
        _request: TokenHttpRequest,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async {
            self.1.lock().unwrap_or_else(PoisonError::into_inner).push(self.0.boot());
            tokio::time::sleep(Duration::from_millis(30)).await;
            let body = r#"{"access_token":"a-token","token_type":"Bearer","expires_in":3600}"#;
            Ok(TokenHttpReply { status: 200, headers: http::HeaderMap::new(), body: Secret::from(body) })
        })
    }
}

pub(crate) fn measure() -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let (posts, took) = runtime.block_on(refreshed())?;
    let mut busiest = 0;
    let mut first = 0;
    for (last, at) in posts.iter().enumerate() {
        while at.saturating_since(posts[first]) >= Duration::from_secs(1) {
            first += 1;
        }
        busiest = busiest.max(last - first + 1);
    }
    let allowed = f64::from(PER_SECOND + BURST);
    let busiest = u32::try_from(busiest)?;
    let refreshes = u32::try_from(posts.len())?;
    Ok(vec![
        Figure::lower(
            "10,000 tokens that end in one minute: requests in the busiest second",
            "1/s",
            f64::from(busiest),
            allowed,
        ),
        Figure::lower(
            "time for one refresh in this process, all included",
            "us",
            took.as_secs_f64() * 1e6 / f64::from(refreshes),
            100.0,
        ),
    ])
}

/// The times of the refreshes' requests, and the real time that they took.
async fn refreshed() -> anyhow::Result<(Vec<BootTime>, Duration)> {
    #[expect(clippy::disallowed_methods, reason = "the runtime's paused time, made the clock of the benchmark")]
    let clock: Arc<dyn Clock> = Arc::new(Paused(tokio::time::Instant::now()));
    let posts = Arc::new(Mutex::new(Vec::new()));
    let spacing = Duration::from_secs(1) / PER_SECOND;
    let budget = BudgetRules { concurrent: 32, spacing, burst: BURST, ..BudgetRules::default() };
    let config = TokenCacheConfig { budget, ..TokenCacheConfig::default() };
    let random = Arc::new(SeededRandom::new(1));
    let cache = TokenCache::new(Arc::clone(&clock), random.clone(), config);
    let mut handles = Vec::with_capacity(PROFILES);
    for number in 0..PROFILES {
        let spec = spec("https://login.example.com/token", &format!("scope-{number}"))?;
        let key = TokenKey::new(credential(&format!("api-{}", number / 10)), &spec);
        let fetcher = GrantFetcher {
            endpoints: Arc::new(FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None)),
            expected: Expected::scopes(&spec.scopes),
            spec,
            source: Arc::new(Vault),
            transport: Arc::new(Server(Arc::clone(&clock), Arc::clone(&posts))),
            clock: Arc::clone(&clock),
            random: random.clone(),
            fingerprint_key: FingerprintKey::generate(&SeededRandom::new(1)),
            circuit_rules: CircuitRules::default(),
            nonces: Arc::default(),
        };
        handles.push(cache.handle(key, Arc::new(fetcher)));
    }
    let first: Vec<_> = handles
        .iter()
        .cloned()
        .map(|handle| tokio::spawn(async move { handle.token(Duration::from_hours(1)).await.map(drop) }))
        .collect();
    for asked in first {
        asked.await??;
    }
    let minted = clock.boot().saturating_since(BootTime::from_duration(Duration::from_hours(1)));
    anyhow::ensure!(minted < Duration::from_secs(62), "the first tokens were given out over {minted:?}");
    posts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let began = SystemClock.boot();
    // Used every seven minutes for three lifetimes; nobody waits.
    for _ in 0..26 {
        tokio::time::sleep(Duration::from_mins(7)).await;
        for handle in &handles {
            handle.token(Duration::ZERO).await?;
        }
    }
    let took = SystemClock.boot().saturating_since(began);
    let posts = posts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((posts, took))
}
