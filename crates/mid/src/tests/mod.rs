//! The MID Server against a scripted instance over real HTTP.

mod engine;
mod instance;
mod jars;
mod leases;
mod link;
