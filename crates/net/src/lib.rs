//! Ways out: outbound HTTP/1.1 with a private CA, an authenticated proxy, and a guard on the address that is dialled.
//! Nothing is taken from the environment, no redirect is followed, no body is unbounded.

mod ber;
mod collector;
mod config;
mod connect;
mod dial;
mod error;
mod guard;
mod identity;
mod not_after;
mod pfx;
mod pool;
mod proxy;
mod tls;
mod way;

pub use collector::{CollectorError, CollectorWay};
pub use config::{ProxyConfig, WayConfig, WayError};
pub use error::{ProtocolFault, ProxyFault, SendError, SendErrorKind, TlsFault};
pub use guard::{AddressClass, AddressGuard};
pub use identity::{ClientIdentity, IdentityError};
pub use ipnet::IpNet;
pub use not_after::NotAfter;
pub use way::{SendOptions, WayOut};
