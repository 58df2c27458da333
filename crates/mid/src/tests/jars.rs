//! JARs from an instance that may be hostile.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midward_core::SystemRandom;
use midward_resolvers::JarDigest;
use midward_wire::{jar_digest, paths};

use super::instance::{Scripted, json, token_answer};
use crate::jar_fetch::{JarFetch, Wanted};
use crate::policy::{Policy, PolicyStore};

const JAR: &[u8] = b"PK\x03\x04 a resolver";

fn document(content: &[u8]) -> String {
    serde_json::json!({"version": 1, "content": STANDARD.encode(content)}).to_string()
}

fn policy(jars: &[&str]) -> Policy {
    Policy::parse(&format!("version = 1\njars = {jars:?}")).expect("a policy")
}

fn fetch(instance: &Scripted, jars: &[&str]) -> JarFetch {
    let policy = Arc::new(PolicyStore::new(policy(jars), Arc::new(SystemRandom)));
    JarFetch { link: Arc::new(instance.link()), policy, wanted: Arc::default(), resolvers: Arc::default() }
}

fn wanted(folder: &tempfile::TempDir) -> Wanted {
    let digest = JarDigest::try_from(jar_digest(JAR)).expect("a digest");
    Wanted { resolver: "vault".into(), digest, file: folder.path().join("jars/x/resolver.jar") }
}

#[tokio::test]
async fn a_listed_jar_is_fetched_once() {
    let instance = Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(200, document(JAR)))).await;
    let folder = tempfile::tempdir().expect("folder");
    let wanted = wanted(&folder);
    let fetch = fetch(&instance, &[wanted.digest.as_str()]);
    assert_eq!(fetch.look(&wanted).await, Ok(true));
    assert_eq!(std::fs::read(&wanted.file).expect("written"), JAR);
    // The same as the resolver will compute over the file.
    assert_eq!(JarDigest::of(&wanted.file, None).expect("read"), wanted.digest);
    assert_eq!(fetch.look(&wanted).await, Ok(false));
    let asked = format!("{}/{}", paths::JARS, wanted.digest.as_str());
    assert_eq!(instance.seen(&asked).len(), 1);

    // Taken off the list: it goes.
    fetch.policy.replace(policy(&[]));
    fetch.look(&wanted).await.expect_err("not allowed");
    assert!(!wanted.file.exists());
}

#[tokio::test]
async fn a_jar_that_the_policy_does_not_list_is_not_even_asked_for() {
    let instance = Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(200, document(JAR)))).await;
    let folder = tempfile::tempdir().expect("folder");
    let wanted = wanted(&folder);
    for jars in [vec![], vec!["0".repeat(64)]] {
        let jars: Vec<&str> = jars.iter().map(String::as_str).collect();
        let why = fetch(&instance, &jars).look(&wanted).await.expect_err("not allowed");
        assert!(why.contains("policy"), "{why}");
    }
    assert!(instance.seen(&format!("{}/{}", paths::JARS, wanted.digest.as_str())).is_empty());
    assert!(!wanted.file.exists());
}

#[tokio::test]
async fn other_bytes_than_those_that_were_pinned_are_not_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let wanted = wanted(&folder);
    for answer in [document(b"PK\x03\x04 another"), document(b""), "{}".to_owned(), "[1".to_owned()] {
        let instance =
            Scripted::start(move |seen| token_answer(seen).unwrap_or_else(|| json(200, answer.clone()))).await;
        fetch(&instance, &[wanted.digest.as_str()]).look(&wanted).await.expect_err("not what was asked for");
        assert!(!folder.path().join("jars").exists(), "nothing is left");
    }
}
