//! Clients that prove themselves by a TLS certificate, and tokens that are bound to it (RFC 8705): the certificate comes
//! out of the vault through a customer's JAR, the real authorization server checks it, and so does the API.

use std::path::Path;
use std::sync::Arc;

use midward_demo::stack::{Issuer, OBJECT, SAFE, Setup, Stack};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use midward_fakes::tls::{Ca, Identity, Tls};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::support::oidc::OidcProvider;
use crate::support::{CLIENT_ID, RESOURCE, jar, programs};

struct Chain {
    stack: Stack,
    oidc: OidcProvider,
    _folder: tempfile::TempDir,
}

#[tokio::test]
async fn a_certificate_of_a_ca_gets_a_bound_token() -> anyhow::Result<()> {
    let ca = Arc::new(Ca::generate("internal CA")?);
    let identity = ca.issue_client("crm")?;
    let mut chain = start("tls_client_auth", &ca, &identity, &both(&identity), "").await?;
    let answer = call(&chain).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(call(&chain).await?["status"], 200, "the API is shown the certificate with a cached token too");
    assert_eq!(chain.oidc.token_requests().await?, 1);
    assert_eq!(chain.stack.api.refused_count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_self_signed_certificate_that_the_server_knows_will_do() -> anyhow::Result<()> {
    let ca = Arc::new(Ca::generate("internal CA")?);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "crm, self-signed");
    let identity = Identity { certificate_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() };
    let mut chain = start("self_signed_tls_client_auth", &ca, &identity, &both(&identity), "").await?;
    // The API trusts the CA's certificates only, so its handshake fails: the token was granted all the same.
    let output = chain.stack.midward(&["call", "crm", "GET", "/hello"]).await?;
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("api_"), "{error}");
    assert_eq!(chain.oidc.token_requests().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_the_server_does_not_know_is_refused_by_name() -> anyhow::Result<()> {
    let ca = Arc::new(Ca::generate("internal CA")?);
    let (known, other) = (ca.issue_client("crm")?, ca.issue_client("somebody else")?);
    let chain = start("tls_client_auth", &ca, &known, &both(&other), "").await?;
    let error = refusal(&chain).await?;
    assert!(error.contains("invalid_client") && error.contains("certificate"), "{error}");
    assert!(!error.contains("client secret"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_key_of_another_certificate_is_never_presented() -> anyhow::Result<()> {
    let ca = Arc::new(Ca::generate("internal CA")?);
    let (one, other) = (ca.issue_client("crm")?, ca.issue_client("crm")?);
    let mixed = format!("{}{}", other.key_pem, one.certificate_pem);
    let mut chain = start("tls_client_auth", &ca, &one, &mixed, "").await?;
    let error = refusal(&chain).await?;
    assert!(error.contains("client_certificate_unusable"), "{error}");
    assert!(mixed.lines().filter(|line| line.len() > 20).all(|line| !error.contains(line)), "{error}");
    assert_eq!(chain.oidc.token_requests().await?, 0);
    Ok(())
}

#[tokio::test]
async fn without_the_setting_the_api_is_shown_nothing() -> anyhow::Result<()> {
    let ca = Arc::new(Ca::generate("internal CA")?);
    let identity = ca.issue_client("crm")?;
    let mut chain =
        start("tls_client_auth", &ca, &identity, &both(&identity), "    certificate_bound_tokens: true\n").await?;
    let output = chain.stack.midward(&["call", "crm", "GET", "/hello"]).await?;
    // The API insists on a certificate, and gets none.
    let error = String::from_utf8(output.stderr)?;
    assert!(!output.status.success() && error.contains("api_"), "{error}");
    assert_eq!(chain.oidc.token_requests().await?, 1, "the authorization server was shown it");
    assert!(chain.stack.api.executed().is_empty());
    Ok(())
}

/// What the vault's account has for a password: the key and the chain.
fn both(identity: &Identity) -> String {
    format!("{}{}", identity.key_pem, identity.certificate_pem)
}

async fn call(chain: &Chain) -> anyhow::Result<Value> {
    let text = chain.stack.midward_ok(&["call", "crm", "GET", "/hello", "--output", "json"]).await?;
    Ok(serde_json::from_str(&text)?)
}

async fn refusal(chain: &Chain) -> anyhow::Result<String> {
    let output = chain.stack.midward(&["call", "crm", "GET", "/hello"]).await?;
    anyhow::ensure!(!output.status.success(), "the call succeeded");
    Ok(String::from_utf8(output.stderr)?)
}

/// The client `known` at the authorization server, and `password` in the vault. Authorization server and API speak TLS
/// by `ca`, and the API takes nobody without a certificate of it. `without` is taken out of the entity.
async fn start(method: &str, ca: &Arc<Ca>, known: &Identity, password: &str, without: &str) -> anyhow::Result<Chain> {
    let folder = tempfile::tempdir()?;
    let server = ca.issue_server(&["localhost"])?;
    let config = json!({
        "clients": [{ "client_id": CLIENT_ID, "token_endpoint_auth_method": method,
                      "certificate": known.certificate_pem }],
        "resource_servers": { RESOURCE: { "scope": "read write" } },
        "tls": { "key": server.key_pem, "cert": server.certificate_pem, "ca": ca.pem() },
    });
    let oidc = OidcProvider::launch(folder.path(), &config).await?;
    let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
    let api = TargetApi::start(TargetApiConfig {
        tls: Tls::Mutual(Arc::clone(ca)),
        jwks_tls: Some(ca.client_config()?),
        ..TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE)
    })?;
    let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, password);
    method.clone_into(&mut setup.client_auth);
    let mut stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
    write_files(&stack, folder.path(), ca, method, without)?;
    stack.apply().await?;
    stack.enroll_mid(true).await?;
    stack.start_mid().await?;
    anyhow::ensure!(stack.vault.set_password(SAFE, OBJECT, password), "no such account");
    Ok(Chain { stack, oidc, _folder: folder })
}

fn write_files(stack: &Stack, folder: &Path, ca: &Ca, method: &str, without: &str) -> anyhow::Result<()> {
    // The account's password holds both; each is found in it by its kind.
    let returned = "result.put(\"pkey\", values[1]);\n        result.put(\"certificate\", values[1]);";
    let source = jar::LEGACY_RESOLVER.replace("result.put(\"pswd\", values[1]);", returned);
    anyhow::ensure!(source.contains(returned), "the source of the resolver has changed");
    let customer = jar::compile(folder, "com.snc.discovery.CredentialResolver", &source, None)?;
    stack.write("ca.pem", ca.pem())?;
    let ways =
        "[ways_out.authorization_servers]\nca_file = \"ca.pem\"\n[ways_out.apis]\nca_file = \"ca.pem\"\n\n[policy]";
    let environment = "[resolvers.cyberark.environment_values]";
    let mid_toml = stack
        .mid_toml()
        .replace(&*stack.programs.sample_jar().to_string_lossy(), &customer.to_string_lossy())
        .replace(environment, &format!("{environment}\nAIM_PORT = \"{}\"", stack.vault.port()))
        .replace("[policy]", ways);
    stack.write("mid.toml", &mid_toml)?;
    let listed = "client_auth = [\"client_secret_basic\"";
    let allowed = stack.policy_toml().replace(listed, &format!("client_auth = [\"{method}\", \"client_secret_basic\""));
    stack.write("policy.toml", &allowed)?;
    let line = format!("    client_auth: {method}\n");
    let bound = "    certificate_bound_tokens: true\n";
    let entity = if without == bound { line.clone() } else { format!("{line}{bound}") };
    stack.write("connections.yaml", &stack.connections_yaml().replace(&line, &entity))
}
