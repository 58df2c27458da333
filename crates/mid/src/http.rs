//! The one exchange that the link to the instance needs, so that it can be tested against any HTTP client.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;
use midward_net::{AddressGuard, IpNet, SendErrorKind, SendOptions, WayOut};
use midward_resolvers::BoxFuture;

/// Sends requests to the instance.
pub trait InstanceHttp: Debug + Send + Sync + 'static {
    /// One exchange. The answer's body is at most `max_body` bytes, redirects are answers.
    fn exchange(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
        max_body: usize,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, Unreachable>>;
}

/// No usable answer came: name, connection, TLS, proxy, time, size. The text names which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The way out to the instance.
#[derive(Clone, Debug)]
pub struct InstanceWay {
    way: WayOut,
    guard: AddressGuard,
}

impl InstanceWay {
    /// The instance's address is the operator's own choice, so any address may be dialled.
    pub fn new(way: WayOut) -> Self {
        let any =
            [IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0)];
        Self { way, guard: AddressGuard::new(any) }
    }
}

impl InstanceHttp for InstanceWay {
    fn exchange(
        &self,
        request: http::Request<Bytes>,
        deadline: Duration,
        max_body: usize,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, Unreachable>> {
        let options = SendOptions { deadline, max_body, guard: self.guard.clone() };
        Box::pin(async move {
            match self.way.send(request.clone(), &options).await {
                // An idle connection that the instance closed meanwhile; every message to it may be sent twice.
                Err(error) if error.kind == SendErrorKind::Closed => self.way.send(request, &options).await,
                result => result,
            }
            .map_err(|error| Unreachable(error.to_string()))
        })
    }
}
