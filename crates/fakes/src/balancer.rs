//! A plain TCP load balancer: each connection goes to the next target in turn, or the one after it when that refuses.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;

use crate::serve::{Listening, lock};

/// A running balancer; it ends when this is dropped.
pub struct Balancer {
    targets: Arc<Mutex<Targets>>,
    listening: Listening,
}

#[derive(Default)]
struct Targets {
    addresses: Vec<SocketAddr>,
    connections: Vec<usize>,
    next: usize,
}

impl Balancer {
    /// Listens before its targets exist, because they may have to be told its address. Connections are closed until
    /// there are some.
    pub fn start() -> io::Result<Self> {
        let targets = Arc::<Mutex<Targets>>::default();
        let current = Arc::clone(&targets);
        let listening = Listening::start(0, move |mut client: TcpStream| {
            let order = lock(&current).order();
            let current = Arc::clone(&current);
            async move {
                for (index, address) in order {
                    let Ok(mut server) = TcpStream::connect(address).await else { continue };
                    drop(server.set_nodelay(true));
                    lock(&current).count(index);
                    // How a connection ended is its ends' to report.
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    return;
                }
            }
        })?;
        Ok(Self { targets, listening })
    }

    /// Where connections go from now on; those that are open stay.
    pub fn set_targets(&self, addresses: &[SocketAddr]) {
        let connections = vec![0; addresses.len()];
        *lock(&self.targets) = Targets { addresses: addresses.to_vec(), connections, next: 0 };
    }

    /// How many connections each target got since the targets were set.
    pub fn connections(&self) -> Vec<usize> {
        lock(&self.targets).connections.clone()
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }
}

impl Targets {
    /// All targets, the one whose turn it is first.
    fn order(&mut self) -> Vec<(usize, SocketAddr)> {
        let count = self.addresses.len();
        let first = self.next;
        self.next = self.next.wrapping_add(1);
        let turn = |step: usize| first.wrapping_add(step).checked_rem(count);
        let order = (0..count).filter_map(turn);
        order.filter_map(|index| Some((index, *self.addresses.get(index)?))).collect()
    }

    fn count(&mut self, index: usize) {
        if let Some(connections) = self.connections.get_mut(index) {
            *connections += 1;
        }
    }
}
