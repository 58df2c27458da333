//! The real server on loopback with a scripted MID, on each database.

mod backup;
mod broken_commit;
mod crowd;
mod openapi;
mod postgres;
mod readiness;
mod replicas;
mod scenarios;
mod skew;
mod sqlite;
