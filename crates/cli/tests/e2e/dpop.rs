//! Tokens that are bound to a key of the MID Server's (RFC 9449): the real authorization server binds them and refuses a
//! proof or an assertion that it has seen, and the API checks each proof.

use crate::support::fake::{FakeChain, ask_mid, call, edit, use_jar};
use crate::support::oidc::{OidcClient, OidcProvider, PublicKey};
use crate::support::{CLIENT_ID, CLIENT_SECRET, RESOURCE, programs};
use midward_demo::stack::{Issuer, Setup, Stack};
use midward_fakes::authorization_server::AuthorizationServerConfig;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

struct Chain {
    stack: Stack,
    oidc: OidcProvider,
    folder: tempfile::TempDir,
}

/// Everything but the MID Server. `dpop`: the authorization server's own settings for it.
async fn prepare(method: &'static str, secret: &str, key: Option<PublicKey>, dpop: Value) -> anyhow::Result<Chain> {
    let folder = tempfile::tempdir()?;
    let client = OidcClient { id: CLIENT_ID, secret: CLIENT_SECRET, method, public_key: key };
    let config = json!({
        "clients": [client.json()],
        "resource_servers": { RESOURCE: { "scope": "read write" } },
        "dpop": dpop,
    });
    let oidc = OidcProvider::launch(folder.path(), &config).await?;
    let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
    let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
    let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, secret);
    method.clone_into(&mut setup.client_auth);
    let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
    edit(&stack, "connections.yaml", "    client_auth:", "    dpop_bound_tokens: true\n    client_auth:")?;
    edit(&stack, "policy.toml", "scopes = ", "require_dpop = true\nscopes = ")?;
    Ok(Chain { stack, oidc, folder })
}

async fn start(chain: &mut Chain) -> anyhow::Result<()> {
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await
}

#[tokio::test]
async fn a_bound_token_with_nonces_on_both_sides() -> anyhow::Result<()> {
    let dpop = json!({ "required": true, "require_nonce": true });
    let mut chain = prepare("client_secret_basic", CLIENT_SECRET, None, dpop).await?;
    start(&mut chain).await?;
    let stack = &chain.stack;
    stack.api.want_dpop_nonce(Some("api-1"));
    assert_eq!(call(stack, &["crm", "POST", "/counter"]).await?, Ok(200));
    // One request more at each server, for its nonce.
    assert_eq!((stack.api.counter(), stack.api.refused_count()), (1, 1));
    assert_eq!(chain.oidc.token_requests().await?, 2);
    assert_eq!(stack.vault.request_count(), 1);

    assert_eq!(call(stack, &["crm", "POST", "/counter?a=1"]).await?, Ok(200));
    assert_eq!((stack.api.counter(), stack.api.refused_count()), (2, 1));
    stack.api.want_dpop_nonce(Some("api-2"));
    assert_eq!(call(stack, &["crm", "POST", "/counter"]).await?, Ok(200));
    assert_eq!((stack.api.counter(), stack.api.refused_count()), (3, 2));
    assert_eq!(chain.oidc.token_requests().await?, 2);

    let tokens = ask_mid(stack, &["token", "crm"]).await?;
    assert!(tokens[0]["explanation"].as_str().is_some_and(|text| text.contains("DPoP")), "{tokens}");
    // The next token has another key, and needs no second request: the server's nonce is known.
    ask_mid(stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    assert_eq!(chain.oidc.token_requests().await?, 3);

    // A caller's own proof and range go nowhere.
    let echo = ["crm", "GET", "/echo", "-H", "DPoP: mine", "-H", "Range: bytes=0-1", "-H", "X-Own: passes"];
    let answer = stack.midward_ok(&[&["call"][..], &echo, &["--output", "json"]].concat()).await?;
    assert!(answer.contains("passes") && !answer.contains("mine") && !answer.contains("bytes=0-1"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn an_assertion_is_signed_anew_when_a_nonce_is_asked_for() -> anyhow::Result<()> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let key = PublicKey { pem: pair.public_key_pem(), alg: "ES256", kid: "k" };
    let dpop = json!({ "required": true, "require_nonce": true });
    let mut chain = prepare("private_key_jwt", &pair.serialize_pem(), Some(key), dpop).await?;
    let lines = "result.put(\"pkey\", values[1]);\n result.put(\"kid\", \"k\");";
    use_jar(&chain.stack, chain.folder.path(), lines)?;
    let issuer = chain.stack.setup.issuer.issuer.clone();
    edit(&chain.stack, "connections.yaml", "    client_auth:", &format!("    issuer: {issuer}\n    client_auth:"))?;
    edit(&chain.stack, "policy.toml", "scopes = ", &format!("issuers = [\"{issuer}\"]\nscopes = "))?;
    start(&mut chain).await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    // It remembers the identifiers of assertions: the first one a second time would have been refused.
    assert_eq!(chain.oidc.token_requests().await?, 2);
    assert_eq!(chain.stack.api.refused_count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_server_that_knows_no_dpop_is_refused() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    edit(&chain.stack, "connections.yaml", "    client_auth:", "    dpop_bound_tokens: true\n    client_auth:")?;
    chain.start().await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("a bearer token");
    assert!(error.contains("token_not_bound"), "{error}");
    assert_eq!((chain.server.request_count(), chain.stack.api.refused_count()), (1, 0));
    assert!(chain.stack.api.executed().is_empty());
    Ok(())
}

#[tokio::test]
async fn the_policy_insists_whatever_the_instance_says() -> anyhow::Result<()> {
    let mut chain = prepare("client_secret_basic", CLIENT_SECRET, None, json!({})).await?;
    edit(&chain.stack, "connections.yaml", "    dpop_bound_tokens: true\n", "")?;
    start(&mut chain).await?;
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("refused");
    assert!(error.contains("policy_dpop"), "{error}");
    assert_eq!((chain.oidc.token_requests().await?, chain.stack.vault.request_count()), (0, 0));
    Ok(())
}
