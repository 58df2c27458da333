//! OAuth 2.0 as a client: the token request and its reply (pure), and the token cache.
//!
//! Invariants: no expired token leaves the cache; one fetch runs at a time for each key, on a task of its own; no lock
//! is held across IO; the secret lives for one token request; nothing that a server wrote freely is shown to anybody.

mod assertion;
mod budget;
mod cache;
mod counters;
mod discovery;
mod dpop;
mod entry;
mod exchange;
mod explain;
mod failures;
mod fetch;
mod form;
mod grant;
mod granted;
mod hot;
mod in_turn;
mod json;
mod key;
mod metadata;
mod metrics;
mod reply;
mod request;
mod retry_after;
mod revoke;
mod schedule;
mod signing_key;
mod steps;
mod sync;
mod turn;

pub use assertion::{AssertionAlgorithm, AssertionRules};
pub use budget::{BudgetRules, ServerStatus};
pub use cache::{Dropped, TokenCache, TokenCacheConfig, TokenCounts, TokenHandle};
pub use discovery::{EndpointSource, Endpoints, FixedEndpoints, IssuerMetadata, MetadataTransport, RevocationEndpoint};
pub use dpop::{DPOP, DpopKey, DpopNonces, ProofError, Proven};
pub use explain::TokenStatus;
pub use fetch::{
    BoxFuture, FetchContext, FetchFailure, Fetched, FetchedToken, GrantFetcher, Material, MaterialSource, Progress,
    SharedCircuit, TokenFetcher, TokenTransport, TransportFailure, TransportFailureKind,
};
pub use grant::{BearerAssertion, GrantType, TokenExchange, is_own_claim};
pub use granted::{Granted, Origin, Rejected};
pub use key::{ClientKey, CredentialRef, TokenKey};
pub use metadata::{Metadata, MetadataError, parse as parse_metadata, well_known};
pub use metrics::{ProfileMetrics, ServerMetrics, TokenMetrics};
pub use reply::{Expected, ReplyClass, ReplyError, TokenHttpReply, TokenReply, parse as parse_reply};
pub use request::{
    ClientAuth, ClientCertificate, RequestError, TokenHttpRequest, TokenRequestSpec, WeakCertificate,
    build as build_request, check as check_request,
};
pub use retry_after::clock_off;
pub use revoke::Revocation;
pub use signing_key::KeyError;
pub use turn::Turns;
