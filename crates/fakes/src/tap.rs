//! A TCP tap: passes bytes on, and keeps a copy of both directions.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::serve::{Listening, lock};

/// All bytes so far, of all connections together, in the order of their arrival.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tapped {
    /// From clients to the target.
    pub sent: Vec<u8>,
    /// From the target to clients.
    pub received: Vec<u8>,
}

/// A running tap; it ends when this is dropped.
pub struct Tap {
    sent: Arc<Mutex<Vec<u8>>>,
    received: Arc<Mutex<Vec<u8>>>,
    target: Arc<Mutex<Option<SocketAddr>>>,
    listening: Listening,
}

impl Tap {
    /// Listens on a free loopback port and passes each connection on to `target`.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let tap = Self::unconnected()?;
        tap.set_target(target);
        Ok(tap)
    }

    /// Listens before its target exists: for a server that must be told the tap's address as its own. Connections are
    /// closed until [`Self::set_target`].
    pub fn unconnected() -> io::Result<Self> {
        let target = Arc::<Mutex<Option<SocketAddr>>>::default();
        let (sent, received) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (up, down) = (Arc::clone(&sent), Arc::clone(&received));
        let current = Arc::clone(&target);
        let listening = Listening::start(0, move |client: TcpStream| {
            let (up, down) = (Arc::clone(&up), Arc::clone(&down));
            let target = *lock(&current);
            async move {
                let Some(target) = target else { return };
                // A target that refuses shows as a closed connection; how a direction ended is its ends' to report.
                if let Ok(server) = TcpStream::connect(target).await {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let ended = tokio::join!(copy(from_client, to_server, &up), copy(from_server, to_client, &down));
                    drop(ended);
                }
            }
        })?;
        Ok(Self { sent, received, target, listening })
    }

    /// Where connections go from now on.
    pub fn set_target(&self, target: SocketAddr) {
        *lock(&self.target) = Some(target);
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    pub fn tapped(&self) -> Tapped {
        Tapped { sent: lock(&self.sent).clone(), received: lock(&self.received).clone() }
    }
}

/// Copies until the end of the stream, which it passes on.
pub(crate) async fn copy<R, W>(mut from: R, mut to: W, record: &Mutex<Vec<u8>>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        lock(record).extend_from_slice(&buffer[..count]);
        to.write_all(&buffer[..count]).await?;
    }
}
