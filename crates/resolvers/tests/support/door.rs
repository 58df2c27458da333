//! A TCP door in front of a vault that cannot be told to be slow or dead itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
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
    bursts: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Door {
    /// On loopback; runs on the caller's runtime.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (way, seen) = watch::channel(Way::Open);
        let bursts = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&bursts);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, seen.clone(), Arc::clone(&counted)));
            }
        });
        Self { address, way, bursts, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often bytes came from clients: at least once for each request.
    pub(crate) fn bursts(&self) -> usize {
        self.bursts.load(Ordering::Relaxed)
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
async fn pass(mut client: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>, bursts: Arc<AtomicUsize>) {
    let now = *way.borrow_and_update();
    if now == Way::Shut {
        return;
    }
    let mut server = None;
    if now == Way::Open {
        let Ok(connected) = TcpStream::connect(target).await else { return };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.insert(connected).split();
        let unseen = AtomicUsize::new(0);
        let both =
            futures_util::future::join(copy(from_client, to_server, &bursts), copy(from_server, to_client, &unseen));
        tokio::select! {
            _ = both => return,
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

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, bursts: &AtomicUsize) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        bursts.fetch_add(1, Ordering::Relaxed);
        to.write_all(&buffer[..count]).await?;
    }
}
