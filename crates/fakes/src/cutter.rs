//! A TCP relay that loses one message to order: what somebody asked for is done, and nobody is told; or it is not done.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::serve::{Listening, lock};

/// What of the next exchange that fits is lost, together with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lose {
    /// The target never hears of it.
    Request,
    /// The target has done it, and its answer does not arrive.
    Answer,
}

/// One order.
#[derive(Clone, Debug)]
struct Order {
    marker: Vec<u8>,
    trigger: Vec<u8>,
    lose: Lose,
    times: usize,
}

#[derive(Default)]
struct Orders {
    open: Option<Order>,
    carried_out: usize,
}

/// A running relay; it ends when this is dropped.
pub struct Cutter {
    orders: Arc<Mutex<Orders>>,
    target: Arc<Mutex<Option<SocketAddr>>>,
    listening: Listening,
}

impl Cutter {
    /// Listens on a free loopback port and passes each connection on to `target`.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let cutter = Self::unconnected()?;
        cutter.set_target(target);
        Ok(cutter)
    }

    /// Listens before its target exists, because that one may have to be told this address. Connections are closed
    /// until [`Self::set_target`].
    pub fn unconnected() -> io::Result<Self> {
        let orders = Arc::<Mutex<Orders>>::default();
        let target = Arc::<Mutex<Option<SocketAddr>>>::default();
        let (current, known) = (Arc::clone(&orders), Arc::clone(&target));
        let listening = Listening::start(0, move |client: TcpStream| {
            let orders = Arc::clone(&current);
            let target = *lock(&known);
            async move {
                let Some(target) = target else { return };
                if let Ok(server) = TcpStream::connect(target).await {
                    drop(server.set_nodelay(true));
                    // How a connection ended is its ends' to report.
                    drop(relay(client, server, &orders).await);
                }
            }
        })?;
        Ok(Self { orders, target, listening })
    }

    /// Where connections go from now on.
    pub fn set_target(&self, target: SocketAddr) {
        *lock(&self.target) = Some(target);
    }

    /// Cuts the next connection whose client sends `marker` and then, in the same message or later, `trigger`: as SQL
    /// does, in a transaction and its `COMMIT`.
    pub fn cut(&self, marker: &str, trigger: &str, lose: Lose) {
        self.cut_often(marker, trigger, lose, 1);
    }

    /// As [`Self::cut`], for so many connections.
    pub fn cut_often(&self, marker: &str, trigger: &str, lose: Lose, times: usize) {
        let (marker, trigger) = (marker.as_bytes().to_vec(), trigger.as_bytes().to_vec());
        lock(&self.orders).open = Some(Order { marker, trigger, lose, times }).filter(|order| order.times > 0);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        lock(&self.orders).carried_out
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, orders: &Mutex<Orders>) -> io::Result<()> {
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    // What the client sent since the last answer but one: a message may come in pieces.
    let mut sent = Vec::new();
    let mut marked = false;
    let mut losing = false;
    loop {
        tokio::select! {
            count = client.read(&mut up) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                sent.extend_from_slice(&up[..count]);
                match step(&mut sent, &mut marked, orders) {
                    None => {}
                    Some(Lose::Request) => return Ok(()),
                    Some(Lose::Answer) => losing = true,
                }
                server.write_all(&up[..count]).await?;
            }
            count = server.read(&mut down) => {
                let count = count?;
                if count == 0 || losing {
                    return Ok(());
                }
                client.write_all(&down[..count]).await?;
            }
        }
    }
}

/// Looks at what was sent; forgets what no longer matters.
fn step(sent: &mut Vec<u8>, marked: &mut bool, orders: &Mutex<Orders>) -> Option<Lose> {
    let mut orders = lock(orders);
    let Some(order) = &mut orders.open else {
        sent.clear();
        *marked = false;
        return None;
    };
    if !*marked && let Some(at) = find(sent, &order.marker) {
        *marked = true;
        sent.drain(..at);
    }
    let longest = order.marker.len().max(order.trigger.len());
    if *marked && find(sent, &order.trigger).is_some() {
        let lose = order.lose;
        order.times -= 1;
        if order.times == 0 {
            orders.open = None;
        }
        orders.carried_out += 1;
        return Some(lose);
    }
    let kept = sent.len().saturating_sub(longest);
    sent.drain(..kept);
    None
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len().max(1)).position(|window| window == part)
}
