//! Grants other than client credentials, from the vault to the API.

use crate::support::fake::{FakeChain, ask_mid, call, edit, use_jar};
use crate::support::oidc::PublicKey;
use crate::support::{CLIENT_SECRET, Chain, Options, RESOURCE};
use midward_demo::stack::OBJECT;
use midward_fakes::authorization_server::{AuthorizationServerConfig, OAuthFault, SubjectToken, TokenFault};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

const KID: &str = "crm-key-1";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

#[tokio::test]
async fn an_assertion_is_the_grant() -> anyhow::Result<()> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let options = Options {
        secret: format!("{CLIENT_SECRET}#KEY#{}", pair.serialize_pem()),
        public_key: Some(PublicKey { pem: pair.public_key_pem(), alg: "ES256", kid: KID }),
        ..Options::default()
    };
    let mut chain = Chain::prepare(options).await?;
    let stack = &chain.stack;
    let lines = format!(
        "String[] parts = values[1].split(\"#KEY#\", 2);\n result.put(\"pswd\", parts[0]);\n \
         result.put(\"pkey\", parts[1]);\n result.put(\"kid\", \"{KID}\");"
    );
    use_jar(stack, chain.folder.path(), &lines)?;
    let issuer = stack.setup.issuer.issuer.clone();
    edit(stack, "connections.yaml", "    client_auth:", &format!("    issuer: {issuer}\n    client_auth:"))?;
    edit(
        stack,
        "connections.yaml",
        "    scopes: [read]\n",
        "    grant_type: jwt_bearer\n    jwt_bearer:\n      subject: robot@example.com\n      claims: {tenant: a}\n    \
         scopes: [read]\n",
    )?;
    // Another connection would have the key sign in somebody else's name.
    for (before, more) in [
        (
            "credentials:\n",
            &format!(
                "  - name: ceo\n    oauth_entity: third-party\n    grant_type: jwt_bearer\n    \
                 jwt_bearer: {{subject: ceo@example.com}}\n    scopes: [read]\n    resource: [\"{RESOURCE}\"]\n"
            ),
        ),
        (
            "connections:\n",
            &format!(
                "  - name: ceo\n    credential_id: {OBJECT}\n    resolver: cyberark\n    oauth_entity_profile: ceo\n"
            ),
        ),
    ] {
        edit(stack, "connections.yaml", before, &format!("{more}{before}"))?;
    }
    let api = stack.api.url();
    let ceo = format!("connections:\n  - alias: ceo\n    base_url: {api}/api\n    credential: ceo\n");
    edit(stack, "connections.yaml", "connections:\n", &ceo)?;
    edit(
        stack,
        "policy.toml",
        "scopes = ",
        &format!(
            "grants = [\"jwt_bearer\"]\nissuers = [\"{issuer}\"]\nassertion_subjects = [\"robot@example.com\"]\n\
             assertion_claims = {{ tenant = [\"a\"] }}\nscopes = "
        ),
    )?;
    stack.apply().await?;
    stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    let (exit, refused) = chain.failing_call(&["ceo", "GET", "/hello"]).await?;
    assert_eq!(exit, 3);
    assert!(refused.contains("policy_assertion_subject") && !refused.contains("example.com"), "{refused}");
    assert_eq!((chain.oidc.token_requests().await?, chain.stack.vault.request_count()), (0, 0));

    let answer = chain.call(&["crm", "GET", "/hello"]).await?;
    assert_eq!(answer["status"], 200, "{answer}");
    let claims = chain.oidc.last_assertion().await?;
    assert_eq!(
        (&claims["sub"], &claims["tenant"], &claims["aud"]),
        (&"robot@example.com".into(), &"a".into(), &issuer.as_str().into())
    );
    assert_eq!(chain.oidc.token_requests().await?, 1);
    let tokens = ask_mid(&chain.stack, &["token", "crm"]).await?;
    assert_eq!(tokens[0]["grant"], "urn:ietf:params:oauth:grant-type:jwt-bearer", "{tokens}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_refused_by_name() -> anyhow::Result<()> {
    let (pair, other) =
        (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
    let options = Options {
        secret: format!("{CLIENT_SECRET}#KEY#{}", pair.serialize_pem()),
        public_key: Some(PublicKey { pem: other.public_key_pem(), alg: "ES256", kid: KID }),
        ..Options::default()
    };
    let mut chain = Chain::prepare(options).await?;
    let lines = "String[] parts = values[1].split(\"#KEY#\", 2);\n result.put(\"pswd\", parts[0]);\n \
                 result.put(\"pkey\", parts[1]);";
    use_jar(&chain.stack, chain.folder.path(), lines)?;
    let issuer = chain.stack.setup.issuer.issuer.clone();
    edit(&chain.stack, "connections.yaml", "    client_auth:", &format!("    issuer: {issuer}\n    client_auth:"))?;
    edit(&chain.stack, "connections.yaml", "    scopes: [read]\n", "    grant_type: jwt_bearer\n    scopes: [read]\n")?;
    let lines = format!("grants = [\"jwt_bearer\"]\nissuers = [\"{issuer}\"]\nscopes = ");
    edit(&chain.stack, "policy.toml", "scopes = ", &lines)?;
    chain.stack.apply().await?;
    chain.stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    let (exit, error) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert_eq!(exit, 6, "{error}");
    assert!(error.contains("assertion_refused"), "{error}");
    // The vault was read past every cache, and the same key is not sent again.
    chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert_eq!((chain.oidc.token_requests().await?, chain.stack.vault.request_count()), (1, 2));
    Ok(())
}

#[tokio::test]
async fn a_token_from_the_vault_is_exchanged() -> anyhow::Result<()> {
    let config = AuthorizationServerConfig {
        subject_tokens: vec![SubjectToken {
            token: "subject.of.hr".into(),
            token_type: JWT.into(),
            actor_token: Some("actor-7".into()),
        }],
        ..AuthorizationServerConfig::default()
    };
    let mut chain = FakeChain::prepare(config, &format!("{CLIENT_SECRET}#subject.of.hr#actor-7")).await?;
    let lines = "String[] parts = values[1].split(\"#\");\n result.put(\"pswd\", parts[0]);\n \
                 result.put(\"subject_token\", parts[1]);\n result.put(\"actor_token\", parts[2]);";
    use_jar(&chain.stack, chain.folder.path(), lines)?;
    edit(
        &chain.stack,
        "connections.yaml",
        "    scopes: [read]\n",
        &format!(
            "    grant_type: token_exchange\n    token_exchange:\n      subject_token_type: {JWT}\n      \
             actor_token_type: {JWT}\n    scopes: [read]\n"
        ),
    )?;
    edit(&chain.stack, "policy.toml", "scopes = ", "grants = [\"token_exchange\"]\nscopes = ")?;
    chain.start().await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));
    let request = chain.server.requests().remove(0);
    let field = |name: &str| request.form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((field("subject_token"), field("subject_token_type")), (Some("subject.of.hr"), Some(JWT)));
    assert_eq!((field("actor_token"), field("actor_token_type")), (Some("actor-7"), Some(JWT)));

    // A type of token that no API takes, and none at all.
    for (json, code) in
        [("\"urn:ietf:params:oauth:token-type:saml2\"", "issued_token_type_unexpected"), ("", "token_reply_invalid")]
    {
        ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
        chain.server.set_fault(TokenFault::OAuth(OAuthFault::IssuedTokenType { json: json.to_owned() }), None);
        let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("no token");
        assert!(error.contains(code), "{code}: {error}");
        chain.server.clear_faults();
    }
    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    assert_eq!(call(&chain.stack, &["crm", "GET", "/hello"]).await?, Ok(200));

    // The vault lacks the actor's token: nothing is sent.
    ask_mid(&chain.stack, &["token", "crm", "--flush"]).await?;
    let sent = chain.server.request_count();
    assert!(chain.stack.vault.set_password("Finance", OBJECT, &format!("{CLIENT_SECRET}#subject.of.hr#")));
    let error = call(&chain.stack, &["crm", "GET", "/hello"]).await?.expect_err("no token");
    assert!(!error.contains("subject.of.hr"), "{error}");
    assert_eq!(chain.server.request_count(), sent, "{error}");
    Ok(())
}
