use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use midward_core::{
    ClientMaterial, Clock, FingerprintKey, MaterialField, Random, Secret, SystemClock, SystemRandom, Trace,
};
use midward_net::WayOut;
use midward_oauth::{TokenCache, TokenCacheConfig};
use midward_resolvers::{BoxFuture, Lookup, Resolution, ResolveError, Resolver, ResolverReport};
use midward_telemetry::Tracer;
use midward_wire::{ConfigDigest, LeaseGrant, Outcome, paths};
use serde_json::{Value, json};

use super::instance::{Scripted, json as answer_json, token_answer};
use crate::api::ApiCaller;
use crate::audit::{Audit, AuditEntry, entries};
use crate::config_cache::ConfigCache;
use crate::discovery::Discoveries;
use crate::engine::Engine;
use crate::execute::{Execute as _, Leased};
use crate::policy::{Policy, PolicyStore};
use crate::token_requests::TokenRequestsSection;

#[derive(Debug)]
struct Known;

impl Resolver for Known {
    fn kind(&self) -> &'static str {
        "known"
    }

    fn resolve<'a>(&'a self, _: &'a Lookup, _: Duration) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        let material = ClientMaterial::new()
            .with(MaterialField::ClientId, Secret::from("id"))
            .with(MaterialField::ClientSecret, Secret::from("s3cret"));
        Box::pin(async { Ok(Resolution { material, changing: false, trace: Trace::default() }) })
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Ready
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// An engine, the instance that serves its one document, and that document's digest. `third` is token endpoint and API.
pub(super) async fn engine(third: &Scripted, folder: &tempfile::TempDir) -> (Engine, Scripted, ConfigDigest) {
    let (engine, instance, mut digests) = engine_for(third, folder, &["crm"], &json!({}), Arc::new(SystemClock)).await;
    (engine, instance, digests.remove(0))
}

/// The same with a connection for each of these aliases. They differ in nothing else. `further`: members of each
/// document's parts.
async fn engine_for(
    third: &Scripted,
    folder: &tempfile::TempDir,
    aliases: &[&str],
    further: &Value,
    clock: Arc<dyn Clock>,
) -> (Engine, Scripted, Vec<ConfigDigest>) {
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let document = |alias: &str| {
        let mut document = json!({
            "version": 1,
            "connection": { "alias": alias, "base_url": third.url, "timeout_ms": 5000 },
            "credential": { "name": "c", "credential_id": "crm-client", "resolver": "known" },
            "profile": { "name": "p", "grant_type": "client_credentials", "token_url": format!("{}/token", third.url),
                         "client_auth": "client_secret_basic" },
        });
        for (part, members) in further.as_object().into_iter().flatten() {
            for (member, value) in members.as_object().into_iter().flatten() {
                document[part][member] = value.clone();
            }
        }
        document.to_string()
    };
    let documents: Vec<String> = aliases.iter().map(|alias| document(alias)).collect();
    let digests = documents.iter().map(|document| ConfigDigest::of(document.as_bytes())).collect();
    let instance = Scripted::start(move |seen| {
        let named = |document: &&String| seen.path.ends_with(&ConfigDigest::of(document.as_bytes()).to_string());
        let document = documents.iter().find(named).or(documents.first()).cloned().unwrap_or_default();
        token_answer(seen).unwrap_or_else(|| answer_json(200, document))
    })
    .await;
    let rule = format!(
        "version = 1\n[[rule]]\nname = \"crm\"\ncredential_id = \"crm-client\"\nresolver = \"known\"\n\
         token_urls = [\"{0}/token\"]\napi_origins = [\"{0}\"]\nmethods = [\"GET\", \"POST\", \"PUT\"]\n\
         allow_addresses = [\"127.0.0.1/32\"]\nallow_plain_http = true\n",
        third.url
    );
    let way = WayOut::plain_default().expect("a way");
    let link = Arc::new(instance.link());
    let resolver: Arc<dyn Resolver> = Arc::new(Known);
    let engine = Engine {
        configs: ConfigCache::new(Arc::clone(&link)),
        link,
        policy: Arc::new(PolicyStore::new(Policy::parse(&rule).expect("a policy"), Arc::clone(&random))),
        tokens: TokenCache::new(Arc::clone(&clock), Arc::clone(&random), TokenCacheConfig::default()),
        resolvers: Arc::new(ArcSwap::from_pointee(BTreeMap::from([("known".to_owned(), resolver)]))),
        discoveries: Discoveries::new(way.clone(), Arc::clone(&clock), Arc::clone(&random)),
        token_way: way.clone(),
        apis: ApiCaller::new(way, Arc::clone(&clock), Arc::clone(&random), 1 << 20),
        audit: Arc::new(Audit::open(folder.path(), None).expect("open")),
        fingerprint_key: FingerprintKey::generate(random.as_ref()),
        nonces: Arc::default(),
        reply_rules: TokenRequestsSection::default().reply_rules(),
        tracer: Tracer::off(),
        clock: Arc::clone(&clock),
        random,
    };
    (engine, instance, digests)
}

