//! Name resolution, the guard, and TCP.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::io::Errno;
use tokio::net::TcpStream;

use crate::{AddressGuard, SendErrorKind};

/// RFC 8305 section 5: how long one address is alone before the next is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Dials `host` (a name, or an address with or without brackets). With a guard, only addresses that it allows are
/// dialled, whatever else the name resolves to.
pub(crate) async fn dial(host: &str, port: u16, guard: Option<&AddressGuard>) -> Result<TcpStream, SendErrorKind> {
    let resolved = resolve(host, port).await?;
    let mut refused = None;
    let mut allowed = Vec::with_capacity(resolved.len());
    for address in resolved {
        match guard.map_or(Ok(()), |guard| guard.check(address.ip())) {
            Ok(()) => allowed.push(address),
            Err(class) => refused = Some(class),
        }
    }
    match (allowed.is_empty(), refused) {
        (true, Some(class)) => Err(SendErrorKind::Refused(class)),
        (true, None) => Err(SendErrorKind::Dns),
        (false, _) => race(interleave(allowed)).await,
    }
}

/// The address that a URL's host is, when it is not a name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, SendErrorKind> {
    if let Some(address) = literal(host) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| match kind(&error) {
        SendErrorKind::NoFiles => SendErrorKind::NoFiles,
        _ => SendErrorKind::Dns,
    })?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

fn kind(error: &io::Error) -> SendErrorKind {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) {
        return SendErrorKind::NoFiles;
    }
    SendErrorKind::Connect(error.kind())
}

/// Families take turns, the resolver's first choice leads (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let six_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (lead, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == six_first);
    let (mut lead, mut other) = (lead.into_iter(), other.into_iter());
    let mut order = VecDeque::new();
    loop {
        match (lead.next(), other.next()) {
            (None, None) => return order,
            (one, two) => order.extend(one.into_iter().chain(two)),
        }
    }
}

/// Tries all addresses, each with a head start on the next; the first connection wins, the first error is told.
async fn race(mut waiting: VecDeque<SocketAddr>) -> Result<TcpStream, SendErrorKind> {
    let mut first_error = None;
    let mut running = FuturesUnordered::new();
    loop {
        if let Some(address) = waiting.pop_front() {
            running.push(TcpStream::connect(address));
        }
        let finished = if waiting.is_empty() {
            running.next().await
        } else {
            match tokio::time::timeout(HEAD_START, running.next()).await {
                Ok(finished) => finished,
                Err(_) => continue,
            }
        };
        match finished {
            Some(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|error| SendErrorKind::Connect(error.kind()))?;
                return Ok(stream);
            }
            Some(Err(error)) => {
                first_error.get_or_insert_with(|| kind(&error));
            }
            None => return Err(first_error.unwrap_or(SendErrorKind::Connect(io::ErrorKind::NotConnected))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<_>>();
        let order = interleave(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]));
        assert_eq!(Vec::from(order), addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let dead_address = dead.local_addr().expect("an address");
        drop(dead);
        let living = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let living_address = living.local_addr().expect("an address");
        let stream = race(VecDeque::from([dead_address, living_address])).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("a peer"), living_address);
        assert!(stream.nodelay().expect("an option"));
        let error = race(VecDeque::from([dead_address])).await.expect_err("nobody listens");
        assert_eq!(error, SendErrorKind::Connect(io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn the_guard_sees_what_a_name_resolves_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let refused = dial("localhost", port, Some(&AddressGuard::default())).await.expect_err("refused");
        assert_eq!(refused, SendErrorKind::Refused(crate::AddressClass::Loopback));
        let four = AddressGuard::new(["127.0.0.0/8".parse().expect("a network")]);
        assert!(dial("localhost", port, Some(&four)).await.is_ok());
    }
}
