//! What all fakes share: threads to run on, a listener on loopback, an end when the handle is dropped.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};

/// The threads that all fakes of a process share. Never a caller's runtime: that one may block, end, or pause time.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let fresh =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("fakes").enable_all().build()?;
    // When two threads came at once, the loser's runtime has no task yet and may end here.
    if let Err(spare) = RUNTIME.set(fresh) {
        spare.shutdown_background();
    }
    RUNTIME.get().ok_or_else(|| io::Error::other("the fakes' runtime vanished"))
}

/// A running listener: its address, and its end when dropped (with every connection that is still open).
#[derive(Debug)]
pub(crate) struct Listening {
    addr: SocketAddr,
    accepting: AbortHandle,
}

impl Listening {
    /// Listens on loopback and hands each connection to `serve`. Port 0 takes a free one.
    pub(crate) fn start<S, F>(port: u16, serve: S) -> io::Result<Self>
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = runtime()?;
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(socket)?
        };
        let accepting = runtime.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            // Answers are small; waiting to fill a packet would only distort measurements.
                            drop(stream.set_nodelay(true));
                            connections.spawn(serve(stream));
                        }
                        // The peer left before it was accepted, or descriptors ran out: neither ends the fake.
                        Err(_) => tokio::task::yield_now().await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { addr, accepting: accepting.abort_handle() })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Blocks a fake's program until it is told to stop (SIGINT or SIGTERM).
pub fn block_until_stopped() -> io::Result<()> {
    runtime()?.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    })
}

/// Locks; a fake whose thread panicked is still good for reading what it recorded.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
