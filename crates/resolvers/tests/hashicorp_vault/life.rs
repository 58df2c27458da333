//! What becomes of the MID's token, and of a vault that goes and comes back.

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use midward_core::Persistence;
use midward_fakes::openbao::OpenBao;
use midward_resolvers::ResolverReport;
use serde_json::json;

use crate::bench::{Bench, pair, resolve, secret, set_up, until};

#[tokio::test]
async fn an_idle_mids_token_is_renewed_before_it_ends() {
    let bench = Bench::new("2s").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let resolver = bench.resolver("");
    resolver.warm_up().await;
    // Each comes after more than half of the token's life, so the first token has ended by then unless it was renewed.
    until("renewals", async || bench.asked("POST /v1/auth/token/renew-self ") >= 3).await;
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    assert_eq!(bench.log_ins(), 1);
}

#[tokio::test]
async fn a_token_that_can_live_no_longer_is_replaced() {
    let bench = Bench::new("2s").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let role = json!({ "token_ttl": "2s", "token_max_ttl": "3s", "token_policies": "midward" });
    bench.bao.api(Method::POST, "auth/approle/role/mid", role).await.expect("role");
    let resolver = bench.resolver("");
    resolver.warm_up().await;
    until("sign-ins", async || bench.log_ins() >= 3).await;
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    assert_eq!(resolver.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn a_revoked_token_heals_with_one_sign_in_for_all_who_wait() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let resolver = bench.resolver("");
    let all = |count: usize| {
        let calls = (0..count).map(|_| {
            let resolver = Arc::clone(&resolver);
            async move { assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s")) }
        });
        join_all(calls)
    };
    all(16).await;
    assert_eq!(bench.log_ins(), 1);
    bench.bao.api(Method::PUT, "sys/leases/revoke-prefix/auth/approle", json!({})).await.expect("revoked");
    all(16).await;
    assert_eq!(bench.log_ins(), 2);
}

#[tokio::test]
async fn a_token_that_may_not_look_at_itself_heals_too() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    bench.bao.put("closed", secret("a", "b")).await.expect("stored");
    let role = json!({ "token_no_default_policy": true, "token_policies": "midward" });
    bench.bao.api(Method::POST, "auth/approle/role/mid", role).await.expect("role");
    bench.bao.allow("midward", "secret/data/crm").await.expect("policy");
    let resolver = bench.resolver("");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
    assert_eq!(resolve(&resolver, "closed").await.expect_err("forbidden").code, "vault_denied");
    bench.bao.api(Method::PUT, "sys/leases/revoke-prefix/auth/approle", json!({})).await.expect("revoked");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "s"));
}

#[tokio::test]
async fn a_sealed_vault_is_a_passing_failure() {
    let bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "s")).await.expect("stored");
    let resolver = bench.resolver("");
    resolve(&resolver, "crm").await.expect("found");
    bench.bao.seal().await.expect("sealed");
    let sealed = resolve(&resolver, "crm").await.expect_err("sealed");
    assert_eq!((sealed.code.as_str(), sealed.persistence), ("vault_unavailable", Persistence::Transient));
    bench.bao.unseal().await.expect("unsealed");
    until("a served look-up", async || resolve(&resolver, "crm").await.is_ok()).await;
    assert_eq!(bench.log_ins(), 1, "the token outlived it");
}

#[tokio::test]
async fn a_vault_that_was_killed_and_knows_no_token_any_more_heals() {
    let mut bench = Bench::new("1h").await;
    bench.bao.put("crm", secret("midward", "before")).await.expect("stored");
    let resolver = bench.resolver("");
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("found")), ("midward", "before"));
    let next = OpenBao::start().await.expect("OpenBao");
    set_up(&next, json!({ "token_ttl": "1h" })).await;
    next.put("crm", secret("midward", "after")).await.expect("stored");
    drop(std::mem::replace(&mut bench.bao, next));
    let dead = resolve(&resolver, "crm").await.expect_err("dead");
    assert_eq!((dead.code.as_str(), dead.persistence), ("vault_unreachable", Persistence::Transient));
    bench.tap.set_target(bench.bao.addr());
    assert_eq!(pair(&resolve(&resolver, "crm").await.expect("healed")), ("midward", "after"));
    assert_eq!(bench.log_ins(), 2);
}

#[tokio::test]
async fn a_stopping_mid_has_its_token_revoked_and_asks_no_more() {
    let bench = Bench::new("2s").await;
    let resolver = bench.resolver("");
    resolver.warm_up().await;
    let tokens = async || {
        let list = bench.bao.api(Method::GET, "auth/token/accessors?list=true", serde_json::Value::Null).await;
        list.expect("accessors")["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(tokens().await, 2, "the administrator's and the MID's");
    resolver.shut_down().await;
    assert_eq!(tokens().await, 1);
    assert_eq!(bench.asked("POST /v1/auth/token/revoke-self "), 1);
}
