//! Whatever goes wrong on a hop, the caller learns which hop, why and what to do, and everything else goes on.

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::{CLIENT_ID, CLIENT_SECRET, Chain, Options};
use midward_demo::process::wait_for;
use midward_demo::stack::{MID, OBJECT, Stack};
use midward_fakes::HttpFault;
use midward_fakes::vault::{Account, VaultFault};

/// A connection that cannot work, and what its caller must be told.
struct Broken {
    alias: &'static str,
    /// Exit code of `midward call`.
    exit: i32,
    /// Parts of the one line: hop, code, something of the reason or the remedy.
    says: &'static [&'static str],
}

const BROKEN: &[Broken] = &[
    Broken { alias: "nowhere", exit: 2, says: &["unknown_connection", "midward get"] },
    Broken { alias: "no-resolver", exit: 4, says: &["no_mid", "resolver", "vault-of-nobody"] },
    Broken { alias: "jar-missing", exit: 4, says: &["no_mid", "jar-missing", "the JAR does not exist"] },
    Broken { alias: "not-a-jar", exit: 4, says: &["no_mid", "not-a-jar", "is not a JAR"] },
    Broken { alias: "wrong-class", exit: 4, says: &["no_mid", "wrong-class", "has no class"] },
    Broken { alias: "unknown-id", exit: 5, says: &["vault", "APPAP004E"] },
    Broken { alias: "denied", exit: 5, says: &["vault", "APPAP306E"] },
    Broken { alias: "empty", exit: 5, says: &["empty_secret"] },
    Broken { alias: "aim-absent", exit: 5, says: &["resolver"] },
    Broken { alias: "wrong-secret", exit: 6, says: &["authorization server", "invalid_client"] },
    Broken { alias: "token-url-down", exit: 6, says: &["authorization server", "token_endpoint_unreachable"] },
    Broken { alias: "api-down", exit: 7, says: &["API", "api_unreachable"] },
    Broken { alias: "not-allowed", exit: 3, says: &["policy", "midward-mid policy explain"] },
];

#[tokio::test]
async fn each_hop_names_itself_and_leaves_the_rest_serving() -> anyhow::Result<()> {
    let mut chain = Chain::prepare(Options::default()).await?;
    let stack = &chain.stack;
    for (name, secret) in [("denied", CLIENT_SECRET), ("empty", CLIENT_SECRET), ("wrong-secret", "not the secret")] {
        stack.vault.add_account(Account::new("Finance", name, CLIENT_ID, secret));
    }
    stack.vault.set_fault_for("denied", VaultFault::Denied, None);
    stack.vault.set_fault_for("empty", VaultFault::EmptySecret, None);
    add_broken(stack)?;
    stack.apply().await?;
    stack.enroll_mid(true).await?;
    chain.stack.start_mid().await?;
    // Until a heartbeat tells of a resolver that cannot be used, calls are given to the MID all the same.
    wait_for("the resolvers' reports", Duration::from_secs(60), async || {
        let mids = chain.stack.midward_ok(&["get", "mids", "--output", "json"]).await?;
        let reasons = ["the JAR does not exist", "the file is not a JAR", "has no class com.example.NoSuchClass"];
        Ok(reasons.iter().all(|reason| mids.contains(reason)).then_some(()))
    })
    .await?;

    for broken in BROKEN {
        let asked = chain.oidc.token_requests().await?;
        let (exit, line) = chain.failing_call(&[broken.alias, "GET", "/hello"]).await?;
        for part in broken.says {
            assert!(line.contains(part), "{}: {part:?} is missing in: {line}", broken.alias);
        }
        assert_eq!(exit, broken.exit, "{}: {line}", broken.alias);
        if broken.exit == 5 {
            assert_eq!(chain.oidc.token_requests().await?, asked, "{}: no secret, and nothing is sent", broken.alias);
        }
        let good = chain.call(&["crm", "GET", "/hello"]).await?;
        assert_eq!(good["status"], 200, "after {}: {good}", broken.alias);
    }
    Ok(())
}

