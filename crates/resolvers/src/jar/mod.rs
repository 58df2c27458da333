//! Resolvers that run Java: a customer's own JAR, or CyberArk's SDK with the built-in resolver. Each has a JVM process of
//! its own; what it prints, breaks or leaks stays there.

mod answer;
mod config;
mod forward;
mod host;
mod launch;
mod resolver;
mod sandbox;
mod scratch;
mod store;
mod supervisor;
pub mod trampoline;

pub use config::{CyberArkSdkConfig, CyberArkSdkSettings, JarConfig, JarSettings, ProcessConfig};
pub use forward::{InvalidTarget, Target};
pub(crate) use host::watch_exit;
pub(crate) use launch::{FRAMES_OUT, spawn};
pub use resolver::JarResolver;
pub use sandbox::SandboxMode;
pub(crate) use sandbox::{Membership, Missing, Network, Sandbox};
pub use store::{InvalidJarDigest, JarDigest};
