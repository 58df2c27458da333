//! `midward-mid token --explain`: why there is a token or not, each hop with its duration, and what to change.

use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{AuthorizationServerConfig, OAuthFault, TokenFault};
use serde_json::{Value, json};

use crate::support::CLIENT_SECRET;
use crate::support::fake::{FakeChain, ask_mid, call};

/// The one token, and which hops its last fetch passed. Each has a duration, and one that asks somebody takes time.
async fn explained(chain: &FakeChain) -> anyhow::Result<(Value, Vec<String>)> {
    let tokens = ask_mid(&chain.stack, &["token", "crm", "--explain"]).await?;
    anyhow::ensure!(tokens.as_array().map(Vec::len) == Some(1), "{tokens}");
    let token = tokens[0].clone();
    let steps = token["steps"].as_array().cloned().unwrap_or_default();
    let timed = steps.iter().filter_map(|step| step["micros"].as_u64()).collect::<Vec<u64>>();
    anyhow::ensure!(timed.len() == steps.len() && timed.iter().any(|micros| *micros > 0), "{token}");
    let hops = steps.iter().filter_map(|step| step["hop"].as_str().map(str::to_owned)).collect();
    Ok((token, hops))
}

fn says(token: &Value, member: &str, part: &str) -> bool {
    token[member].as_str().is_some_and(|text| text.contains(part))
}

#[tokio::test]
async fn a_token_and_a_failure_are_explained_hop_by_hop() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    chain.start().await?;
    let config = chain.stack.path("mid.toml");
    let unused = chain.stack.mid_command(&["token", "crm", "--explain", "--config", &config]).await?;
    let line = String::from_utf8_lossy(&unused.stderr).into_owned();
    assert!(!unused.status.success() && line.contains("connection_not_used"), "{line}");

    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let (token, hops) = explained(&chain).await?;
    assert_eq!((token["state"].as_str(), &token["action"]), (Some("valid"), &Value::Null), "{token}");
    assert!(says(&token, "explanation", "there is a token, asked for"), "{token}");
    assert_eq!(hops.first().map(String::as_str), Some("resolver"), "{token}");
    assert!(hops.contains(&"vault".to_owned()), "{token}");
    assert_eq!(hops.last().map(String::as_str), Some("authorization_server"), "{token}");

    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    chain.server.set_fault(TokenFault::Http(HttpFault::Error500), None);
    assert!(call(&chain.stack, &["crm", "GET", "/hello"]).await?.is_err());
    let (token, hops) = explained(&chain).await?;
    assert_eq!(token["state"], "failed", "{token}");
    assert!(says(&token, "explanation", "token_endpoint_unavailable"), "{token}");
    assert!(says(&token, "action", "tried again by itself"), "{token}");
    assert!(hops.contains(&"vault".to_owned()) && hops.contains(&"authorization_server".to_owned()), "{token}");

    // For people: the same in lines, and no secret in any.
    let shown = chain.stack.mid_command(&["token", "--all", "--config", &config]).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["  state    failed: ", "  to do    ", "  step     vault: ", "  step     authorization server: "] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
    assert!(!shown.contains(CLIENT_SECRET), "{shown}");
    Ok(())
}

#[tokio::test]
async fn what_a_reply_leaves_open_is_read_as_mid_toml_says() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let server = chain.server.url();
    let section = format!(
        "\n[token_requests]\ndefault_lifetime_seconds = 60\n[token_requests.servers.\"{server}\"]\n\
         default_lifetime_seconds = 9000\naccept_narrower_scope = true\n"
    );
    chain.stack.write("mid.toml", &(chain.stack.mid_toml() + &section))?;
    chain.start().await?;
    chain.server.set_fault(TokenFault::OAuth(OAuthFault::WithoutExpiresIn), Some(1));
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let (token, _) = explained(&chain).await?;
    let left = token["expires_in_ms"].as_u64().unwrap_or_default();
    assert!((8_000_000..=9_000_000).contains(&left), "{token}");

    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    let narrower = OAuthFault::Scope { scope: "other".to_owned() };
    chain.server.set_fault(TokenFault::OAuth(narrower), Some(1));
    call(&chain.stack, &["crm", "GET", "/hello"]).await?.map_err(anyhow::Error::msg)?;
    let (token, _) = explained(&chain).await?;
    assert_eq!((&token["state"], &token["granted_scopes"]), (&json!("valid"), &json!(["other"])), "{token}");
    Ok(())
}