#[tokio::test]
async fn what_the_api_answers_is_passed_on_as_the_apis_own_answer() -> anyhow::Result<()> {
    let mut chain = Chain::start(Options::default()).await?;
    for status in ["404", "500", "503"] {
        let answer =
            chain.stack.midward(&["call", "crm", "GET", &format!("/status/{status}"), "--output", "json"]).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
        assert_eq!(answer["status"].to_string(), status);
    }
    // A 401 costs one new token and one repetition of what may be repeated; a second 401 is the API's answer.
    let before = chain.oidc.token_requests().await?;
    let answer = chain.stack.midward(&["call", "crm", "GET", "/status/401", "--output", "json"]).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    assert_eq!(answer["status"], 401);
    assert_eq!(chain.oidc.token_requests().await?, before + 1);
    Ok(())
}

#[tokio::test]
async fn a_post_is_not_repeated_after_a_401_unless_marked_safe() -> anyhow::Result<()> {
    let chain = Chain::start(Options::default()).await?;
    let refuse = HttpFault::Respond { status: 401, headers: Vec::new(), body: String::new() };
    assert_eq!(chain.call(&["crm", "POST", "/counter"]).await?["status"], 200);
    chain.stack.api.set_fault(refuse.clone(), Some(1));
    let answer = chain.stack.midward(&["call", "crm", "POST", "/counter", "--output", "json"]).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    assert_eq!(answer["status"], 401, "{answer}");
    assert_eq!(chain.stack.api.counter(), 1);
    chain.stack.api.set_fault(refuse, Some(1));
    assert_eq!(chain.call(&["crm", "POST", "/counter", "--replay-safe"]).await?["status"], 200);
    assert_eq!(chain.stack.api.counter(), 2);
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_of_a_post_is_unknown_and_not_repeated() -> anyhow::Result<()> {
    let chain = Chain::start(Options::default()).await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    chain.stack.api.set_fault(HttpFault::DropAfterRead, Some(1));
    let (exit, line) = chain.failing_call(&["crm", "POST", "/counter"]).await?;
    assert_eq!(exit, 7, "{line}");
    assert!(line.contains("may have"), "{line}");
    assert_eq!(chain.call(&["crm", "POST", "/counter"]).await?["status"], 200);
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_at_the_door() -> anyhow::Result<()> {
    let chain = Chain::start(Options { adjust: |setup| setup.body_limit = Some(1024), ..Options::default() }).await?;
    let body = "x".repeat(2000);
    let (_, line) = chain.failing_call(&["crm", "POST", "/echo", "-d", &body]).await?;
    assert!(line.contains("body_too_large"), "{line}");
    assert_eq!(chain.call(&["crm", "POST", "/echo", "-d", "small"]).await?["status"], 200);
    Ok(())
}

#[tokio::test]
async fn a_mid_server_that_is_down_is_named_and_its_return_is_noticed() -> anyhow::Result<()> {
    let mut chain = Chain::start(Options::default()).await?;
    if let Some(mid) = chain.stack.mid.take() {
        mid.kill().await?;
    }
    // Until its heartbeat is overdue a call is still handed to it, and nobody takes it.
    let (exit, line) = chain.failing_call(&["crm", "GET", "/hello", "--wait-ms", "15000"]).await?;
    assert!(exit == 4 || exit == 7, "{exit}: {line}");
    let (exit, line) = chain.failing_call(&["crm", "GET", "/hello"]).await?;
    assert_eq!(exit, 4, "{line}");
    assert!(line.contains(MID), "{line}");
    chain.stack.start_mid().await?;
    assert_eq!(chain.call(&["crm", "GET", "/hello"]).await?["status"], 200);
    Ok(())
}

/// Adds the resolvers, rules and records of [`BROKEN`] to the stack's files.
fn add_broken(stack: &Stack) -> anyhow::Result<()> {
    let folder = &stack.folder;
    std::fs::write(folder.join("not-a.jar"), "this is not a JAR")?;
    let sample = stack.programs.sample_jar();
    let jars = [
        ("jar-missing", folder.join("missing.jar"), "com.snc.discovery.CredentialResolver", ""),
        ("not-a-jar", folder.join("not-a.jar"), "com.snc.discovery.CredentialResolver", ""),
        ("wrong-class", sample.clone(), "com.example.NoSuchClass", ""),
        ("aim-absent", sample, "com.snc.discovery.CredentialResolver", "/nonexistent/clipasswordsdk"),
    ];
    let mut mid = stack.mid_toml();
    for (name, jar, class, client) in &jars {
        let jar = jar.display();
        write!(mid, "\n[resolvers.{name}]\nkind = \"jar\"\njar = \"{jar}\"\nclass = \"{class}\"\n")?;
        if !client.is_empty() {
            writeln!(mid, "environment_values = {{ AIM_CLIPASSWORDSDK_CMD = \"{client}\" }}")?;
        }
    }
    stack.write("mid.toml", &mid)?;

    let (token_url, api) = (stack.setup.issuer.token_url.clone(), stack.api.url());
    let closed = "http://127.0.0.1:9";
    let closed_token_url = format!("{closed}/token");
    // Alias, credential identifier, resolver, token URL, API, whether the policy knows it.
    let records = [
        ("no-resolver", OBJECT, "vault-of-nobody", &*token_url, &*api, true),
        ("jar-missing", OBJECT, "jar-missing", &token_url, &api, true),
        ("not-a-jar", OBJECT, "not-a-jar", &token_url, &api, true),
        ("wrong-class", OBJECT, "wrong-class", &token_url, &api, true),
        ("unknown-id", "nobody", "cyberark", &token_url, &api, true),
        ("denied", "denied", "cyberark", &token_url, &api, true),
        ("empty", "empty", "cyberark", &token_url, &api, true),
        ("aim-absent", OBJECT, "aim-absent", &token_url, &api, true),
        ("wrong-secret", "wrong-secret", "cyberark", &token_url, &api, true),
        ("token-url-down", OBJECT, "cyberark", &closed_token_url, &api, true),
        ("api-down", OBJECT, "cyberark", &token_url, closed, true),
        ("not-allowed", "somebody-elses", "cyberark", &token_url, &api, false),
    ];
    let mut policy = stack.policy_toml();
    let (mut entities, mut profiles, mut credentials, mut connections) = Default::default();
    for (alias, credential_id, resolver, token_url, api, allowed) in records {
        if allowed {
            policy += &stack.policy_rule(alias, credential_id, resolver, token_url, api);
        }
        let (entities, profiles): (&mut String, &mut String) = (&mut entities, &mut profiles);
        let (credentials, connections): (&mut String, &mut String) = (&mut credentials, &mut connections);
        writeln!(entities, "  - {{name: {alias}, token_url: \"{token_url}\", client_auth: client_secret_basic}}")?;
        writeln!(
            profiles,
            "  - {{name: {alias}, oauth_entity: {alias}, scopes: [read], resource: [\"{}\"]}}",
            stack.setup.resource
        )?;
        writeln!(
            credentials,
            "  - {{name: {alias}, credential_id: {credential_id}, resolver: {resolver}, oauth_entity_profile: {alias}, applies_to: all}}"
        )?;
        writeln!(connections, "  - {{alias: {alias}, base_url: \"{api}/api\", credential: {alias}}}")?;
    }
    stack.write("policy.toml", &policy)?;
    let yaml = stack
        .connections_yaml()
        .replace("oauth_entity_profiles:\n", &format!("{entities}oauth_entity_profiles:\n{profiles}"))
        .replace("credentials:\n", &format!("credentials:\n{credentials}"))
        .replace("connections:\n", &format!("connections:\n{connections}"));
    stack.write("connections.yaml", &yaml)
}