/// An engine whose instance serves one document; `third` is token endpoint and API.
pub(super) struct Rig {
    engine: Engine,
    digest: ConfigDigest,
    instance: Scripted,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// `connection`: further members of the document's connection.
    pub(super) async fn new(third: &Scripted, connection: Value) -> Self {
        Self::with(third, &json!({ "connection": connection })).await
    }

    /// `further`: members of the document's parts.
    pub(super) async fn with(third: &Scripted, further: &Value) -> Self {
        Self::at(third, further, Arc::new(SystemClock)).await
    }

    pub(super) async fn at(third: &Scripted, further: &Value, clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (engine, instance, mut digests) = engine_for(third, &folder, &["crm"], further, clock).await;
        Self { engine, digest: digests.remove(0), instance, _folder: folder }
    }

    /// Tokens that were dropped because the API refused them.
    pub(super) fn rejections(&self) -> u64 {
        self.engine.tokens.counts().rejections
    }

    /// One call, through to its outcome.
    pub(super) async fn call(&self, call: Value, lease_ms: u64) -> Outcome {
        let outcome = send(&self.engine, self.digest.clone(), call, lease_ms).await;
        assert_eq!(self.instance.seen(paths::OUTCOMES).len(), 0);
        outcome
    }
}

/// One call through an engine of its own.
async fn run(third: &Scripted, method: &str, lease_ms: u64) -> Outcome {
    Rig::new(third, json!({})).await.call(json!({ "method": method, "path": "/x" }), lease_ms).await
}

/// Runs one call.
pub(super) async fn call(engine: &Engine, config: ConfigDigest, method: &str, lease_ms: u64) -> Outcome {
    send(engine, config, json!({ "method": method, "path": "/x" }), lease_ms).await
}

async fn send(engine: &Engine, config: ConfigDigest, call: Value, lease_ms: u64) -> Outcome {
    let grant = LeaseGrant {
        request_id: "r".into(),
        epoch: 1,
        lease_ms,
        expires_ms: lease_ms,
        config,
        call: serde_json::from_value(call).expect("a call"),
    };
    let (outcome, _) = engine.execute(Leased { grant, asked_at: engine.clock.boot() }).await;
    outcome
}

/// A token endpoint that numbers its tokens, and an API that refuses the first.
pub(super) async fn third_party() -> Scripted {
    let minted = AtomicUsize::new(0);
    Scripted::start(move |seen| {
        if seen.path == "/token" {
            let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({ "access_token": format!("t{number}"), "token_type": "Bearer", "expires_in": 300 });
            return answer_json(200, body.to_string());
        }
        answer_json(if seen.authorization == "Bearer t1" { 401 } else { 200 }, "{}")
    })
    .await
}

