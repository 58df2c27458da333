//! The whole chain with other vaults than CyberArk's: the real OpenBao, and a stand-in for Conjur.

use std::time::Duration;

use midward_demo::process::wait_for;
use midward_demo::stack::{OBJECT, Stack};
use midward_fakes::conjur::{Conjur, ConjurConfig, Identity, Variable};
use midward_fakes::openbao::OpenBao;
use midward_fakes::tls::{Ca, Tls};
use serde_json::{Value, json};

use crate::support::{CLIENT_ID, CLIENT_SECRET, Chain, Options};

const SECRET_ID: &str = "secret-id-of-the-mid-hunter2";
const RESOLVER: &str = "other-vault";

/// A chain whose MID Server asks `section` in place of CyberArk.
async fn start(section: &str, files: &[(&str, &str)]) -> anyhow::Result<Chain> {
    let options = Options {
        token_lifetime: Duration::from_secs(2),
        adjust: |setup| RESOLVER.clone_into(&mut setup.resolver),
        ..Options::default()
    };
    let mut chain = Chain::prepare(options).await?;
    for (name, text) in files {
        private(&chain.stack, name, text)?;
    }
    let stack = &chain.stack;
    stack.write("mid.toml", &format!("{}\n{section}\n", stack.mid_toml()))?;
    let rule = stack.policy_rule("other", OBJECT, RESOLVER, &stack.setup.issuer.token_url, &stack.api.url());
    stack.write("policy.toml", &(stack.policy_toml() + &rule))?;
    stack.apply().await?;
    stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    Ok(chain)
}

fn private(stack: &Stack, name: &str, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    stack.write(name, text)?;
    std::fs::set_permissions(stack.folder.join(name), std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[tokio::test]
async fn openbao_is_asked_and_a_rotated_secret_heals_also_after_its_token_was_revoked() -> anyhow::Result<()> {
    let bao = OpenBao::start().await?;
    bao.app_role("role-of-the-mid", SECRET_ID, json!({ "token_ttl": "1h" })).await?;
    let path = format!("oauth/{OBJECT}");
    bao.put(&path, json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET })).await?;
    let section = format!(
        r#"
[resolvers.{RESOLVER}]
kind = "openbao"
url = "{}"
path_prefix = "oauth"
auth = {{ method = "approle", role_id = "role-of-the-mid", secret_id_file = "secret-id" }}
"#,
        bao.url()
    );
    let mut chain = start(&section, &[("secret-id", SECRET_ID)]).await?;
    let first = chain.call(&["crm", "GET", "/hello", "--trace"]).await?;
    assert_eq!(first["status"], 200, "{first}");
    assert!(vault_step(&first).contains("Vault answered (version 1)"), "{first}");
    assert_eq!(chain.stack.vault.request_count(), 0, "CyberArk was asked");

    for (round, revoke) in [(2, false), (3, true)] {
        let rotated = format!("rotated %+&= secret {round}");
        if revoke {
            bao.api(http::Method::PUT, "sys/leases/revoke-prefix/auth/approle", json!({})).await?;
        }
        chain.oidc.set_secret(CLIENT_ID, &rotated).await?;
        bao.put(&path, json!({ "client_id": CLIENT_ID, "client_secret": rotated })).await?;
        let minted = chain.oidc.token_requests().await?;
        wait_for("a call with a token of the new secret", Duration::from_secs(30), async || {
            let answer = chain.call(&["crm", "GET", "/hello"]).await?;
            anyhow::ensure!(answer["status"] == 200, "a call failed during rotation: {answer}");
            Ok((chain.oidc.token_requests().await? > minted).then_some(()))
        })
        .await?;
    }
    let log = std::fs::read_to_string(chain.stack.folder.join("logs/mid.log"))?;
    for secret in [SECRET_ID, CLIENT_SECRET, "rotated %+&="] {
        assert!(!log.contains(secret), "a secret in the log");
    }
    Ok(())
}

#[tokio::test]
async fn conjur_is_asked_over_tls_with_its_own_ca() -> anyhow::Result<()> {
    let ca = std::sync::Arc::new(Ca::generate("vault CA")?);
    let variable = |name: &str, value: &str| Variable { id: format!("{OBJECT}/{name}"), value: value.to_owned() };
    let config = ConjurConfig {
        port: 0,
        account: "acme".to_owned(),
        identities: vec![Identity { login: "host/mid".to_owned(), api_key: Some("key-hunter2".to_owned()), jwt: None }],
        variables: vec![variable("client_id", CLIENT_ID), variable("client_secret", CLIENT_SECRET)],
    };
    let conjur = Conjur::start(config, Tls::Server(std::sync::Arc::clone(&ca)))?;
    let section = format!(
        r#"
[ways_out.vaults]
ca_file = "vault-ca.pem"

[resolvers.{RESOLVER}]
kind = "conjur"
url = "{}"
account = "acme"
auth = {{ method = "api_key", login = "host/mid", api_key_file = "api-key" }}
"#,
        conjur.url()
    );
    let chain = start(&section, &[("api-key", "key-hunter2\n"), ("vault-ca.pem", ca.pem())]).await?;
    let answer = chain.call(&["crm", "GET", "/hello", "--trace"]).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(vault_step(&answer).contains("Conjur answered"), "{answer}");
    let log = std::fs::read_to_string(chain.stack.folder.join("logs/mid.log"))?;
    assert!(!log.contains("hunter2") && !log.contains(CLIENT_SECRET), "a secret in the log");
    Ok(())
}

fn vault_step(answer: &Value) -> String {
    let steps = answer["trace"].as_array().cloned().unwrap_or_default();
    let step = steps.iter().find(|step| step["hop"] == "vault");
    step.and_then(|step| step["what"].as_str()).unwrap_or_default().to_owned()
}
