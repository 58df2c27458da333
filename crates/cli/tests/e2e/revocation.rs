//! Tokens taken back (RFC 7009): by the operator, and when the MID Server ends.

use std::time::Duration;

use midward_fakes::HttpFault;
use midward_fakes::authorization_server::AuthorizationServerConfig;

use crate::support::fake::{FakeChain, ask_mid, call, edit};
use crate::support::{CLIENT_ID, CLIENT_SECRET, Chain, Options};

const LIMIT: Duration = Duration::from_secs(60);

/// An entity with a revocation URL, and a rule that lists it.
fn revoked_at(stack: &midward_demo::stack::Stack, url: &str) -> anyhow::Result<()> {
    edit(stack, "connections.yaml", "    client_auth:", &format!("    revocation_url: {url}\n    client_auth:"))?;
    edit(stack, "policy.toml", "scopes = ", &format!("revocation_urls = [\"{url}\"]\nscopes = "))
}

/// The chain with the real server and opaque tokens, which alone it can revoke; the API takes whatever comes.
async fn real() -> anyhow::Result<Chain> {
    let mut chain = Chain::prepare(Options { opaque_tokens: true, ..Options::default() }).await?;
    let anything = HttpFault::Respond { status: 200, headers: Vec::new(), body: "{}".to_owned() };
    chain.stack.api.set_fault(anything, None);
    let url = format!("{}/token/revocation", chain.oidc.issuer);
    revoked_at(&chain.stack, &url)?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    assert!(chain.oidc.is_last_token_active(CLIENT_ID, CLIENT_SECRET).await?);
    Ok(chain)
}

#[tokio::test]
async fn a_flush_revokes_at_the_real_server() -> anyhow::Result<()> {
    let mut chain = real().await?;
    let flushed = ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(flushed["tokens"][0]["revocation"], "revoked", "{flushed}");
    assert!(!chain.oidc.is_last_token_active(CLIENT_ID, CLIENT_SECRET).await?);
    let again = ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(again["tokens"][0]["revocation"], "no_token", "{again}");
    Ok(())
}

#[tokio::test]
async fn a_drain_revokes_at_the_real_server() -> anyhow::Result<()> {
    let mut chain = real().await?;
    let mid = chain.stack.mid.take().expect("it runs");
    assert!(mid.stop(LIMIT).await?.success());
    assert!(!chain.oidc.is_last_token_active(CLIENT_ID, CLIENT_SECRET).await?);
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_revoke_is_told_of_and_delays_no_drain() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    revoked_at(&chain.stack, &chain.server.revocation_url())?;
    edit(&chain.stack, "mid.toml", "state_dir = ", "revoke_seconds = 1\nstate_dir = ")?;
    chain.start().await?;
    for fault in [HttpFault::Error500, HttpFault::DropAfterRead, HttpFault::Html200] {
        assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
        let is_done = fault == HttpFault::Html200;
        chain.server.set_revocation_fault(fault.clone(), Some(1));
        let flushed = ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
        let token = &flushed["tokens"][0];
        // RFC 7009 2.2: the status is the answer, whatever the body.
        assert_eq!(token["revocation"], if is_done { "revoked" } else { "failed" }, "{fault:?}: {flushed}");
        assert!(is_done || token["explanation"].as_str().is_some_and(|text| text.contains("by hand")), "{flushed}");
    }
    assert_eq!(chain.server.revocation_count(), 3);

    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    chain.server.set_revocation_fault(HttpFault::Hang, None);
    let mid = chain.stack.mid.take().expect("it runs");
    assert!(mid.stop(LIMIT).await?.success());
    assert_eq!((chain.server.revocation_count(), chain.server.revoked().len()), (4, 0));
    Ok(())
}

#[tokio::test]
async fn a_revocation_url_that_no_rule_lists_is_refused() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    // On the token URL's own origin.
    let url = chain.server.revocation_url();
    edit(
        &chain.stack,
        "connections.yaml",
        "    client_auth:",
        &format!("    revocation_url: {url}\n    client_auth:"),
    )?;
    chain.start().await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("policy_revocation_url"), "{error}");
    assert_eq!((chain.server.request_count(), chain.server.revocation_count()), (0, 0));
    Ok(())
}
