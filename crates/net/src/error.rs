//! Why an exchange failed, without a word that the other side chose.

use std::error::Error as StdError;
use std::io;

use crate::AddressClass;

/// An exchange that brought no whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    pub kind: SendErrorKind,
    /// `false` is a promise: no byte of the request left. `true` says only that this cannot be promised.
    pub maybe_sent: bool,
}

/// Each prints as one sentence without a full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendErrorKind {
    #[error("its address is a {0} address, which is refused unless it is listed")]
    Refused(AddressClass),
    #[error("its host name could not be resolved")]
    Dns,
    #[error("no connection could be made: {0}")]
    Connect(io::ErrorKind),
    #[error("this process has no file descriptors left")]
    NoFiles,
    #[error("{0}")]
    Tls(TlsFault),
    #[error("{0}")]
    Proxy(ProxyFault),
    #[error("it did not answer in time")]
    Timeout,
    #[error("its answer is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("{0}")]
    Protocol(ProtocolFault),
    #[error("it closed the connection before it answered")]
    Closed,
    /// The request itself cannot be sent: no host, or a scheme other than http and https.
    #[error("the request cannot be sent to such a URL")]
    BadRequest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("its certificate has expired, or this machine's clock is ahead")]
    Expired,
    #[error("its certificate is not valid yet, or this machine's clock is behind")]
    NotYetValid,
    #[error("its certificate is for another host")]
    WrongHost,
    #[error("its certificate is signed by an unknown issuer: no trusted CA issued it")]
    UnknownIssuer,
    #[error("its certificate is self-signed and not trusted")]
    SelfSigned,
    #[error("its certificate is revoked")]
    Revoked,
    #[error("its certificate is not usable")]
    BadCertificate,
    #[error("it does not speak TLS on this port")]
    NotTls,
    #[error("it speaks neither TLS 1.2 nor TLS 1.3, and nothing older is used")]
    OldVersion,
    #[error("the TLS handshake failed: it sent an alert")]
    Alert,
    #[error("the TLS handshake failed")]
    Handshake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    #[error("the proxy wants authentication, or refused the user name and password (407)")]
    Authentication,
    #[error("the proxy refused to connect: it answered {0}")]
    Status(u16),
    #[error("the proxy did not answer with HTTP")]
    Protocol,
    #[error("the proxy could not be reached: {0}")]
    Connect(io::ErrorKind),
    #[error("the proxy's host name could not be resolved")]
    Dns,
    #[error("no TLS with the proxy: {0}")]
    Tls(TlsFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolFault {
    #[error("its answer is not HTTP/1.1")]
    NotHttp,
    #[error("its answer says its length twice")]
    ContentLength,
    #[error("its answer ended early or is framed wrongly")]
    Body,
    #[error("it switched to another protocol, unasked")]
    Upgrade,
}

impl SendErrorKind {
    pub(crate) const fn unsent(self) -> SendError {
        SendError { kind: self, maybe_sent: false }
    }

    pub(crate) const fn maybe_sent(self) -> SendError {
        SendError { kind: self, maybe_sent: true }
    }

    /// The fault, as one of the way to the proxy.
    pub(crate) const fn at_proxy(self) -> Self {
        match self {
            Self::Dns => Self::Proxy(ProxyFault::Dns),
            Self::Connect(kind) => Self::Proxy(ProxyFault::Connect(kind)),
            Self::Tls(fault) => Self::Proxy(ProxyFault::Tls(fault)),
            other => other,
        }
    }
}

/// What lies at the bottom of a chain of errors; `None` when nothing there is known.
pub(crate) fn root_kind(error: &(dyn StdError + 'static)) -> Option<SendErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kind) = error.downcast_ref::<SendErrorKind>() {
            return Some(*kind);
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(SendErrorKind::Tls(crate::tls::fault(error)));
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let Some(inner) = error.get_ref()
            && let Some(kind) = root_kind(inner)
        {
            return Some(kind);
        }
        next = error.source();
    }
    None
}
