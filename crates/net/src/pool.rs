//! Kept connections: a list for each guard, scheme and authority, behind one lock that no await is under.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::AddressGuard;

/// Guards that have connections at one time; the one not used for longest goes first.
const MAX_GUARDS: usize = 64;
const MAX_IDLE_PER_HOST: usize = 256;
const TICK: Duration = Duration::from_secs(1);
/// Ticks of the sweeper that a connection may be idle for: 30 seconds, and what is left of the running one.
const IDLE_LIMIT: u64 = 30;
/// How long is waited for a connection whose answer is whole, but which is not ready yet.
const SETTLE: Duration = Duration::from_millis(10);

/// Ends when it is dropped.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes.
    pub(crate) driver: AbortHandle,
}

/// Where a request goes.
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// Without a user or password.
    pub(crate) authority: Authority,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // hyper waits for the next request, and takes leave when it learns that there is none. In the midst of an
        // exchange it does not learn that before the request is written, which a peer that does not read puts off.
        if !self.sender.is_ready() {
            self.driver.abort();
        }
    }
}

impl Target {
    pub(crate) fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

/// The idle connections of one way.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    /// The one used last comes first. A connection that one guard allowed is never used by a request with another.
    guards: Vec<(AddressGuard, Hosts)>,
    /// A task closes what is idle for too long. True as long as something is kept.
    sweeping: bool,
    /// How often that task looked: the only clock here, so that none is read for a request.
    ticks: u64,
}

/// Without and with TLS. The connection that became idle last comes last.
type Hosts = [HashMap<Authority, Vec<Idle>>; 2];

struct Idle {
    connection: Connection,
    /// By [`Shelves::ticks`].
    since: u64,
}

enum Found {
    Ready(Connection),
    /// hyper wakes who reads the end of a body a moment before it asks for the next request. Or it still writes a
    /// request that was answered early.
    Settling(Connection),
    Nothing,
}

impl Pool {
    /// The connection that became idle last and is ready.
    pub(crate) async fn take(&self, guard: &AddressGuard, target: &Target) -> Option<Connection> {
        match self.find(guard, target) {
            Found::Ready(connection) => Some(connection),
            // Closed if the time ends: nobody should wait for it once more.
            Found::Settling(mut connection) => match timeout(SETTLE, connection.sender.ready()).await {
                Ok(Ok(())) => Some(connection),
                Ok(Err(_)) | Err(_) => None,
            },
            Found::Nothing => None,
        }
    }

    /// For a connection whose last answer was read to its end.
    pub(crate) fn keep(self: &Arc<Self>, guard: &AddressGuard, target: Target, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        // Dropped, as all connections are, when the lock is free again.
        let (mut closed, mut evicted) = (Vec::new(), None);
        let mut shelves = self.lock();
        let idle = Idle { connection, since: shelves.ticks };
        if shelves.hosts(guard).is_none() {
            if shelves.guards.len() >= MAX_GUARDS {
                evicted = shelves.guards.pop();
            }
            shelves.guards.insert(0, (guard.clone(), Hosts::default()));
        }
        let list = shelves.guards[0].1[usize::from(target.tls)].entry(target.authority).or_default();
        if list.len() >= MAX_IDLE_PER_HOST {
            closed.extend(list.extract_if(.., |idle| idle.connection.sender.is_closed()));
        }
        if list.len() >= MAX_IDLE_PER_HOST {
            closed.push(idle);
        } else {
            list.push(idle);
        }
        let swept = std::mem::replace(&mut shelves.sweeping, true);
        drop(shelves);
        drop((closed, evicted));
        if !swept {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn find(&self, guard: &AddressGuard, target: &Target) -> Found {
        let mut closed = Vec::new();
        let mut shelves = self.lock();
        let list = shelves.hosts(guard).and_then(|hosts| hosts[usize::from(target.tls)].get_mut(&target.authority));
        let Some(list) = list else { return Found::Nothing };
        for at in (0..list.len()).rev() {
            if list[at].connection.sender.is_closed() {
                closed.push(list.remove(at));
            } else if list[at].connection.sender.is_ready() {
                return Found::Ready(list.remove(at).connection);
            }
        }
        list.pop().map_or(Found::Nothing, |idle| Found::Settling(idle.connection))
    }

    /// Closes what is idle for too long. Whether anything is left.
    fn tick(&self) -> bool {
        let mut useless = Vec::new();
        let mut shelves = self.lock();
        shelves.ticks += 1;
        let now = shelves.ticks;
        shelves.guards.retain_mut(|(_, hosts)| {
            for host in hosts.iter_mut() {
                host.retain(|_, list| {
                    let is_over = |idle: &mut Idle| idle.connection.sender.is_closed() || now - idle.since > IDLE_LIMIT;
                    useless.extend(list.extract_if(.., is_over));
                    !list.is_empty()
                });
            }
            hosts.iter().any(|host| !host.is_empty())
        });
        shelves.sweeping = !shelves.guards.is_empty();
        shelves.sweeping
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    /// A guard's hosts, which come first now.
    fn hosts(&mut self, guard: &AddressGuard) -> Option<&mut Hosts> {
        let at = self.guards.iter().position(|(known, _)| known == guard)?;
        self.guards[..=at].rotate_right(1);
        self.guards.first_mut().map(|(_, hosts)| hosts)
    }
}

/// Ends with the way, or when nothing is kept.
async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(TICK).await;
        if !pool.upgrade().is_some_and(|pool| pool.tick()) {
            return;
        }
    }
}
