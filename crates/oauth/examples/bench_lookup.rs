//! Prints what a warm lookup through a handle costs with 1 and with 100,000 profiles, uniform and skewed access, and
//! a lookup by key beside it. Run: `cargo run --release -p midward-oauth --example bench_lookup`.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{AccessToken, Clock, Minted, Random, Secret, SeededRandom, SystemClock, Trace, WallLead};
use midward_oauth::{
    AssertionRules, BoxFuture, ClientAuth, CredentialRef, FetchContext, Fetched, FetchedToken, GrantType, TokenCache,
    TokenCacheConfig, TokenFetcher, TokenHandle, TokenKey, TokenRequestSpec,
};
use url::Url;

/// Answers at once.
struct Instant(usize);

impl TokenFetcher for Instant {
    fn fetch(&self, _context: FetchContext) -> BoxFuture<'_, Fetched> {
        let requested = SystemClock.boot();
        let text = Secret::from(format!("token-{}", self.0));
        let token = AccessToken::new(text).map(|token| FetchedToken {
            token,
            scopes: std::collections::BTreeSet::new(),
            fingerprint: None,
        });
        let lead = WallLead::of(requested, SystemClock.wall());
        let result = match token {
            Some(token) => Ok(Minted { token, requested, lifetime: Duration::from_hours(1), lead }),
            None => unreachable!("the text is visible ASCII"),
        };
        Box::pin(std::future::ready(Fetched { result, trace: Trace::default() }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for profiles in [1, 100_000] {
        let random = Arc::new(SeededRandom::new(1));
        let cache = TokenCache::new(Arc::new(SystemClock), random.clone(), TokenCacheConfig::default());
        let mut handles = Vec::with_capacity(profiles);
        let before = resident();
        for number in 0..profiles {
            let handle = cache.handle(key(number)?, Arc::new(Instant(number)));
            handle.token(Duration::from_secs(10)).await?;
            handles.push(handle);
        }
        if profiles > 1 {
            let grown = resident().saturating_sub(before);
            println!("{profiles:>7} profiles: {} bytes of memory each, key and handle included", grown / profiles);
        }
        let uniform: Vec<usize> = (0..1_000_000).map(|_| scaled(random.next_unit(), profiles)).collect();
        let skewed = zipf(&*random, profiles);
        for (name, order) in [("uniform", &uniform), ("Zipf", &skewed)] {
            let (cached, waited) =
                (time(order, &handles, |handle| handle.cached().is_some()), through(order, &handles).await?);
            println!("{profiles:>7} profiles, {name:<7}: cached() {cached:>6.1} ns, token().await {waited:>6.1} ns");
        }
        let keys: Vec<_> = handles.iter().map(|handle| handle.key().clone()).collect();
        let by_key = time(&uniform, &keys, |key| cache.find(key).is_some());
        println!("{profiles:>7} profiles, by key : find()   {by_key:>6.1} ns");
    }
    Ok(())
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}

/// Nanoseconds per access, the best of five rounds: what others do on the machine only adds.
fn time<T>(order: &[usize], items: &[T], access: impl Fn(&T) -> bool) -> f64 {
    (0..5)
        .map(|_| {
            let began = SystemClock.boot();
            for &index in order {
                assert!(black_box(access(&items[index])));
            }
            per_access(began, order.len())
        })
        .fold(f64::INFINITY, f64::min)
}

async fn through(order: &[usize], handles: &[TokenHandle]) -> Result<f64, midward_core::Failure> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = SystemClock.boot();
        for &index in order {
            black_box(handles[index].token(Duration::from_secs(1)).await?);
        }
        best = best.min(per_access(began, order.len()));
    }
    Ok(best)
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn per_access(began: midward_core::BootTime, accesses: usize) -> f64 {
    SystemClock.boot().saturating_since(began).as_secs_f64() * 1e9 / accesses as f64
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below a small count"
)]
fn scaled(unit: f64, count: usize) -> usize {
    (unit * count as f64) as usize
}

/// A million indexes, each met in proportion to 1 / (index + 1). The indexes are spread over the handles, so that the
/// favourites do not lie side by side.
fn zipf(random: &dyn Random, count: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
            sum
        })
        .collect();
    (0..1_000_000)
        .map(|_| {
            let wanted = random.next_unit() * sum;
            let rank = sums.partition_point(|&sum| sum <= wanted).min(count - 1);
            rank.wrapping_mul(7_919) % count
        })
        .collect()
}

fn key(number: usize) -> Result<TokenKey, url::ParseError> {
    let spec = TokenRequestSpec {
        token_url: Url::parse("https://as.example/token")?,
        grant: GrantType::ClientCredentials,
        client_auth: ClientAuth::ClientSecretBasic,
        scopes: vec!["read".to_owned(), "write".to_owned()],
        audience: None,
        resource: Vec::new(),
        extra_parameters: BTreeMap::new(),
        assertion: AssertionRules::default(),
    };
    let credential = CredentialRef {
        instance: "prod".to_owned(),
        credential_id: format!("Safe=A;Object=api-{number}"),
        address: None,
        resolver: "cyberark".to_owned(),
    };
    Ok(TokenKey::new(credential, &spec))
}
