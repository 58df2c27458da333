//! One issuer's metadata, kept for a while: one request at a time for all who wait, on a task of its own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use midward_core::{Backoff, BootTime, Clock, Failure, Random};
use url::Url;

use crate::failures;
use crate::fetch::{BoxFuture, TransportFailure};
use crate::metadata::{self, Metadata, MetadataError};
use crate::reply::TokenHttpReply;

/// Fetches metadata documents.
pub trait MetadataTransport: Send + Sync + 'static {
    /// Sends a GET without credentials, without following redirects, and reads at most
    /// [`TokenHttpReply::MAX_BODY`] bytes.
    fn get(&self, url: Url, deadline: Duration) -> BoxFuture<'_, Result<TokenHttpReply, TransportFailure>>;
}

type Found = Result<Arc<Metadata>, Box<Failure>>;

/// The metadata of one issuer, over one way.
pub struct IssuerMetadata {
    issuer: String,
    transport: Arc<dyn MetadataTransport>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    state: Mutex<State>,
}

struct State {
    known: Option<(Arc<Metadata>, BootTime)>,
    /// The last failure, and until when it stands for all who ask.
    failed: Option<(Box<Failure>, BootTime)>,
    backoff: Backoff,
    flight: Option<Shared<BoxFuture<'static, Found>>>,
}

impl IssuerMetadata {
    /// How long a document is used without asking again.
    pub const FRESH: Duration = Duration::from_hours(1);
    /// How long it is used when asking again brings nothing.
    pub const USABLE: Duration = Duration::from_hours(24);
    /// For all requests of one look-up together.
    pub const DEADLINE: Duration = Duration::from_secs(10);
    const LONGEST_PAUSE: Duration = Duration::from_mins(1);

    pub fn new(
        issuer: &str,
        transport: Arc<dyn MetadataTransport>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Arc<Self> {
        let state = State {
            known: None,
            failed: None,
            backoff: Backoff::new(Duration::from_secs(1), Self::LONGEST_PAUSE),
            flight: None,
        };
        Arc::new(Self { issuer: issuer.to_owned(), transport, clock, random, state: Mutex::new(state) })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The metadata; asked for when it is not known or old. A caller that leaves cancels nobody's request.
    pub async fn get(self: &Arc<Self>) -> Result<Arc<Metadata>, Failure> {
        let flight = {
            let mut state = self.lock();
            let now = self.clock.boot();
            if let Some((known, at)) = &state.known
                && now.saturating_since(*at) < Self::FRESH
            {
                return Ok(Arc::clone(known));
            }
            if state.flight.is_none()
                && let Some((failure, again)) = &state.failed
                && now < *again
            {
                return state.usable(now).ok_or_else(|| Failure::clone(failure));
            }
            state.flight.get_or_insert_with(|| self.start()).clone()
        };
        flight.await.map_err(|failure| *failure)
    }

    /// Forgets what is known: the server moved, or an operator asks.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.known = None;
        state.failed = None;
        state.backoff.reset();
    }

    fn start(self: &Arc<Self>) -> Shared<BoxFuture<'static, Found>> {
        let (this, here) = (Arc::clone(self), Arc::clone(self));
        let task = tokio::spawn(async move {
            let found = tokio::time::timeout(Self::DEADLINE, this.look_up()).await.unwrap_or_else(|_elapsed| {
                Err(Box::new(failures::metadata_unavailable(&format!(
                    "the issuer did not answer within {} s",
                    Self::DEADLINE.as_secs()
                ))))
            });
            this.land(found)
        });
        let flight: BoxFuture<'static, Found> = Box::pin(async move {
            // A panic or a runtime that shuts down.
            task.await.unwrap_or_else(|_| here.land(Err(Box::new(failures::fetch_died()))))
        });
        flight.shared()
    }

    fn land(&self, found: Found) -> Found {
        let mut state = self.lock();
        let now = self.clock.boot();
        state.flight = None;
        match found {
            Ok(metadata) => {
                state.known = Some((Arc::clone(&metadata), now));
                state.failed = None;
                state.backoff.reset();
                Ok(metadata)
            }
            Err(failure) => {
                tracing::warn!(issuer = self.issuer, code = failure.code, "no metadata of the authorization server");
                let wait = state.backoff.next_wait(&*self.random);
                state.failed = Some((failure.clone(), now + wait));
                state.usable(now).ok_or(failure)
            }
        }
    }

    async fn look_up(&self) -> Found {
        let mut last = failures::metadata_not_found("its identifier is not a URL that metadata can exist for");
        for url in metadata::well_known(&self.issuer) {
            let reply = match self.transport.get(url, Self::DEADLINE).await {
                Ok(reply) => reply,
                Err(failure) => return Err(Box::new(failures::of_metadata_transport(&failure))),
            };
            match read(&reply, &self.issuer) {
                Ok(metadata) => return Ok(Arc::new(metadata)),
                // The other place may have it: not every server knows both.
                Err((failure, Next::TryOther)) => last = failure,
                Err((failure, Next::Stop)) => return Err(Box::new(failure)),
            }
        }
        Err(Box::new(last))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for IssuerMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerMetadata").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl State {
    /// What is known, while it is not too old to be used at all.
    fn usable(&self, now: BootTime) -> Option<Arc<Metadata>> {
        let (known, at) = self.known.as_ref()?;
        (now.saturating_since(*at) < IssuerMetadata::USABLE).then(|| Arc::clone(known))
    }
}

