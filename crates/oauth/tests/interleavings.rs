//! The concurrent part of the cache with shuttle in control of every lock, atomic and task: the hot slot, the entry with
//! its single flight, the queue of the server's budget, the scheduler. The code under test is the code that runs; see
//! `src/sync.rs` for what is exchanged. No timer elapses here, so that a wake-up which gets lost is a deadlock, and
//! shuttle reports it.
//!
//! `MIDWARD_INTERLEAVINGS` is how many orders each test tries, `MIDWARD_SEED` the seed they are drawn from. Both are
//! printed; with the same pair the same orders are tried again.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]
#![expect(clippy::print_stdout, reason = "the seed, shown when a test fails")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use midward_core::{
    AccessToken, BootTime, CircuitRules, ClientMaterial, Clock, Failure, FingerprintKey, MaterialField, Secret,
    SeededRandom, Trace, WallTime,
};
use midward_oauth::{
    AssertionRules, BoxFuture, BudgetRules, ClientAuth, CredentialRef, Expected, FixedEndpoints, GrantFetcher,
    GrantType, Material, MaterialSource, Origin, Rejected, RevocationEndpoint, TokenCache, TokenCacheConfig,
    TokenHandle, TokenHttpReply, TokenHttpRequest, TokenKey, TokenRequestSpec, TokenTransport, TransportFailure,
    TransportFailureKind,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use url::Url;

const LONG: Duration = Duration::from_secs(1000);

/// Tries orders drawn at random, and orders with few switches at the worst places (PCT).
fn explore(test: fn()) {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (orders, seed) = (number("MIDWARD_INTERLEAVINGS", 2000), number("MIDWARD_SEED", 1));
    println!("MIDWARD_INTERLEAVINGS={orders} MIDWARD_SEED={seed}");
    let orders = usize::try_from(orders).unwrap();
    Runner::new(RandomScheduler::new_from_seed(seed, orders), Config::new()).run(test);
    Runner::new(PctScheduler::new_from_seed(seed, 3, orders), Config::new()).run(test);
}

/// Moves on by a little each time that it is asked, so that what is due comes due.
struct Ticking {
    step: u64,
    /// Milliseconds.
    now: AtomicU64,
}

impl Clock for Ticking {
    fn boot(&self) -> BootTime {
        let now = self.now.fetch_add(self.step, Ordering::Relaxed);
        BootTime::from_duration(Duration::from_hours(1) + Duration::from_millis(now))
    }

    fn wall(&self) -> WallTime {
        let now = self.now.load(Ordering::Relaxed);
        WallTime::from_unix_millis(1_800_000_000_000 + i64::try_from(now).unwrap())
    }
}

/// A vault and an authorization server. Each step of theirs lets others run.
struct World {
    clock: Arc<Ticking>,
    reads: AtomicUsize,
    posts: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    /// How many requests are answered with a failure before tokens are given out.
    failing: AtomicUsize,
}

impl World {
    fn new(step: u64, failing: usize) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(Ticking { step, now: AtomicU64::new(0) }),
            reads: AtomicUsize::new(0),
            posts: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            failing: AtomicUsize::new(failing),
        })
    }

    fn cache(self: &Arc<Self>, budget: BudgetRules) -> TokenCache {
        let config = TokenCacheConfig { budget, ..TokenCacheConfig::default() };
        TokenCache::new(self.clock.clone(), Arc::new(SeededRandom::new(7)), config)
    }

    fn handle(self: &Arc<Self>, cache: &TokenCache, credential_id: &str, scope: &str) -> TokenHandle {
        let spec = TokenRequestSpec {
            token_url: Url::parse("https://as.example/token").unwrap(),
            grant: GrantType::ClientCredentials,
            client_auth: ClientAuth::ClientSecretPost,
            scopes: vec![scope.to_owned()],
            audience: None,
            resource: vec![],
            extra_parameters: BTreeMap::new(),
            assertion: AssertionRules::default(),
            certificate_bound: false,
            dpop: false,
        };
        let credential = CredentialRef {
            instance: "i".to_owned(),
            credential_id: credential_id.to_owned(),
            address: None,
            resolver: "r".to_owned(),
        };
        let key = TokenKey::new(credential, &spec);
        let fetcher = GrantFetcher {
            endpoints: Arc::new(FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None)),
            expected: Expected::scopes(&spec.scopes),
            spec,
            source: Arc::new(Vault(Arc::clone(self), credential_id.to_owned())),
            transport: Arc::new(Server(Arc::clone(self))),
            clock: self.clock.clone(),
            random: Arc::new(SeededRandom::new(2)),
            fingerprint_key: FingerprintKey::generate(&SeededRandom::new(1)),
            circuit_rules: CircuitRules::default(),
            nonces: Arc::default(),
        };
        cache.handle(key, Arc::new(fetcher))
    }
}

