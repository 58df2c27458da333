//! Tokens that are bound to a key (RFC 9449), against a server that checks each proof, in virtual time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_core::{Clock as _, Random, Secret, SeededRandom};
use midward_oauth::{
    BoxFuture, ClientAuth, DpopKey, FixedEndpoints, Proven, RevocationEndpoint, TokenCache, TokenHandle,
    TokenHttpReply, TokenHttpRequest, TokenRequestSpec, TokenTransport, TransportFailure,
};
use serde_json::{Value, json};

use crate::support::{LONG, World, key, spec};

/// How the server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Grants,
    /// Says that it wants a nonce, and gives none.
    AsksForNothing,
    /// Each answer has another nonce, and none is good.
    NeverContent,
    /// Grants a token that is not bound.
    GrantsBearer,
    RefusesProofs,
}

/// One request.
struct Seen {
    /// The public key that it proves.
    key: Value,
    nonce: Option<String>,
    assertion: Option<String>,
}

/// Checks proofs as RFC 9449 4.3 says.
struct Server {
    world: Arc<World>,
    /// One for all, as in a MID Server.
    random: Arc<SeededRandom>,
    manner: Mutex<Manner>,
    /// The nonce that a proof must hold; absent: none.
    nonce: Mutex<Option<&'static str>>,
    /// Whether each answer names the nonce, or only a refusal.
    always_tells: AtomicBool,
    latency: Mutex<Duration>,
    date: Mutex<Option<&'static str>>,
    seen: Mutex<Vec<Seen>>,
    identifiers: Mutex<HashSet<String>>,
    tokens: AtomicUsize,
}

impl Server {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            world: World::new(),
            random: Arc::new(SeededRandom::new(3)),
            manner: Mutex::new(Manner::Grants),
            nonce: Mutex::default(),
            always_tells: AtomicBool::new(false),
            latency: Mutex::default(),
            date: Mutex::default(),
            seen: Mutex::default(),
            identifiers: Mutex::default(),
            tokens: AtomicUsize::new(0),
        })
    }

    fn handle(self: &Arc<Self>, cache: &TokenCache, scope: &str, client_auth: ClientAuth) -> TokenHandle {
        let spec = TokenRequestSpec { dpop: true, client_auth, ..spec(scope) };
        let mut fetcher = Arc::into_inner(self.world.fetcher("c", spec.clone())).expect("just made");
        fetcher.transport = Arc::new(Transport(Arc::clone(self)));
        fetcher.random = Arc::clone(&self.random) as Arc<dyn Random>;
        cache.handle(key("i", "c", &spec), Arc::new(fetcher))
    }

    fn posts(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn nonces(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap().iter().map(|seen| seen.nonce.clone()).collect()
    }

    /// The nonce that is missing or wrong, if any.
    fn check(&self, request: &TokenHttpRequest) -> Option<&'static str> {
        let headers = request.header_map();
        let proof = headers["dpop"].to_str().expect("ASCII");
        assert!(headers["dpop"].is_sensitive());
        let (header, claims) = verified(proof);
        assert_eq!((&claims["htm"], &claims["htu"]), (&json!("POST"), &json!(request.url.as_str())));
        assert_eq!(claims["iat"], self.world.clock.wall().unix_seconds());
        assert!(claims.get("ath").is_none());
        let jti = claims["jti"].as_str().expect("jti").to_owned();
        assert!(self.identifiers.lock().unwrap().insert(jti), "a proof was sent twice");
        let form: HashMap<String, String> = url::form_urlencoded::parse(request.body.expose()).into_owned().collect();
        let nonce = claims["nonce"].as_str().map(str::to_owned);
        let wanted = *self.nonce.lock().unwrap();
        let is_good = wanted.is_none() || nonce.as_deref() == wanted;
        let assertion = form.get("client_assertion").cloned();
        self.seen.lock().unwrap().push(Seen { key: header["jwk"].clone(), nonce, assertion });
        wanted.filter(|_| !is_good)
    }
}

struct Transport(Arc<Server>);