enum Next {
    TryOther,
    Stop,
}

fn read(reply: &TokenHttpReply, issuer: &str) -> Result<Metadata, (Failure, Next)> {
    let said = |what: &str| format!("the issuer answered {} to the request for its metadata{what}", reply.status);
    match reply.status {
        200 => metadata::parse(reply.body.expose(), issuer).map_err(|error| match error {
            MetadataError::NotMetadata => (failures::metadata_invalid(error), Next::TryOther),
            MetadataError::NoTokenEndpoint => (failures::metadata_invalid(error), Next::Stop),
            MetadataError::OtherIssuer => (failures::other_issuer(), Next::Stop),
        }),
        300..=399 => Err((failures::metadata_not_found(&said(", and redirects are not followed")), Next::TryOther)),
        408 | 425 | 429 | 500..=599 => Err((failures::metadata_unavailable(&said("")), Next::Stop)),
        _ => Err((failures::metadata_not_found(&said("")), Next::TryOther)),
    }
}

/// The endpoints for one client, each allowed by policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub token_url: Url,
    pub revocation: RevocationEndpoint,
    /// The metadata lists authentication methods, and not the client's.
    pub lacks_method: bool,
    /// The metadata lists algorithms for DPoP proofs, and not the one that proofs are signed by.
    pub lacks_dpop_algorithm: bool,
}

/// Where tokens are taken back (RFC 7009).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RevocationEndpoint {
    #[default]
    None,
    At(Url),
    /// There is one, and policy does not list it.
    NotAllowed,
}

/// Where a client's requests go. What it returns is sent a secret, so it must have asked policy.
pub trait EndpointSource: Send + Sync + 'static {
    fn endpoints(&self) -> BoxFuture<'_, Result<Endpoints, Failure>>;

    /// The token endpoint is not there any more.
    fn forget(&self);
}

/// The endpoints that configuration names.
#[derive(Clone, Debug)]
pub struct FixedEndpoints(pub Endpoints);

impl FixedEndpoints {
    pub fn new(token_url: Url, revocation: RevocationEndpoint) -> Self {
        Self(Endpoints { token_url, revocation, lacks_method: false, lacks_dpop_algorithm: false })
    }
}

impl EndpointSource for FixedEndpoints {
    fn endpoints(&self) -> BoxFuture<'_, Result<Endpoints, Failure>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }

    fn forget(&self) {}
}