pub(super) fn status(outcome: &Outcome) -> Option<u16> {
    match outcome {
        Outcome::Replied { reply } => Some(reply.status),
        _ => None,
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_for_a_call_that_may_be_repeated() {
    let third = third_party().await;
    let outcome = run(&third, "GET", 30_000).await;
    assert_eq!(status(&outcome), Some(200), "{outcome:?}");
    assert_eq!(third.seen("/x").len(), 2);
}

#[tokio::test]
async fn a_post_is_not_repeated() {
    let third = third_party().await;
    let outcome = run(&third, "POST", 30_000).await;
    assert_eq!(status(&outcome), Some(401), "{outcome:?}");
    assert_eq!(third.seen("/x").len(), 1);
}

#[tokio::test]
async fn a_method_that_no_rule_lists_and_a_lease_that_is_over_send_nothing_and_are_in_the_audit() {
    let third = third_party().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, _instance, digest) = engine(&third, &folder).await;
    let refused = call(&engine, digest.clone(), "DELETE", 30_000).await;
    assert!(matches!(&refused, Outcome::Failed { failure } if failure.reference.is_some()), "{refused:?}");
    assert!(third.seen("/token").is_empty());
    let late = call(&engine, digest, "GET", 0).await;
    assert!(matches!(late, Outcome::Failed { .. }), "{late:?}");
    assert!(third.seen("/x").is_empty());
    drop(engine);
    let Outcome::Failed { failure } = late else { panic!("{late:?}") };
    let [AuditEntry::Refusal { code, .. }, AuditEntry::Call { outcome, .. }] = &entries(&folder)[..] else {
        panic!("{:?}", entries(&folder))
    };
    assert_eq!((code.as_str(), outcome), ("policy_method", &format!("failed {}", failure.code)));
}

#[tokio::test]
async fn ten_connections_that_share_everything_that_shapes_the_token_share_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let third = Scripted::start(|seen| {
        let token = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 300 }).to_string();
        answer_json(200, if seen.path == "/token" { token } else { "{}".to_owned() })
    })
    .await;
    let aliases = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let (engine, _instance, digests) = engine_for(&third, &folder, &aliases, &json!({}), Arc::new(SystemClock)).await;
    let calls = digests.into_iter().map(|digest| call(&engine, digest, "GET", 30_000));
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(outcomes.iter().all(|outcome| status(outcome) == Some(200)), "{outcomes:?}");
    assert_eq!((third.seen("/token").len(), third.seen("/x").len()), (1, 10));
    let key = engine.key_of("a").expect("used");
    assert_eq!(engine.connections_of(&key), aliases);
}

#[tokio::test]
async fn a_403_drops_no_token_and_is_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let third = Scripted::start(|seen| {
        if seen.path == "/token" {
            let body = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 300 });
            return answer_json(200, body.to_string());
        }
        answer_json(403, r#"{"error":"insufficient_scope"}"#)
    })
    .await;
    let (engine, _instance, digest) = engine(&third, &folder).await;
    for _ in 0..2 {
        assert_eq!(status(&call(&engine, digest.clone(), "GET", 30_000).await), Some(403));
    }
    assert_eq!((third.seen("/token").len(), third.seen("/x").len()), (1, 2));
    assert_eq!(engine.tokens.counts().rejections, 0);
}

#[tokio::test]
async fn an_instance_that_is_away_for_a_moment_fails_no_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let third = Scripted::start(|seen| {
        let token = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 300 }).to_string();
        answer_json(200, if seen.path == "/token" { token } else { "{}".to_owned() })
    })
    .await;
    let (engine, instance, digest) = engine(&third, &folder).await;
    let path = format!("{}/{digest}", paths::CONFIG);
    let document = engine.link.call(Method::GET, &path, Bytes::new(), Duration::from_secs(10), 1 << 16).await;
    let document = String::from_utf8(document.expect("the document").to_vec()).expect("text");
    let asked = AtomicUsize::new(0);
    instance.answer_with(move |seen| {
        token_answer(seen).unwrap_or_else(|| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => answer_json(503, "{}"),
            _ => answer_json(200, document.clone()),
        })
    });
    assert_eq!(status(&call(&engine, digest, "POST", 30_000).await), Some(200));
    assert_eq!((instance.seen(&path).len(), third.seen("/x").len()), (4, 1));
}