impl TokenTransport for Transport {
    fn post(
        &self,
        request: TokenHttpRequest,
        _deadline: Duration,
    ) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>> {
        Box::pin(async move {
            let server = &self.0;
            let missing = server.check(&request);
            drop(request);
            let latency = *server.latency.lock().unwrap();
            tokio::time::sleep(latency).await;
            let mut headers = http::HeaderMap::new();
            let mut tell = |nonce: &str| headers.insert("dpop-nonce", nonce.parse().expect("a value"));
            let refusal = |error: &str| (400, json!({ "error": error }));
            let (status, body) = match *server.manner.lock().unwrap() {
                Manner::NeverContent => {
                    tell(&format!("n{}", server.posts()));
                    refusal("use_dpop_nonce")
                }
                Manner::AsksForNothing => refusal("use_dpop_nonce"),
                Manner::RefusesProofs => refusal("invalid_dpop_proof"),
                Manner::Grants if missing.is_some() => {
                    tell(missing.unwrap_or_default());
                    refusal("use_dpop_nonce")
                }
                manner => {
                    if let Some(nonce) = *server.nonce.lock().unwrap()
                        && server.always_tells.load(Ordering::SeqCst)
                    {
                        tell(nonce);
                    }
                    let number = server.tokens.fetch_add(1, Ordering::SeqCst) + 1;
                    let kind = if manner == Manner::GrantsBearer { "Bearer" } else { "dPoP" };
                    let token = format!("token-{number}");
                    (200, json!({ "access_token": token, "token_type": kind, "expires_in": 3600 }))
                }
            };
            if let Some(date) = *server.date.lock().unwrap() {
                headers.insert("date", date.parse().expect("a value"));
            }
            Ok(TokenHttpReply { status, headers, body: Secret::from(body.to_string()) })
        })
    }
}

/// Header and claims of a proof whose signature is good by the key that it names.
fn verified(proof: &str) -> (Value, Value) {
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let (input, signature) = proof.rsplit_once('.').expect("a signature");
    let (header, claims) = input.split_once('.').expect("claims");
    let json = |part| serde_json::from_slice::<Value>(&decode(part)).expect("JSON");
    let (header, claims) = (json(header), json(claims));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
    let coordinate = |name: &str| decode(header["jwk"][name].as_str().expect("text"));
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(input.as_bytes(), &decode(signature)).expect("a good signature");
    (header, claims)
}