struct Vault(Arc<World>, String);

impl MaterialSource for Vault {
    fn read(&self, _fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async move {
            self.0.reads.fetch_add(1, Ordering::SeqCst);
            shuttle::future::yield_now().await;
            let material = ClientMaterial::new()
                .with(MaterialField::ClientId, Secret::from(self.1.as_str()))
                .with(MaterialField::ClientSecret, Secret::from("s3cret"));
            Ok(Material { material, changing: false, trace: Trace::default() })
        })
    }
}

struct Server(Arc<World>);

impl TokenTransport for Server {
    fn post(
        &self,
        _request: TokenHttpRequest,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let world = &self.0;
            let number = world.posts.fetch_add(1, Ordering::SeqCst) + 1;
            let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
            world.most_running.fetch_max(running, Ordering::SeqCst);
            shuttle::future::yield_now().await;
            world.running.fetch_sub(1, Ordering::SeqCst);
            let fails = world.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if fails.is_ok() {
                return Err(TransportFailure { kind: TransportFailureKind::Unreachable, detail: "refused".to_owned() });
            }
            let body = format!(r#"{{"access_token":"t{number}","token_type":"Bearer","expires_in":3600}}"#);
            Ok(TokenHttpReply { status: 200, headers: http::HeaderMap::new(), body: Secret::from(body) })
        })
    }
}

/// Asks on a thread of its own.
fn ask(handle: &TokenHandle) -> shuttle::thread::JoinHandle<Result<(AccessToken, Origin), Failure>> {
    let handle = handle.clone();
    shuttle::thread::spawn(move || {
        shuttle::future::block_on(async {
            handle.token(LONG).await.map(|granted| (granted.token().clone(), granted.origin))
        })
    })
}

#[test]
fn all_callers_get_the_token_of_one_fetch() {
    explore(|| {
        let world = World::new(0, 0);
        let cache = world.cache(BudgetRules::default());
        let handle = world.handle(&cache, "c", "read");
        let callers: Vec<_> = (0..3).map(|_| ask(&handle)).collect();
        let granted: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap().expect("a token")).collect();
        assert!(granted.iter().all(|(token, _)| token.expose() == "t1"));
        let fetched = granted.iter().filter(|(_, origin)| *origin == Origin::Fetched).count();
        let (reads, posts) = (world.reads.load(Ordering::SeqCst), world.posts.load(Ordering::SeqCst));
        assert_eq!((fetched, reads, posts), (1, 1, 1));
        assert!(handle.cached().is_some(), "what was fetched is found without a lock");
    });
}

#[test]
fn all_callers_get_the_failure_of_one_fetch() {
    explore(|| {
        let world = World::new(0, usize::MAX);
        let cache = world.cache(BudgetRules::default());
        let handle = world.handle(&cache, "c", "read");
        let callers: Vec<_> = (0..3).map(|_| ask(&handle)).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap_err().code, "token_endpoint_unreachable");
        }
        // Time stands still, so the back-off is not over for whoever came late.
        assert_eq!((world.reads.load(Ordering::SeqCst), world.posts.load(Ordering::SeqCst)), (1, 1));
        assert!(handle.cached().is_none());
    });
}

