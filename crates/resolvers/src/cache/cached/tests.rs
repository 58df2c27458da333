use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use midward_core::{ClientMaterial, FingerprintKey, MaterialField, Persistence, Secret, SeededRandom};

use super::{BootTime, Cached, FIELDS, Kept};
use crate::testing::{Conduct, MemoryVault, VirtualClock, ask, failure, fresh, lookup};
use crate::{CacheConfig, Lookup, Resolver};

const TTL: Duration = Duration::from_secs(60);

fn cached(most: usize) -> (Arc<MemoryVault>, Cached) {
    let vault = MemoryVault::new(Conduct::default());
    let config = CacheConfig { ttl_seconds: TTL.as_secs(), max_entries: most };
    let cached = Cached::new("vault", Arc::clone(&vault) as _, &config, VirtualClock::start());
    (vault, cached)
}

fn kept(cached: &Cached) -> usize {
    cached.shelf.state().kept.len()
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_kept_until_its_end_and_wiped_then() {
    let (vault, cached) = cached(10);
    vault.put("a", "one");
    for _ in 0..5 {
        assert_eq!(ask(&cached, &lookup("a")).await.expect("found"), "one");
    }
    assert_eq!(vault.asked().len(), 1);
    tokio::time::sleep(Duration::from_secs(59)).await;
    ask(&cached, &lookup("a")).await.expect("found");
    assert_eq!((vault.asked().len(), kept(&cached)), (1, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(kept(&cached), 0, "wiped although nobody asked");
    ask(&cached, &lookup("a")).await.expect("found");
    assert_eq!((vault.asked().len(), kept(&cached)), (2, 1));
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    assert_eq!(kept(&cached), 0, "and again, with another sweeper");
}

#[tokio::test(start_paused = true)]
async fn a_fresh_look_up_passes_it_by_and_replaces_it() {
    let (vault, cached) = cached(10);
    vault.put("a", "one");
    ask(&cached, &lookup("a")).await.expect("found");
    vault.put("a", "two");
    assert_eq!(ask(&cached, &lookup("a")).await.expect("found"), "one");
    assert_eq!(ask(&cached, &fresh("a")).await.expect("found"), "two");
    assert_eq!(ask(&cached, &lookup("a")).await.expect("found"), "two");
    assert_eq!(vault.asked().len(), 2);
    assert!(vault.asked()[1].fresh, "past the vault's own caches too");
    // What was refused is not kept when the fresh one cannot be had.
    vault.now(|conduct| conduct.fails = Some(failure(Persistence::Transient, "vault_unreachable")));
    ask(&cached, &fresh("a")).await.expect_err("gone");
    assert_eq!(kept(&cached), 0);
}

#[tokio::test(start_paused = true)]
async fn neither_failures_nor_changing_secrets_are_kept() {
    let (vault, cached) = cached(10);
    ask(&cached, &lookup("a")).await.expect_err("none there");
    vault.put("a", "one");
    vault.now(|conduct| conduct.changing = true);
    ask(&cached, &lookup("a")).await.expect("there now");
    ask(&cached, &lookup("a")).await.expect("there now");
    assert_eq!((vault.asked().len(), kept(&cached)), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn identifier_and_address_tell_secrets_apart() {
    let (vault, cached) = cached(10);
    vault.put("a", "one");
    vault.put("b", "two");
    let at = |address: &str| Lookup { address: Some(address.to_owned()), ..lookup("a") };
    for question in [lookup("a"), lookup("b"), at("x"), at("y")] {
        ask(&cached, &question).await.expect("found");
    }
    assert_eq!((vault.asked().len(), kept(&cached)), (4, 4));
    assert_eq!(ask(&cached, &lookup("b")).await.expect("found"), "two");
    assert_eq!(vault.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn it_holds_so_many_and_the_oldest_goes() {
    let (vault, cached) = cached(2);
    for id in ["a", "b", "c"] {
        vault.put(id, id);
        ask(&cached, &lookup(id)).await.expect("found");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(kept(&cached), 2);
    ask(&cached, &lookup("b")).await.expect("kept");
    ask(&cached, &lookup("c")).await.expect("kept");
    assert_eq!(vault.asked().len(), 3);
    ask(&cached, &lookup("a")).await.expect("found");
    assert_eq!(vault.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_fresh_look_up_does_not_come_back_after_it() {
    let (vault, cached) = cached(10);
    vault.put("a", "old");
    vault.now(|conduct| conduct.takes = Duration::from_secs(10));
    let question = lookup("a");
    let slow = ask(&cached, &question);
    let renewed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        vault.now(|conduct| conduct.takes = Duration::ZERO);
        ask(&cached, &fresh("a")).await.expect("found")
    };
    // The slow one reads what the vault has when it ends: let that be the old one again.
    let restored = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        vault.put("a", "stale");
    };
    vault.put("a", "new");
    let (slow, renewed, ()) = tokio::join!(slow, renewed, restored);
    assert_eq!((slow.expect("found").as_str(), renewed.as_str()), ("stale", "new"));
    assert_eq!(ask(&cached, &lookup("a")).await.expect("kept"), "new");
}

#[tokio::test(start_paused = true)]
async fn told_to_forget_or_shut_down_it_keeps_nothing() {
    let (vault, cached) = cached(10);
    vault.put("a", "one");
    ask(&cached, &lookup("a")).await.expect("found");
    cached.forget();
    assert_eq!((kept(&cached), vault.forgot.load(Ordering::SeqCst)), (0, 1));
    ask(&cached, &lookup("a")).await.expect("found");
    cached.shut_down().await;
    assert_eq!(kept(&cached), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_it_is_ever_printed() {
    let (vault, cached) = cached(10);
    vault.put("a", "hunter2");
    ask(&cached, &lookup("a")).await.expect("found");
    let shown = format!("{cached:?}");
    assert!(shown.contains("kept: 1") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn every_field_comes_back_as_it_was() {
    let all = FIELDS.into_iter().fold(ClientMaterial::new(), |material, field| {
        material.with(field, Secret::from(format!("value of {} \u{1F512}", field.name())))
    });
    let key = FingerprintKey::generate(&SeededRandom::new(1));
    let back = Kept::copy(&all, BootTime::default()).expect("locked").material();
    assert_eq!(back.fingerprint(&key), all.fingerprint(&key));
    let one = ClientMaterial::new().with(MaterialField::ClientId, Secret::from("x"));
    let back = Kept::copy(&one, BootTime::default()).expect("locked").material();
    assert_eq!(back.lengths().collect::<Vec<_>>(), [(MaterialField::ClientId, 1)]);
}
