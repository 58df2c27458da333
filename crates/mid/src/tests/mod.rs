//! The MID Server against a scripted instance over real HTTP.

mod engine;
mod instance;
mod leases;
mod link;
mod metrics;
mod tls_zoo;