#[test]
fn a_rejected_token_is_not_handed_out_again() {
    explore(|| {
        // The next fetch may begin a second after the last: time has to pass.
        let world = World::new(40, 0);
        let cache = world.cache(BudgetRules::default());
        let handle = world.handle(&cache, "c", "read");
        let first = shuttle::future::block_on(async { handle.token(LONG).await.expect("a token").token().clone() });
        let rejecting = {
            let (handle, first) = (handle.clone(), first.clone());
            shuttle::thread::spawn(move || {
                assert_eq!(handle.reject(&first), Rejected::Dropped, "it is the cached one");
                assert_eq!(handle.reject(&first), Rejected::Replaced, "dropped once");
                // From here on it is gone for everybody.
                let after = handle.cached().map(|granted| granted.token().clone());
                assert_ne!(after.as_ref(), Some(&first), "a rejected token was handed out");
                let (next, _) = ask(&handle).join().unwrap().expect("another token");
                assert_ne!(next, first);
            })
        };
        let others: Vec<_> = (0..2).map(|_| ask(&handle)).collect();
        for other in others {
            other.join().unwrap().expect("the old token or a new one");
        }
        rejecting.join().unwrap();
        assert_eq!(world.posts.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn no_lookup_finds_an_expired_token_while_a_new_one_is_put_in_its_place() {
    explore(|| {
        let world = World::new(0, 0);
        let cache = world.cache(BudgetRules::default());
        let handle = world.handle(&cache, "c", "read");
        shuttle::future::block_on(async { handle.token(LONG).await.expect("a token") });
        // Late in its life: this demand starts the refresh. Then the old token ends, before or after the new one comes.
        world.clock.now.fetch_add(3_500_000, Ordering::SeqCst);
        shuttle::future::block_on(async { handle.token(LONG).await.expect("the old token") });
        let time = {
            let clock = Arc::clone(&world.clock);
            shuttle::thread::spawn(move || {
                shuttle::thread::yield_now();
                clock.now.fetch_add(200_000, Ordering::SeqCst);
            })
        };
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (handle, clock) = (handle.clone(), Arc::clone(&world.clock));
                shuttle::thread::spawn(move || {
                    for _ in 0..3 {
                        let now = clock.boot();
                        let found = handle.cached();
                        assert!(found.is_none_or(|granted| now < granted.expires()), "an expired token was found");
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        time.join().unwrap();
        let (token, _) = ask(&handle).join().unwrap().expect("the new token");
        assert_eq!((token.expose(), world.posts.load(Ordering::SeqCst)), ("t2", 2));
    });
}

#[test]
fn a_flush_leaves_nobody_waiting_and_nothing_behind() {
    explore(|| {
        let world = World::new(40, 0);
        let cache = world.cache(BudgetRules::default());
        let handle = world.handle(&cache, "c", "read");
        let callers: Vec<_> = (0..2).map(|_| ask(&handle)).collect();
        let seen = world.posts.load(Ordering::SeqCst);
        assert_eq!(cache.flush(|_| true), 1);
        let after = handle.cached().map(|granted| granted.token().expose().to_owned());
        // What is there after the flush was asked for after it.
        assert!(after.is_none_or(|token| token[1..].parse::<usize>().unwrap() > seen), "a flushed token was kept");
        for caller in callers {
            caller.join().unwrap().expect("those who wait are served");
        }
    });
}

#[test]
fn no_wake_up_is_lost_in_the_queue_of_a_server() {
    explore(|| {
        let world = World::new(1, 0);
        // One at a time: everybody else waits for a turn, refreshes and callers of four credentials.
        let cache = world.cache(BudgetRules { concurrent: 1, ..BudgetRules::default() });
        let handles: Vec<_> = (0..4).map(|n| world.handle(&cache, &format!("c{}", n / 2), &format!("s{n}"))).collect();
        let callers: Vec<_> = handles.iter().map(ask).collect();
        let tokens: HashSet<_> =
            callers.into_iter().map(|caller| caller.join().unwrap().expect("a token").0.expose().to_owned()).collect();
        assert_eq!(tokens.len(), 4, "each profile has a token of its own");
        assert_eq!(world.most_running.load(Ordering::SeqCst), 1);
        let servers = cache.servers();
        assert_eq!((servers[0].waiting, servers[0].refreshes_waiting), (0, 0));
    });
}

#[test]
fn a_failure_in_the_queue_is_shared_by_all_profiles_of_a_credential() {
    explore(|| {
        let world = World::new(0, usize::MAX);
        let cache = world.cache(BudgetRules { concurrent: 1, ..BudgetRules::default() });
        let handles: Vec<_> = (0..3).map(|n| world.handle(&cache, "c", &format!("s{n}"))).collect();
        let callers: Vec<_> = handles.iter().map(ask).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap_err().code, "token_endpoint_unreachable");
        }
    });
}
