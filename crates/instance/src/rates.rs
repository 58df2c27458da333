//! How many requests a client may make a second, counted in this process: the generic cell rate algorithm, which keeps
//! one time per client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use midward_core::{BootTime, Failure, Hop};

use crate::client::ApiClient;
use crate::problem::Problem;

const SHARDS: usize = 16;
/// Clients whose time is kept, per shard; those who are quiet are forgotten first.
const KEPT: usize = 1024;

/// When each client's next request would be due if all came evenly.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    shards: [Mutex<HashMap<String, BootTime>>; SHARDS],
    /// Requests a second for clients without a limit of their own; 0: as many as they like.
    default: u32,
}

impl Rates {
    pub(crate) fn new(default: u32) -> Self {
        Self { default, ..Self::default() }
    }

    /// Counts a request. A client may save up one second's worth.
    pub(crate) fn take(&self, client: &ApiClient, now: BootTime) -> Result<(), Problem> {
        let rate = client.requests_per_second.unwrap_or(self.default);
        if rate == 0 {
            return Ok(());
        }
        let interval = Duration::from_secs(1) / rate;
        let ahead = interval * (rate - 1);
        let shard = usize::from(client.id.as_bytes().last().copied().unwrap_or(0)) % SHARDS;
        let mut due = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= KEPT {
            due.retain(|_, time| *time > now);
        }
        let time = due.entry(client.id.clone()).or_insert(now);
        let wait = time.saturating_since(now).saturating_sub(ahead);
        if !wait.is_zero() {
            return Err(too_many(rate, wait));
        }
        *time = (*time).max(now) + interval;
        Ok(())
    }
}

fn too_many(rate: u32, wait: Duration) -> Problem {
    let detail = format!("this client made more than {rate} requests a second");
    let action = "Wait as long as Retry-After says, and spread the requests.";
    let failure = Failure::transient(Hop::Caller, "too_many_requests", detail, action);
    let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, failure);
    problem.retry_after = Some(wait);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientKind, Role};

    fn client(id: &str, own: Option<u32>) -> ApiClient {
        ApiClient {
            id: id.into(),
            kind: ClientKind::ApiKey,
            name: id.into(),
            role: Role::Caller,
            connections: Vec::new(),
            prefix: String::new(),
            first_admin: false,
            created_at: 0,
            expires_at: None,
            previous_expires_at: None,
            requests_per_second: own,
        }
    }

    #[test]
    fn a_second_s_worth_at_once_then_evenly_and_each_client_for_itself() {
        let rates = Rates::new(10);
        let start = BootTime::from_duration(Duration::from_secs(5));
        let (a, b) = (client("a", None), client("b", None));
        let taken = (0..20).filter(|_| rates.take(&a, start).is_ok()).count();
        assert_eq!(taken, 10);
        let refused = rates.take(&a, start).expect_err("full");
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        assert!(rates.take(&b, start).is_ok());
        let later = start + Duration::from_millis(100);
        assert!(rates.take(&a, later).is_ok() && rates.take(&a, later).is_err());
        let rested = later + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rates.take(&a, rested).is_ok()).count(), 10);
    }

    #[test]
    fn a_client_s_own_limit_goes_before_the_instance_s() {
        let now = BootTime::from_duration(Duration::from_secs(5));
        let rates = Rates::new(1);
        assert_eq!((0..20).filter(|_| rates.take(&client("a", Some(3)), now).is_ok()).count(), 3);
        assert_eq!((0..20).filter(|_| rates.take(&client("b", Some(0)), now).is_ok()).count(), 20);
        assert_eq!((0..20).filter(|_| Rates::new(0).take(&client("c", None), now).is_ok()).count(), 20);
    }
}
