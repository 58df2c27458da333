//! A server that has nothing of its own to say: it gives the answer that was ordered, whatever is asked. For clients
//! whose real server shows no faults.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use crate::fault::{Before, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, Wire, base_url, read_body, serve, text};
use crate::serve::Listening;
use crate::tls::Tls;

/// A running server; it ends when this is dropped.
pub struct AnyHttp {
    state: Arc<State>,
    listening: Listening,
    tls: Tls,
}

#[derive(Default)]
struct State {
    faults: Faults<HttpFault>,
    requests: AtomicU64,
}

impl AnyHttp {
    pub fn start(tls: Tls) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let listening = serve(Arc::clone(&state), &tls, 0)?;
        Ok(Self { state, listening, tls })
    }

    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    /// The answer from now on, in place of the one before.
    pub fn set_fault(&self, fault: HttpFault) {
        self.state.faults.clear();
        self.state.faults.order(fault, None);
    }

    /// Requests whose head arrived.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.take(|_| true);
        let dropped = match before(fault.as_ref(), &wire).await? {
            Before::Answer(response) => return Ok(response),
            Before::DropAfterRead => true,
            Before::Continue => false,
        };
        read_body(request.into_body()).await?;
        if dropped {
            return Err(Dropped);
        }
        after(fault.as_ref(), text(StatusCode::NOT_FOUND, "nothing ordered")).await
    }
}
