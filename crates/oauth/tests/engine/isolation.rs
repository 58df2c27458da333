//! Bad neighbours: dead and slow authorization servers and vaults among a hundred profiles. The others see no failure
//! and never wait, neither for their first token nor for any later one.

use std::sync::Arc;
use std::time::Duration;

use midward_core::Failure;
use midward_oauth::{Origin, TokenCache, TokenHandle};

use crate::support::{LONG, Reply, World};

/// A server's answer and a vault's take this long.
const GOOD: Duration = Duration::from_millis(70);

/// Servers and vaults that do not answer, or late.
fn bad_worlds() -> [Arc<World>; 4] {
    let worlds = [World::new(), World::new(), World::new(), World::new()];
    let [dead_server, slow_server, dead_vault, slow_vault] = &worlds;
    dead_server.set(Reply::Never);
    *slow_server.latency.lock().unwrap() = Duration::from_secs(9);
    // Its own deadline ends a read: that is how a vault that never answers looks from here.
    *dead_vault.vault_latency.lock().unwrap() = Duration::from_secs(30);
    let down = Failure::transient(midward_core::Hop::Vault, "vault_timeout", "no answer", "Look at the vault.");
    *dead_vault.vault_failure.lock().unwrap() = Some(down);
    *slow_vault.vault_latency.lock().unwrap() = Duration::from_secs(29);
    worlds
}

/// One profile at each of four bad places.
fn bad_profiles(cache: &TokenCache, worlds: &[Arc<World>; 4], many: usize) -> Vec<TokenHandle> {
    let names = ["dead-server", "slow-server", "dead-vault", "slow-vault"];
    let places = worlds.iter().zip(names);
    places
        .flat_map(|(world, name)| {
            (0..many).map(move |n| {
                world.handle_at(cache, &format!("https://{name}.example/token"), &format!("{name}-{n}"), "read")
            })
        })
        .collect()
}

/// Somebody calls each of the bad ones all the time, and is not waited for.
fn keep_calling(bad: &[TokenHandle]) {
    for handle in bad {
        let handle = handle.clone();
        tokio::spawn(async move { handle.token(Duration::from_secs(60)).await.map(|_| ()) });
    }
}

/// First tokens: in the time of one fetch each, whatever the others do. Then for hours: always from the cache.
async fn nobody_notices(world: &World, bad: &[TokenHandle], good: &[TokenHandle]) {
    keep_calling(bad);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = world.clock.start_elapsed();
    for handle in good {
        handle.token(LONG).await.expect("no failure");
    }
    let took = world.clock.start_elapsed().saturating_sub(began);
    let alone = (GOOD + Duration::from_millis(5)) * u32::try_from(good.len()).unwrap();
    assert!(took <= alone, "they waited for a bad neighbour: {took:?} for what takes {alone:?}");
    for _ in 0..200 {
        keep_calling(bad);
        for handle in good {
            let granted = handle.token(LONG).await.expect("no failure");
            assert_eq!(granted.origin, Origin::Cached, "nobody waits");
            assert!(world.left(granted.token().expose()) > 0.0);
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_dead_and_one_slow_server_and_vault_among_a_hundred_profiles() {
    let good = World::new();
    let cache = good.cache();
    let worlds = bad_worlds();
    let bad = bad_profiles(&cache, &worlds, 1);
    let handles: Vec<_> = (0..96).map(|n| good.handle(&cache, "i", &format!("c{n}"), "read")).collect();
    nobody_notices(&good, &bad, &handles).await;
    assert!(worlds[0].posts() > 100, "the dead server was tried all the time");
}

#[tokio::test(start_paused = true)]
async fn more_hung_requests_than_a_server_is_allowed_block_nobody_else() {
    // Twelve profiles of each: the dead server's eight places are taken, and four more wait for one.
    let good = World::new();
    let cache = good.cache();
    let worlds = bad_worlds();
    let bad = bad_profiles(&cache, &worlds, 12);
    let handles: Vec<_> = (0..52).map(|n| good.handle(&cache, "i", &format!("c{n}"), "read")).collect();
    keep_calling(&bad);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let servers = cache.servers();
    let dead = servers.iter().find(|server| server.server == "https://dead-server.example").unwrap();
    assert_eq!((dead.running, dead.waiting), (8, 4));
    nobody_notices(&good, &bad, &handles).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_vault_does_not_hold_places_at_the_server_that_it_shares_with_others() {
    // One server for all; only the vault of some is dead or slow. They get no place before they have a secret.
    let good = World::new();
    let cache = good.cache();
    let [_, _, dead_vault, slow_vault] = bad_worlds();
    let mut bad = Vec::new();
    for n in 0..20 {
        bad.push(dead_vault.handle(&cache, "i", &format!("dead-{n}"), "read"));
        bad.push(slow_vault.handle(&cache, "i", &format!("slow-{n}"), "read"));
    }
    let handles: Vec<_> = (0..60).map(|n| good.handle(&cache, "i", &format!("c{n}"), "read")).collect();
    nobody_notices(&good, &bad, &handles).await;
}
