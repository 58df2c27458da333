//! Token endpoints found by metadata: the rule on the MID's host decides, whatever a document says.

use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig};
use serde_json::json;

use crate::support::fake::{FakeChain, ask_mid, call, edit};
use crate::support::{CLIENT_SECRET, Chain, Options};

/// An entity with its issuer in place of its token URL.
fn by_issuer(stack: &midward_demo::stack::Stack) -> anyhow::Result<()> {
    let issuer = &stack.setup.issuer;
    edit(
        stack,
        "connections.yaml",
        &format!("token_url: {}", issuer.token_url),
        &format!("issuer: {}", issuer.issuer),
    )?;
    edit(stack, "policy.toml", "scopes = ", &format!("issuers = [\"{}\"]\nscopes = ", issuer.issuer))
}

#[tokio::test]
async fn the_real_servers_endpoint_is_found() -> anyhow::Result<()> {
    let mut chain = Chain::prepare(Options::default()).await?;
    by_issuer(&chain.stack)?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    let answer = chain.call(&["crm", "GET", "/hello"]).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(chain.oidc.token_requests().await?, 1);
    Ok(())
}

#[tokio::test]
async fn hostile_metadata_gets_no_secret() -> anyhow::Result<()> {
    let thief = AuthorizationServer::start(AuthorizationServerConfig::default())?;
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    by_issuer(&chain.stack)?;
    chain.server.set_metadata("token_endpoint", json!(thief.token_url()));
    chain.start().await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("policy_token_url") && !error.contains(&thief.token_url()), "{error}");
    let error: serde_json::Value = serde_json::from_str(&error)?;
    let reference = error["reference"].as_str().expect("a reference");
    let explained = ask_mid(&chain.stack, &["policy", "explain", reference]).await?;
    let line = format!("token_urls = [\"{}\", \"{}\"]", chain.server.token_url(), thief.token_url());
    assert!(explained["explanation"].as_str().is_some_and(|text| text.contains(&line)), "{explained}");
    assert_eq!((thief.request_count(), chain.server.request_count(), chain.stack.vault.request_count()), (0, 0, 0));

    chain.server.set_metadata("token_endpoint", json!(chain.server.token_url()));
    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    // It names a revocation endpoint too, which no rule lists.
    let flushed = ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(flushed["tokens"][0]["revocation"], "not_allowed", "{flushed}");
    assert_eq!(chain.server.revocation_count(), 0);
    Ok(())
}

#[tokio::test]
async fn metadata_names_where_to_revoke_and_the_rule_lists_it() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    by_issuer(&chain.stack)?;
    let line = format!("revocation_urls = [\"{}\"]\nscopes = ", chain.server.revocation_url());
    edit(&chain.stack, "policy.toml", "scopes = ", &line)?;
    chain.start().await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let flushed = ask_mid(&chain.stack, &["token", "--all", "--flush"]).await?;
    assert_eq!(flushed["tokens"][0]["revocation"], "revoked", "{flushed}");
    assert_eq!(chain.server.revoked().len(), 1);
    Ok(())
}

#[tokio::test]
async fn another_issuers_metadata_and_a_redirect_are_refused() -> anyhow::Result<()> {
    let thief = AuthorizationServer::start(AuthorizationServerConfig::default())?;
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    by_issuer(&chain.stack)?;
    chain.start().await?;
    let well_known = format!("{}/.well-known/oauth-authorization-server", thief.url());
    chain.server.set_metadata_fault(HttpFault::Redirect { location: well_known }, Some(2));
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("metadata_not_found"), "{error}");
    chain.server.set_metadata("issuer", json!(format!("{}/", chain.server.url())));
    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("metadata_issuer_mismatch"), "{error}");
    assert_eq!((chain.server.request_count(), chain.stack.vault.request_count()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn an_issuer_that_takes_no_es256_proofs_is_named_and_sent_nothing() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    by_issuer(&chain.stack)?;
    edit(&chain.stack, "connections.yaml", "    client_auth:", "    dpop_bound_tokens: true\n    client_auth:")?;
    chain.server.set_metadata("dpop_signing_alg_values_supported", json!(["RS256", "EdDSA"]));
    chain.start().await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("dpop_algorithm_unlisted") && error.contains("ES256"), "{error}");
    assert_eq!((chain.server.request_count(), chain.stack.vault.request_count()), (0, 0));
    // Once it lists it, it is asked. This one knows no DPoP, and what it grants is not taken.
    chain.server.set_metadata("dpop_signing_alg_values_supported", json!(["RS256", "ES256"]));
    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("a bearer token");
    assert!(error.contains("token_not_bound"), "{error}");
    assert_eq!(chain.server.request_count(), 1);
    Ok(())
}
