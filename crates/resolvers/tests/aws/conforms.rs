//! The conformance suite over `aws_secrets_manager`, against moto behind a door.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use midward_resolvers::{BoxFuture, Resolver};
use serde_json::{Value, json};

use crate::Bench;
use crate::conformance::{self, Trouble, Vault};
use crate::door::{Door, Way};
use crate::moto::Moto;

struct Conforming {
    moto: Moto,
    door: Door,
    resolver: Arc<dyn Resolver>,
    kept: Mutex<HashMap<String, Value>>,
}

impl Conforming {
    async fn store(&self, name: &str, value: &Value, is_new: bool) {
        if is_new {
            self.moto.create(name, value).await;
        } else {
            self.moto.put(name, value).await;
        }
    }
}

impl Vault for Conforming {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let value = json!({"client_id": client_id, "client_secret": secret});
            let before = self.kept.lock().expect("unpoisoned").insert(name.to_owned(), value.clone());
            self.store(name, &value, before.is_none()).await;
        })
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        Box::pin(async move {
            match trouble {
                Trouble::NotFound => unreachable!("never ordered"),
                Trouble::Ambiguous => return Err("a name is given once in an account and region"),
                // The key is one that it does not know.
                Trouble::Denied => self.moto.check_signatures().await,
                Trouble::Empty => self.store(name, &json!({"client_id": "x", "client_secret": ""}), false).await,
                Trouble::Slow => self.door.set(Way::Stuck),
                Trouble::Dead => self.door.set(Way::Shut),
            }
            Ok(())
        })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.moto.check_nothing().await;
            self.door.set(Way::Open);
            let value = self.kept.lock().expect("unpoisoned")[name].clone();
            self.store(name, &value, false).await;
        })
    }

    fn questions(&self) -> usize {
        self.door.bursts()
    }

    fn bad_identifiers(&self) -> &[&str] {
        &["a b", "é", "", "a%2fb"]
    }
}

#[tokio::test]
async fn aws_secrets_manager_conforms() {
    let (moto, bench) = (Moto::start(), Bench::new());
    let target = moto.url.strip_prefix("http://").and_then(|address| address.parse().ok()).expect("an address");
    let door = Door::start(target).await;
    let resolver = bench.resolver(&format!("http://{}", door.address()), "timeout_ms = 60000");
    let vault = Conforming { moto, door, resolver, kept: Mutex::default() };
    conformance::run(&vault, &[Trouble::Ambiguous]).await;
}
