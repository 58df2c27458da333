//! The built-in resolver over a JavaPasswordSDK.jar, against a vault that speaks the stand-in's protocol.

mod support;

use std::sync::Arc;

use midward_core::{Failure, Persistence};
use midward_resolvers::ResolverReport;
use support::{Bench, failed, resolve, resolved};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// Answers by the object's name; the answer to everything unknown is the vault's own.
async fn vault() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut asked = String::new();
                loop {
                    let start = asked.len();
                    if stream.read_line(&mut asked).await.is_err() || asked.len() - start <= 1 {
                        break;
                    }
                }
                let reply = reply(&asked);
                // A client that gave up needs no answer.
                let _ = stream.get_mut().write_all(reply.as_bytes()).await;
            });
        }
    });
    port
}

fn reply(asked: &str) -> String {
    let query = asked.lines().find_map(|line| line.strip_prefix("Query=")).unwrap_or_default();
    let query = query.replace("%3D", "=").replace("%3B", ";");
    let part = |key: &str| query.split(';').find_map(|part| part.strip_prefix(key)).unwrap_or_default().to_owned();
    assert!(asked.contains("AppID=App1\n") && asked.contains("client=sdk\n"), "{asked}");
    let (safe, object) = (part("Safe="), part("Object=") + &part("VirtualUserName=") + &part("UserName="));
    match object.as_str() {
        "denied" => "ERR APPAP008E hunter2\n\n".to_owned(),
        "empty" => "OK\nPassword=\nPassProps.UserName=u\n\n".to_owned(),
        "changing" => "OK\nPassword=p\nPassProps.UserName=u\nPasswordChangeInProcess=true\n\n".to_owned(),
        "odd" => "OK\nPassword=%3A%2F+%25%3D%26%20%C3%BC%0A\nPassProps.UserName=u%3Av\n\n".to_owned(),
        "none" => "ERR APPAP004E Password%20object%20matching%20query%20hunter2\n\n".to_owned(),
        _ => format!("OK\nPassword=secret-{safe}-{object}\nPassProps.UserName=id-{safe}-{object}\n\n"),
    }
}

fn config(bench: &Bench, jar: &std::path::Path, port: u16) -> Arc<dyn midward_resolvers::Resolver> {
    config_with(bench, jar, port, "")
}

fn config_with(bench: &Bench, jar: &std::path::Path, port: u16, more: &str) -> Arc<dyn midward_resolvers::Resolver> {
    bench.resolver(&format!(
        "kind = 'cyberark_sdk'\njar = '{}'\napp_id = 'App1'\nsafe = 'Main'\nport = {port}\nconnection_timeout_s = 5\n{more}",
        jar.display()
    ))
}

#[tokio::test]
async fn accounts_are_read_through_the_customers_sdk() {
    let bench = Bench::new();
    let resolver = config(&bench, &bench.jars.sdk(), vault().await);
    assert_eq!(resolver.kind(), "cyberark_sdk");
    assert_eq!(resolved(&*resolver, "crm").await, ("id-Main-crm".into(), "secret-Main-crm".into()));
    assert_eq!(resolved(&*resolver, "Other:crm").await.0, "id-Other-crm");
    assert_eq!(resolved(&*resolver, "crm").await.0, "id-Main-crm", "no safe is left over from the last call");
    assert_eq!(resolved(&*resolver, "odd").await, ("u:v".into(), ":/+%=& ü\n".into()));
    assert!(resolve(&*resolver, "changing").await.expect("resolved").changing);
    assert!(!resolve(&*resolver, "crm").await.expect("resolved").changing);
    assert_eq!(resolver.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn the_vaults_code_gets_out_and_its_text_does_not() {
    let bench = Bench::new();
    let resolver = config(&bench, &bench.jars.sdk(), vault().await);
    for (id, code, shown) in [
        ("none", "vault_not_found", "APPAP004E"),
        ("denied", "vault_denied", "APPAP008E"),
        ("empty", "empty_secret", "pswd (empty)"),
        ("Main:", "invalid_credential_id", "address"),
        ("a:b:c:d", "invalid_credential_id", "three parts"),
    ] {
        let failure: Failure = failed(&*resolver, id).await;
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.detail.contains(shown), "{failure}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let nobody = listener.local_addr().expect("address").port();
    drop(listener);
    let failure = failed(&*config(&bench, &bench.jars.sdk(), nobody), "crm").await;
    assert_eq!((failure.code.as_str(), failure.persistence), ("vault_unreachable", Persistence::Transient));
}

#[tokio::test]
async fn an_identifier_can_be_a_user_name_or_a_dual_accounts() {
    let (bench, port) = (Bench::new(), vault().await);
    for by in ["user_name", "virtual_user_name"] {
        let resolver = config_with(&bench, &bench.jars.sdk(), port, &format!("lookup_by = '{by}'"));
        assert_eq!(resolved(&*resolver, "Apps:dual").await.0, "id-Apps-dual", "{by}");
    }
}

#[tokio::test]
async fn a_jar_of_another_version_than_the_aim_client_is_not_used() {
    let (bench, port) = (Bench::new(), vault().await);
    let (jar, manifest) = (bench.folder.path().join("sdk.jar"), bench.folder.path().join("manifest"));
    std::fs::copy(bench.jars.sdk(), &jar).expect("copied");
    std::fs::write(&manifest, "Implementation-Version: 12.01.0.5\n").expect("written");
    let updated = std::process::Command::new("jar").arg("ufm").arg(&jar).arg(&manifest).status();
    assert!(updated.expect("a JDK").success());
    let other = config_with(&bench, &jar, port, "aim_version = '14.2'");
    other.warm_up().await;
    assert!(
        matches!(other.report(), ResolverReport::Unusable(why) if why.contains("12.01.0.5") && why.contains("14.2"))
    );
    assert_eq!(failed(&*other, "crm").await.code, "sdk_version_mismatch");
    for same in ["12.1", "12.01.0.5", "any", "installed"] {
        let resolver = config_with(&bench, &jar, port, &format!("aim_version = '{same}'"));
        assert_eq!(resolved(&*resolver, "crm").await.0, "id-Main-crm", "{same}");
        assert_eq!(resolver.report(), ResolverReport::Ready, "{same}");
    }
}

#[tokio::test]
async fn a_jar_that_is_no_sdk_is_unusable() {
    let bench = Bench::new();
    let resolver = config(&bench, &bench.jars.tests(), 1);
    resolver.warm_up().await;
    assert!(
        matches!(resolver.report(), ResolverReport::Unusable(why) if why.contains("javapasswordsdk.PSDKPasswordRequest"))
    );
}
