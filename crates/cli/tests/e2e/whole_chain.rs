//! A request leaves with a token whose secret only the vault knew: every hop is the real one, except CyberArk's.

use std::time::Duration;

use crate::support::fake::{FakeChain, call};
use crate::support::{Chain, Options, jar};
use midward_demo::process::wait_for;
use midward_fakes::authorization_server::AuthorizationServerConfig;
use serde_json::Value;

#[tokio::test]
async fn a_call_passes_every_hop_and_the_second_uses_the_cached_token() -> anyhow::Result<()> {
    let mut chain = Chain::start(Options::default()).await?;
    let first = chain.call(&["crm", "GET", "/hello", "--trace"]).await?;
    assert_eq!(first["status"], 200, "{first}");
    for hop in ["vault", "authorization_server", "api"] {
        assert!(has_hop(&first, hop), "no {hop} in {first}");
    }
    let second = chain.call(&["crm", "GET", "/hello", "--trace"]).await?;
    assert_eq!(second["status"], 200, "{second}");
    assert!(!has_hop(&second, "authorization_server"), "{second}");
    assert_eq!(chain.oidc.token_requests().await?, 1);
    assert_eq!(chain.stack.vault.request_count(), 1);
    Ok(())
}

#[tokio::test]
async fn client_secret_post_and_the_instance_over_tls() -> anyhow::Result<()> {
    let options = Options { method: "client_secret_post", adjust: |setup| setup.tls = true, ..Options::default() };
    let mut chain = Chain::start(options).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    assert_eq!(chain.oidc.token_requests().await?, 1);
    Ok(())
}

#[tokio::test]
async fn cyberarks_own_jar_through_the_built_in_resolver() -> anyhow::Result<()> {
    let options = Options { adjust: |setup| "cyberark-sdk".clone_into(&mut setup.resolver), ..Options::default() };
    let chain = Chain::start(options).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    let seen = chain.stack.vault.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].fields.value("client"), Some("sdk"));
    Ok(())
}

#[tokio::test]
async fn a_customers_legacy_jar_compiled_from_source() -> anyhow::Result<()> {
    let mut chain = Chain::prepare(Options::default()).await?;
    let customer =
        jar::compile(chain.folder.path(), "com.snc.discovery.CredentialResolver", jar::LEGACY_RESOLVER, None)?;
    let mid_toml = chain.stack.mid_toml();
    let sample = chain.stack.programs.sample_jar();
    let mid_toml = mid_toml.replace(&*sample.to_string_lossy(), &customer.to_string_lossy()).replace(
        "[resolvers.cyberark.environment_values]",
        &format!("[resolvers.cyberark.environment_values]\nAIM_PORT = \"{}\"", chain.stack.vault.port()),
    );
    chain.stack.write("mid.toml", &mid_toml)?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    assert_eq!(chain.stack.vault.requests()[0].fields.value("client"), Some("cli"));
    Ok(())
}

#[tokio::test]
async fn a_queued_request_is_answered_with_its_outcome() -> anyhow::Result<()> {
    let chain = Chain::start(Options::default()).await?;
    let answer = chain.call(&["crm", "POST", "/echo", "-d", r#"{"n":1}"#, "--queued"]).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    let body: Value = body_json(&answer)?;
    assert_eq!(body["method"], "POST");
    assert_eq!(body["body"], r#"{"n":1}"#);
    Ok(())
}

#[tokio::test]
async fn a_rotated_secret_heals_without_a_restart() -> anyhow::Result<()> {
    let mut chain = Chain::start(Options { token_lifetime: Duration::from_secs(2), ..Options::default() }).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    chain.oidc.set_secret(crate::support::CLIENT_ID, "rotated %+&= secret").await?;
    assert!(chain.stack.vault.set_password("Finance", "crm-client", "rotated %+&= secret"));
    let minted = chain.oidc.token_requests().await?;
    wait_for("a call with a token of the new secret", Duration::from_secs(20), async || {
        let answer = chain.call(&["crm", "GET", "/hello"]).await?;
        anyhow::ensure!(answer["status"] == 200, "a call failed during rotation: {answer}");
        Ok((chain.oidc.token_requests().await? > minted).then_some(()))
    })
    .await?;
    Ok(())
}

/// Four kilobytes of `part`, with what a shell or a parser could take off at the end.
fn long_secret(part: &str) -> String {
    part.repeat(4096 / part.len() + 1) + "\" '."
}

#[tokio::test]
async fn a_secret_of_four_kilobytes_reaches_the_server_byte_for_byte() -> anyhow::Result<()> {
    // All that RFC 6749 lets a secret be made of, to the real server, which accepts no other.
    let ascii: String = (' '..='~').collect();
    let secret = long_secret(&ascii);
    let options = Options { method: "client_secret_post", secret: secret.clone(), ..Options::default() };
    let mut chain = Chain::start(options).await?;
    chain.oidc.set_secret(crate::support::CLIENT_ID, &secret).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    assert_eq!(chain.oidc.token_requests().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_secret_of_four_kilobytes_of_unicode_does_too() -> anyhow::Result<()> {
    let secret = long_secret("%+&;,\"'|:=\\\u{e9}\u{df}\u{20ac}\u{65e5}\u{1f512}%41+%2B&amp;");
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), &secret).await?;
    assert!(chain.server.set_client_secret(crate::support::CLIENT_ID, &secret, false));
    chain.start().await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let asked = chain.server.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].method, &asked[0].error), ("client_secret_basic", &None));
    Ok(())
}

#[tokio::test]
async fn a_mid_server_waits_for_its_administrator() -> anyhow::Result<()> {
    let mut chain = Chain::prepare(Options::default()).await?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(false).await?;
    chain.stack.spawn_mid()?;
    let (_, error) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert!(error.contains("validate"), "{error}");
    chain.stack.midward_ok(&["mid", "validate", midward_demo::stack::MID]).await?;
    chain.stack.wait_for_mid().await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    Ok(())
}

fn has_hop(answer: &Value, hop: &str) -> bool {
    answer["trace"].as_array().is_some_and(|steps| steps.iter().any(|step| step["hop"] == hop))
}

fn body_json(answer: &Value) -> anyhow::Result<Value> {
    match &answer["body"] {
        Value::String(text) => Ok(serde_json::from_str(text)?),
        other => Ok(other.clone()),
    }
}
