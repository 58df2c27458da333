//! The real server on loopback with a scripted MID, on each database.

mod backup;
mod openapi;
mod postgres;
mod readiness;
mod replicas;
mod scenarios;
mod sqlite;
