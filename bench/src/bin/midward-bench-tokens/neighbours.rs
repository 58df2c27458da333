//! What dead and slow authorization servers and vaults do to the others: how long these wait for a new token, with and
//! without the bad ones, in turn.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{
    CircuitRules, ClientMaterial, Clock, Failure, FingerprintKey, Hop, MaterialField, Secret, SeededRandom,
    SystemClock, SystemRandom, Trace,
};
use midward_oauth::{
    BoxFuture, BudgetRules, Expected, FixedEndpoints, GrantFetcher, Material, MaterialSource, RevocationEndpoint,
    TokenCache, TokenCacheConfig, TokenHandle, TokenHttpReply, TokenHttpRequest, TokenKey, TokenTransport,
    TransportFailure,
};

use crate::profiles::{credential, spec};
use crate::report::Figure;

const GOOD: usize = 96;
const ROUNDS: usize = 8;
/// New tokens that are asked for in a round.
const FETCHES: usize = 600;

/// Answers after this time. `None`: never.
struct Place {
    vault: Option<Duration>,
    server: Option<Duration>,
}

impl MaterialSource for Place {
    fn read(&self, _fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async {
            let Some(latency) = self.vault else {
                tokio::time::sleep(Duration::from_secs(30)).await;
                return Err(Failure::transient(Hop::Vault, "vault_timeout", "no answer", "Look at the vault."));
            };
            tokio::time::sleep(latency).await;
            let material = ClientMaterial::new()
                .with(MaterialField::ClientId, Secret::from("id"))
                .with(MaterialField::ClientSecret, Secret::from("s3cret"));
            Ok(Material { material, changing: false, trace: Trace::default() })
        })
    }
}

impl TokenTransport for Place {
    fn post(
        &self,
        _request: TokenHttpRequest,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async {
            let Some(latency) = self.server else { return std::future::pending().await };
            tokio::time::sleep(latency).await;
            let body = r#"{"access_token":"a-token","token_type":"Bearer","expires_in":3600}"#;
            Ok(TokenHttpReply { status: 200, headers: http::HeaderMap::new(), body: Secret::from(body) })
        })
    }
}

pub(crate) fn measure() -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let quick = Duration::from_millis(2);
        // No limit on the rate: the places at the servers are what is shared.
        let budget = BudgetRules { spacing: Duration::ZERO, ..BudgetRules::default() };
        let config = TokenCacheConfig { budget, ..TokenCacheConfig::default() };
        let cache = TokenCache::new(Arc::new(SystemClock), Arc::new(SystemRandom), config);
        let good: Arc<Place> = Arc::new(Place { vault: Some(quick), server: Some(quick) });
        let good: Vec<_> = (0..GOOD).map(|n| handle(&cache, "good", n, &good)).collect::<Result<_, _>>()?;
        let bad = [
            ("dead-server", Place { vault: Some(quick), server: None }),
            ("slow-server", Place { vault: Some(quick), server: Some(Duration::from_secs(9)) }),
            ("dead-vault", Place { vault: None, server: Some(quick) }),
            ("slow-vault", Place { vault: Some(Duration::from_secs(29)), server: Some(quick) }),
        ];
        let mut handles = Vec::new();
        for (name, place) in bad {
            let place = Arc::new(place);
            for number in 0..12 {
                handles.push(handle(&cache, name, number, &place)?);
            }
        }
        fetches(&cache, &good, FETCHES).await?;
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.extend(fetches(&cache, &good, FETCHES).await?);
            let calling: Vec<_> = handles.iter().cloned().map(|handle| tokio::spawn(call(handle))).collect();
            beside.extend(fetches(&cache, &good, FETCHES).await?);
            for caller in calling {
                caller.abort();
            }
            // What the bad ones began goes on: drop it from the next round without them.
            cache.flush(|key| *key.client.credential_id != *"good");
        }
        let usual = percentile(alone.clone(), 50);
        let (alone, beside) = (percentile(alone, 99), percentile(beside, 99));
        Ok(vec![
            Figure::lower(
                "new token beside dead and slow servers and vaults, p99 over p99 alone",
                "ratio",
                beside / alone,
                1.1,
            )
            .beside("p99 alone, ms", alone)
            .beside("p50 alone, ms", usual),
        ])
    })
}

/// Calls as fast as it is refused.
async fn call(handle: TokenHandle) {
    loop {
        drop(handle.token(Duration::from_millis(50)).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// New tokens for one after the other, eight side by side. Milliseconds each.
async fn fetches(cache: &TokenCache, handles: &[TokenHandle], count: usize) -> anyhow::Result<Vec<f64>> {
    let mut all = Vec::with_capacity(count);
    for round in 0..count / 8 {
        let asked: Vec<_> = (0..8)
            .map(|n| {
                let handle = handles[(round * 8 + n) % handles.len()].clone();
                cache.flush(|key| key == handle.key());
                tokio::spawn(async move {
                    let began = SystemClock.boot();
                    handle.token(Duration::from_secs(5)).await?;
                    anyhow::Ok(SystemClock.boot().saturating_since(began).as_secs_f64() * 1e3)
                })
            })
            .collect();
        for one in asked {
            all.push(one.await??);
        }
    }
    Ok(all)
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

fn handle(cache: &TokenCache, name: &str, number: usize, place: &Arc<Place>) -> anyhow::Result<TokenHandle> {
    let spec = spec(&format!("https://{name}.example/token"), &format!("scope-{number}"))?;
    // Good ones share a credential, bad ones do not: so each of these takes a place at its server.
    let credential_id = if name == "good" { name.to_owned() } else { format!("{name}-{number}") };
    let key = TokenKey::new(credential(&credential_id), &spec);
    let fetcher = GrantFetcher {
        endpoints: Arc::new(FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None)),
        expected: Expected::scopes(&spec.scopes),
        spec,
        source: Arc::clone(place) as Arc<dyn MaterialSource>,
        transport: Arc::clone(place) as Arc<dyn TokenTransport>,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        // One for all, as in the MID Server: profiles of one credential see that they have the same secret.
        fingerprint_key: FingerprintKey::generate(&SeededRandom::new(1)),
        circuit_rules: CircuitRules::default(),
        nonces: Arc::default(),
    };
    Ok(cache.handle(key, Arc::new(fetcher)))
}
