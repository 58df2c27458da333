//! The MID Server against a scripted instance over real HTTP.

mod dpop;
mod engine;
mod instance;
mod jars;
mod leases;
mod link;
mod metrics;
mod raw_replies;
mod reload;
mod replay;
mod tls_zoo;
mod token_endpoint;
