//! A TCP door in front of a vault that cannot be told to be slow or dead itself.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Bytes pass.
    Open,
    /// Connections are taken, and no byte passes.
    Stuck,
    /// Connections are ended.
    Shut,
}

/// Passes connections on to its target. A change reaches the connections that exist: none outlives it, but that one
/// which gets stuck keeps still until the next change.
pub(crate) struct Door {
    address: SocketAddr,
    way: watch::Sender<Way>,
    accepting: JoinHandle<()>,
}

impl Door {
    /// On loopback; runs on the caller's runtime.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (way, seen) = watch::channel(Way::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, seen.clone()));
            }
        });
        Self { address, way, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Ends when a side ends, the way changes, or the door is gone.
async fn pass(mut client: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    let now = *way.borrow_and_update();
    if now == Way::Shut {
        return;
    }
    let mut server = None;
    if now == Way::Open {
        let Ok(connected) = TcpStream::connect(target).await else { return };
        let mut connected = server.insert(connected);
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut connected) => return,
            changed = way.changed() => if changed.is_err() { return },
        }
        if *way.borrow_and_update() != Way::Stuck {
            return;
        }
    }
    // Held open: neither side hears anything.
    let _ = way.changed().await;
    drop((client, server));
}
