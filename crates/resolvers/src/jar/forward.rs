//! The ways out of a JAR's private network: one listener in there for each target, served from here.

use std::fmt::Write as _;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections of one JVM at a time.
const MAX_CONNECTIONS: usize = 256;
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// One `host:port` that a JAR may connect to; the host is a name or an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    host: String,
    port: u16,
}

/// Text that is no [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a target is `host:port`, its host a name or an IPv4 address")]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidTarget)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(InvalidTarget)?;
        // Only digits and dots would be an address that cannot be told from a name.
        let address = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(legal);
        if !fits || (address && host.parse::<Ipv4Addr>().is_err()) {
            return Err(InvalidTarget);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl TryFrom<String> for Target {
    type Error = InvalidTarget;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The addresses that stand for the targets inside, in their order: an address for itself, a name for one of 127.1.0.0/16.
pub(super) fn inside(targets: &[Target]) -> Vec<SocketAddrV4> {
    targets
        .iter()
        .map(|target| {
            // Targets with one name share the address of the first of them.
            let first = targets.iter().position(|other| other.host == target.host).unwrap_or(0) + 1;
            let [.., high, low] = u32::try_from(first).unwrap_or(u32::MAX).to_be_bytes();
            let stand_in = Ipv4Addr::new(127, 1, high, low);
            SocketAddrV4::new(target.host.parse().unwrap_or(stand_in), target.port)
        })
        .collect()
}

/// Writes the names as the JVM looks them up (`jdk.net.hosts.file`): it asks nobody else.
pub(super) fn write_hosts(targets: &[Target], file: &Path) -> io::Result<()> {
    let mut text = String::new();
    if !targets.iter().any(|target| target.host == "localhost") {
        text.push_str("127.0.0.1 localhost\n");
    }
    let mut named: Vec<&str> = Vec::new();
    for (target, address) in targets.iter().zip(inside(targets)) {
        if target.host.parse::<Ipv4Addr>().is_err() && !named.contains(&target.host.as_str()) {
            named.push(&target.host);
            let _ = writeln!(text, "{} {}", address.ip(), target.host);
        }
    }
    std::fs::write(file, text)
}

/// Serves the listeners until it is dropped.
#[derive(Debug)]
pub(super) struct Forwards {
    _tasks: JoinSet<()>,
}

impl Forwards {
    /// Takes the listeners off the socket on which the trampoline sends them, as many as there are targets. When the
    /// trampoline could not make them there are fewer, and it says why on its pipe.
    pub(super) async fn receive(socket: OwnedFd, targets: &[Target]) -> io::Result<Self> {
        let count = targets.len();
        let listeners =
            tokio::task::spawn_blocking(move || (0..count).map_while(|_| take(&socket).transpose()).collect());
        let listeners: io::Result<Vec<OwnedFd>> = listeners.await.map_err(io::Error::other)?;
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        for (listener, target) in listeners?.into_iter().zip(targets) {
            let listener = std::net::TcpListener::from(listener);
            listener.set_nonblocking(true)?;
            tasks.spawn(serve(TcpListener::from_std(listener)?, target.clone(), Arc::clone(&permits)));
        }
        Ok(Self { _tasks: tasks })
    }
}

/// One descriptor, or nothing when the other side ended. Blocks.
fn take(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

async fn serve(listener: TcpListener, target: Target, permits: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((mut inner, _)) = accepted else {
            // Out of descriptors, most likely: not asked again at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let target = target.clone();
        connections.spawn(async move {
            let _permit = permit;
            let dialled = TcpStream::connect((target.host.as_str(), target.port));
            match tokio::time::timeout(DIAL_LIMIT, dialled).await {
                Ok(Ok(mut outer)) => {
                    let _ = outer.set_nodelay(true);
                    let _ = inner.set_nodelay(true);
                    // Whatever ends it: both sides see the connection close.
                    let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                }
                Ok(Err(error)) => unreachable(&target, error.kind()),
                Err(_) => unreachable(&target, io::ErrorKind::TimedOut),
            }
        });
    }
}

/// The JAR sees its connection close; why is in the log alone.
fn unreachable(target: &Target, why: io::ErrorKind) {
    tracing::warn!(host = target.host, port = target.port, "a JAR's target cannot be reached: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| text.parse().expect("legal")).collect()
    }

    #[test]
    fn a_target_is_a_host_and_a_port() {
        for bad in
            ["", "vault", "vault:", "vault:0", "vault:65536", ":443", "[::1]:443", "1.2.3:443", "a b:1", "a\nb:1"]
        {
            assert_eq!(bad.parse::<Target>(), Err(InvalidTarget), "{bad:?}");
        }
        assert_eq!(targets(&["Vault.example:443"]), [Target { host: "vault.example".to_owned(), port: 443 }]);
    }

    #[test]
    fn names_get_addresses_of_the_loopback_and_addresses_stay() {
        let targets = targets(&["a.example:443", "10.1.2.3:1858", "a.example:8200", "b.example:443"]);
        let expected = ["127.1.0.1:443", "10.1.2.3:1858", "127.1.0.1:8200", "127.1.0.4:443"];
        assert_eq!(inside(&targets), expected.map(|text| text.parse().expect("address")));
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("hosts");
        write_hosts(&targets, &file).expect("written");
        let text = std::fs::read_to_string(file).expect("text");
        assert_eq!(text, "127.0.0.1 localhost\n127.1.0.1 a.example\n127.1.0.4 b.example\n");
    }
}
