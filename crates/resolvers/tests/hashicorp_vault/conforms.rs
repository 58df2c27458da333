//! The conformance suite over `hashicorp_vault`, against the real OpenBao behind a door.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::Method;
use midward_resolvers::{BoxFuture, Resolver};
use serde_json::json;

use crate::bench::{Bench, secret};
use crate::conformance::{self, Trouble, Vault};
use crate::door::{Door, Way};

struct Conforming {
    bench: Bench,
    door: Door,
    resolver: Arc<dyn Resolver>,
    kept: Mutex<HashMap<String, (String, String)>>,
}

impl Conforming {
    async fn policy(&self, more: &str) {
        let rules = format!("path \"secret/data/*\" {{ capabilities = [\"read\"] }}\n{more}");
        let policy = json!({ "policy": rules });
        self.bench.bao.api(Method::PUT, "sys/policies/acl/midward", policy).await.expect("policy");
    }
}

impl Vault for Conforming {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, value: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let pair = (client_id.to_owned(), value.to_owned());
            self.kept.lock().expect("unpoisoned").insert(name.to_owned(), pair);
            self.bench.bao.put(name, secret(client_id, value)).await.expect("stored");
        })
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        Box::pin(async move {
            match trouble {
                Trouble::NotFound => unreachable!("never ordered"),
                Trouble::Ambiguous => return Err("a path names one secret"),
                Trouble::Denied => {
                    self.policy(&format!("path \"secret/data/{name}\" {{ capabilities = [\"deny\"] }}")).await;
                }
                Trouble::Empty => drop(self.bench.bao.put(name, secret("x", "")).await.expect("stored")),
                Trouble::Slow => self.door.set(Way::Stuck),
                Trouble::Dead => self.door.set(Way::Shut),
            }
            Ok(())
        })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.door.set(Way::Open);
            self.policy("").await;
            let (id, value) = self.kept.lock().expect("unpoisoned")[name].clone();
            self.bench.bao.put(name, secret(&id, &value)).await.expect("stored");
        })
    }

    fn questions(&self) -> usize {
        self.door.bursts()
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["", "/a", "a/", "a//b", "a%2fb", "a#b", ".", "..", "a/.."]
    }
}

#[tokio::test]
async fn hashicorp_vault_conforms() {
    let bench = Bench::new("1h").await;
    let door = Door::start(bench.bao.addr()).await;
    let resolver = bench.at(&format!("http://{}", door.address()), "", &bench.app_role(""));
    conformance::run(&Conforming { bench, door, resolver, kept: Mutex::default() }, &[Trouble::Ambiguous]).await;
}