/// The public key that a token's holder proves.
fn public(key: &DpopKey) -> Value {
    let url = "https://api.example/x".parse().expect("a URL");
    let of = Proven { method: "GET", url: &url, nonce: None, token: None };
    let now = midward_core::WallTime::from_unix_millis(0);
    let proof = key.proof(&of, now, &SeededRandom::new(1)).expect("a proof");
    verified(proof.to_str().expect("ASCII")).0["jwk"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_nonce_is_asked_for_once_and_then_known_to_every_profile_of_the_server() {
    let server = Server::new();
    *server.nonce.lock().unwrap() = Some("first");
    let cache = server.world.cache();
    let handle = server.handle(&cache, "read", ClientAuth::ClientSecretPost);
    let granted = handle.token(LONG).await.expect("a token");
    assert_eq!(server.nonces(), [None, Some("first".to_owned())]);
    assert_eq!(server.world.reads(), 1, "the vault is not asked for the repetition");
    let keys: Vec<Value> = server.seen.lock().unwrap().iter().map(|seen| seen.key.clone()).collect();
    assert_eq!(keys[0], keys[1]);
    assert_eq!(public(granted.dpop().expect("a key")), keys[1]);
    let steps: Vec<String> = granted.trace().0.into_iter().map(|step| step.what).collect();
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert!(steps[1].contains("nonce") && steps[2] == "token granted", "{steps:?}");

    let other = server.handle(&cache, "write", ClientAuth::ClientSecretPost);
    let second = other.token(LONG).await.expect("a token");
    assert_eq!((server.posts(), server.nonces()[2].as_deref()), (3, Some("first")));
    // Each token has a key of its own.
    assert_ne!(public(second.dpop().expect("a key")), keys[1]);
    assert!(!format!("{second:?}").contains("token-2"));

    // The nonce of a grant is taken too: the next one needs no second request.
    server.always_tells.store(true, Ordering::SeqCst);
    *server.nonce.lock().unwrap() = None;
    let third = server.handle(&cache, "third", ClientAuth::ClientSecretPost);
    third.token(LONG).await.expect("a token");
    *server.nonce.lock().unwrap() = Some("second");
    for (scope, posts) in [("fourth", 6), ("fifth", 7)] {
        server.handle(&cache, scope, ClientAuth::ClientSecretPost).token(LONG).await.expect("a token");
        assert_eq!(server.posts(), posts, "{scope}");
    }
    assert_eq!(server.nonces()[6].as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn an_assertion_is_made_anew_for_the_repetition() {
    let server = Server::new();
    *server.nonce.lock().unwrap() = Some("n");
    let cache = server.world.cache();
    server.handle(&cache, "read", ClientAuth::ClientSecretJwt).token(LONG).await.expect("a token");
    let seen = server.seen.lock().unwrap();
    let assertions: HashSet<&String> = seen.iter().filter_map(|seen| seen.assertion.as_ref()).collect();
    assert_eq!((seen.len(), assertions.len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_never_content_is_asked_twice_and_then_by_back_off() {
    for (manner, posts) in [(Manner::NeverContent, 2), (Manner::AsksForNothing, 1), (Manner::RefusesProofs, 1)] {
        let server = Server::new();
        *server.manner.lock().unwrap() = manner;
        let cache = server.world.cache();
        let handle = server.handle(&cache, "read", ClientAuth::ClientSecretPost);
        for _ in 0..3 {
            let failure = handle.token(LONG).await.expect_err("no token");
            assert_eq!(failure.code, "dpop_proof_refused", "{failure}");
        }
        assert_eq!(server.posts(), posts, "all but the first share the failure");
        assert_eq!(server.world.reads(), 1, "it is no refusal of the secret");
        *server.manner.lock().unwrap() = Manner::Grants;
        tokio::time::sleep(Duration::from_mins(6)).await;
        handle.token(LONG).await.expect("it heals by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_bound_is_never_used() {
    let server = Server::new();
    *server.manner.lock().unwrap() = Manner::GrantsBearer;
    let cache = server.world.cache();
    let handle = server.handle(&cache, "read", ClientAuth::ClientSecretPost);
    let failure = handle.token(LONG).await.expect_err("a downgrade");
    assert_eq!(failure.code, "token_not_bound");
    assert!(handle.cached().is_none() && !failure.to_string().contains("token-1"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_named_where_a_proof_is_refused() {
    let server = Server::new();
    *server.manner.lock().unwrap() = Manner::RefusesProofs;
    // The test's clock says 2027-01-15 08:00:00.
    for (date, named) in [("Fri, 15 Jan 2027 09:00:00 GMT", true), ("Fri, 15 Jan 2027 08:00:10 GMT", false)] {
        *server.date.lock().unwrap() = Some(date);
        let cache = server.world.cache();
        let handle = server.handle(&cache, date, ClientAuth::ClientSecretPost);
        let failure = handle.token(LONG).await.expect_err("no token");
        assert_eq!(failure.detail.contains("clock"), named, "{failure}");
        assert_eq!(failure.action.contains("Set the MID Server's clock right"), named, "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_requests_together_have_ten_seconds() {
    let server = Server::new();
    *server.nonce.lock().unwrap() = Some("n");
    *server.latency.lock().unwrap() = Duration::from_secs(6);
    let cache = server.world.cache();
    let handle = server.handle(&cache, "read", ClientAuth::ClientSecretPost);
    let began = server.world.clock.start_elapsed();
    let failure = handle.token(LONG).await.expect_err("too slow");
    assert_eq!(failure.code, "token_endpoint_timeout");
    let took = server.world.clock.start_elapsed().saturating_sub(began);
    assert!((Duration::from_secs(10)..Duration::from_millis(10_100)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lists_other_algorithms_is_sent_nothing() {
    for (dpop, lacks, is_refused) in [(true, true, true), (true, false, false), (false, true, false)] {
        let world = World::new();
        let spec = TokenRequestSpec { dpop, ..spec("read") };
        let mut fetcher = Arc::into_inner(world.fetcher("c", spec.clone())).expect("the only one");
        let mut endpoints = FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None);
        endpoints.0.lacks_dpop_algorithm = lacks;
        fetcher.endpoints = Arc::new(endpoints);
        let cache = world.cache();
        let handle = cache.handle(key("i", "c", &spec), Arc::new(fetcher));
        let result = handle.token(LONG).await.map(|_| ());
        let code = result.as_ref().err().map(|failure| failure.code.as_str());
        assert_eq!(code == Some("dpop_algorithm_unlisted"), is_refused, "{result:?}");
        let sent = usize::from(!is_refused);
        assert_eq!((world.reads(), world.posts()), (sent, sent), "{dpop} {lacks}");
    }
}
