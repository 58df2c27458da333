//! The whole chain with CyberArk's own interfaces in place of a JAR: the AIM client's command line, and the Central
//! Credential Provider with a client certificate.

use std::sync::Arc;

use midward_demo::stack::{APP_ID, SAFE, Stack};
use midward_fakes::authorization_server::AuthorizationServerConfig;
use midward_fakes::tls::{Ca, Tls};
use midward_fakes::vault::Application;
use midward_fakes::vault::ccp::{Ccp, CcpConfig, certificate_thumbprint};

use crate::support::CLIENT_SECRET;
use crate::support::fake::{FakeChain, ask_mid, call, edit};

#[tokio::test]
async fn a_call_with_the_aim_clients_command_line() -> anyhow::Result<()> {
    let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
    let stack = &chain.stack;
    let client = stack.programs.clipasswordsdk.display();
    use_resolver(stack, &format!("kind = \"cyberark_cli\"\npath = \"{client}\"\nport = {}", stack.vault.port()))?;
    chain.start().await?;
    works_and_heals(&chain).await?;
    assert_eq!(chain.stack.vault.requests()[0].fields.value("client"), Some("cli"));
    Ok(())
}

#[tokio::test]
async fn a_call_with_the_central_credential_provider_and_a_client_certificate() -> anyhow::Result<()> {
    for api in ["rest", "soap"] {
        let mut chain = FakeChain::prepare(AuthorizationServerConfig::default(), CLIENT_SECRET).await?;
        let stack = &chain.stack;
        let ca = Arc::new(Ca::generate("CCP CA")?);
        let identity = ca.issue_client("midward")?;
        let certificates = Some(vec![certificate_thumbprint(&identity)?]);
        stack.vault.add_application(Application { certificates, ..Application::new("OverCcp", &[SAFE]) });
        let ccp = Ccp::start(&stack.vault, CcpConfig { tls: Tls::Mutual(Arc::clone(&ca)), ..CcpConfig::default() })?;
        stack.write("ccp-ca.pem", ca.pem())?;
        stack.write("client.pem", &identity.certificate_pem)?;
        stack.write("client.key", &identity.key_pem)?;
        private(stack, "client.key")?;
        let url = ccp.url();
        let settings = format!(
            "kind = \"cyberark_ccp\"\nurl = \"{url}\"\napi = \"{api}\"\ncertificate_file = \"client.pem\"\nkey_file = \"client.key\""
        );
        use_resolver(stack, &settings)?;
        edit(stack, "mid.toml", APP_ID, "OverCcp")?;
        edit(stack, "mid.toml", "[policy]", "[ways_out.vaults]\nca_file = \"ccp-ca.pem\"\n\n[policy]")?;
        chain.start().await?;
        works_and_heals(&chain).await?;
        assert_eq!(chain.stack.vault.requests()[0].fields.value("client"), Some("ccp"), "{api}");
    }
    Ok(())
}

/// A call, a wrong secret that is put right, and a failure that names the vault's code and no secret.
async fn works_and_heals(chain: &FakeChain) -> anyhow::Result<()> {
    let stack = &chain.stack;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let resolved = ask_mid(stack, &["resolve", "crm-client", "--resolver", "cyberark"]).await?.to_string();
    assert!(resolved.contains("client_secret") && !resolved.contains(CLIENT_SECRET), "{resolved}");
    anyhow::ensure!(stack.vault.set_password(SAFE, "crm-client", "not the secret any more"), "no such account");
    ask_mid(stack, &["token", "crm", "--flush"]).await?;
    let refused = call(stack, &["crm", "GET", "/hello"]).await?.err().unwrap_or_default();
    assert!(refused.contains("invalid_client") && !refused.contains("not the secret"), "{refused}");
    anyhow::ensure!(stack.vault.set_password(SAFE, "crm-client", CLIENT_SECRET), "no such account");
    // An operator need not wait for the next look into the vault.
    ask_mid(stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(call(stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let log = std::fs::read_to_string(stack.folder.join("logs/mid.log"))?;
    assert!(!log.contains(CLIENT_SECRET) && !log.contains("not the secret"), "a secret in the log");
    Ok(())
}

/// Puts another resolver in the place of the JAR's.
fn use_resolver(stack: &Stack, settings: &str) -> anyhow::Result<()> {
    let text = stack.mid_toml();
    let from = text.find("[resolvers.cyberark]").unwrap_or(text.len());
    let to = text.find("# CyberArk's own JAR").unwrap_or(text.len());
    anyhow::ensure!(from < to && to < text.len(), "the stack's mid.toml has changed");
    let section = format!("[resolvers.cyberark]\n{settings}\napp_id = \"{APP_ID}\"\nsafe = \"{SAFE}\"\n\n");
    stack.write("mid.toml", &format!("{}{section}{}", &text[..from], &text[to..]))
}

fn private(stack: &Stack, name: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(stack.folder.join(name), std::fs::Permissions::from_mode(0o600))?)
}
