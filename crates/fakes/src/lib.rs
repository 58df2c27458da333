//! Stand-ins for everything that stands around Midward: real servers on loopback, with faults to order.
//!
//! For development and tests only. Each fake starts inside a test (`X::start(config)` binds port 0, the handle stops it
//! when dropped) or as a program of its own (`src/bin`). They run on threads of their own, so that they also serve a
//! test which blocks, has no runtime, or has paused its time.

pub mod any_http;
pub mod authorization_server;
pub mod azure_key_vault;
pub mod balancer;
pub mod client;
pub mod conjur;
pub mod cutter;
mod fault;
pub mod google_secret_manager;
mod http;
pub mod instance_metadata;
pub mod openbao;
pub mod postgres;
pub mod proxy;
pub mod secret_scan;
mod serve;
pub mod tap;
pub mod target_api;
pub mod tls;
pub mod vault;

pub use fault::HttpFault;
pub use serve::block_until_stopped;
