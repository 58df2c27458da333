//! Clients that prove themselves by a signed assertion: the key comes out of the vault through a customer's JAR, and
//! the real authorization server checks the signature.

use std::time::Duration;

use crate::support::oidc::PublicKey;
use crate::support::{CLIENT_ID, Chain, Options, jar};
use midward_demo::process::wait_for;
use midward_demo::stack::{OBJECT, SAFE};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};

const KID: &str = "crm-key-1";

#[tokio::test]
async fn an_rsa_key_signs_by_rs256() -> anyhow::Result<()> {
    a_call_is_answered(&PKCS_RSA_SHA256, "RS256", "").await
}

#[tokio::test]
async fn an_rsa_key_signs_by_ps256_when_told_so() -> anyhow::Result<()> {
    a_call_is_answered(&PKCS_RSA_SHA256, "PS256", "    assertion_algorithm: PS256\n").await
}

#[tokio::test]
async fn an_ec_key_signs_by_es256() -> anyhow::Result<()> {
    a_call_is_answered(&PKCS_ECDSA_P256_SHA256, "ES256", "").await
}

#[tokio::test]
async fn an_ed25519_key_signs_by_eddsa() -> anyhow::Result<()> {
    a_call_is_answered(&PKCS_ED25519, "EdDSA", "").await
}

#[tokio::test]
async fn a_secret_makes_a_mac() -> anyhow::Result<()> {
    let mut chain = Chain::start(Options { method: "client_secret_jwt", ..Options::default() }).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    assert_eq!(chain.oidc.token_requests().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_heals_without_a_restart() -> anyhow::Result<()> {
    let (key, public_key) = key(&PKCS_ECDSA_P256_SHA256, "ES256")?;
    let mut chain = prepare(Options { token_lifetime: Duration::from_secs(2), ..options(&key, public_key) }).await?;
    start(&mut chain, "").await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    let (key, public_key) = self::key(&PKCS_ECDSA_P256_SHA256, "ES256")?;
    chain.oidc.set_public_key(CLIENT_ID, &public_key).await?;
    assert!(chain.stack.vault.set_password(SAFE, OBJECT, &key));
    let minted = chain.oidc.token_requests().await?;
    wait_for("a call with a token of the new key", Duration::from_secs(20), async || {
        let answer = chain.call(&["crm", "GET", "/hello"]).await?;
        anyhow::ensure!(answer["status"] == 200, "a call failed during rotation: {answer}");
        Ok((chain.oidc.token_requests().await? > minted).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_policy_binds_the_audience() -> anyhow::Result<()> {
    let (key, public_key) = key(&PKCS_ED25519, "EdDSA")?;
    let mut chain = prepare(options(&key, public_key)).await?;
    let elsewhere = "https://another.example";
    start(&mut chain, &format!("    assertion_audience: {elsewhere}\n")).await?;
    let (_, error) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert!(error.contains("policy_assertion_audience") && !error.contains(elsewhere), "{error}");
    assert_eq!(chain.oidc.token_requests().await?, 0);
    assert_eq!(chain.stack.vault.request_count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_sign_is_explained_and_not_shown() -> anyhow::Result<()> {
    let (key, public_key) = key(&PKCS_ED25519, "EdDSA")?;
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let mut chain = prepare(options(&encrypted, public_key)).await?;
    start(&mut chain, "").await?;
    let (_, error) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert!(error.contains("passphrase"), "{error}");
    let inside = key.lines().nth(1).unwrap_or_default();
    assert!(inside.len() > 20 && !error.contains(inside), "{error}");
    assert_eq!(chain.oidc.token_requests().await?, 0);
    Ok(())
}

async fn a_call_is_answered(
    kind: &'static SignatureAlgorithm,
    alg: &'static str,
    more_of_the_entity: &str,
) -> anyhow::Result<()> {
    let (key, public_key) = key(kind, alg)?;
    let mut chain = prepare(options(&key, public_key)).await?;
    start(&mut chain, more_of_the_entity).await?;
    let answer = chain.call(&["crm", "GET", "/hello"]).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(chain.oidc.token_requests().await?, 1);
    assert_eq!(chain.stack.vault.requests()[0].fields.value("client"), Some("cli"));
    Ok(())
}

fn key(kind: &'static SignatureAlgorithm, alg: &'static str) -> anyhow::Result<(String, PublicKey)> {
    let pair = KeyPair::generate_for(kind)?;
    Ok((pair.serialize_pem(), PublicKey { pem: pair.public_key_pem(), alg, kid: KID }))
}

fn options(key: &str, public_key: PublicKey) -> Options {
    Options { method: "private_key_jwt", secret: key.to_owned(), public_key: Some(public_key), ..Options::default() }
}

/// With a JAR that returns the account's password, all lines of it, as the private key.
async fn prepare(options: Options) -> anyhow::Result<Chain> {
    let chain = Chain::prepare(options).await?;
    let returned = format!("result.put(\"pkey\", values[1]);\n        result.put(\"kid\", \"{KID}\");");
    let source = jar::LEGACY_RESOLVER.replace("result.put(\"pswd\", values[1]);", &returned);
    anyhow::ensure!(source.contains(&returned), "the source of the resolver has changed");
    let customer = jar::compile(chain.folder.path(), "com.snc.discovery.CredentialResolver", &source, None)?;
    let sample = chain.stack.programs.sample_jar();
    let environment = "[resolvers.cyberark.environment_values]";
    let mid_toml = chain
        .stack
        .mid_toml()
        .replace(&*sample.to_string_lossy(), &customer.to_string_lossy())
        .replace(environment, &format!("{environment}\nAIM_PORT = \"{}\"", chain.stack.vault.port()));
    chain.stack.write("mid.toml", &mid_toml)?;
    Ok(chain)
}

/// The entity names its issuer, which is the audience then.
async fn start(chain: &mut Chain, more_of_the_entity: &str) -> anyhow::Result<()> {
    let issuer = &chain.stack.setup.issuer.issuer;
    let method = "    client_auth: private_key_jwt\n";
    let entity = format!("{method}    issuer: {issuer}\n{more_of_the_entity}");
    chain.stack.write("connections.yaml", &chain.stack.connections_yaml().replace(method, &entity))?;
    let resources = format!("issuers = [\"{issuer}\"]\nresources = ");
    chain.stack.write("policy.toml", &chain.stack.policy_toml().replace("resources = ", &resources))?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await
}
