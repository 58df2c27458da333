//! What all handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use midward_core::{Clock, Random, new_id};

use crate::audit::Audit;
use crate::auth::{Clients, MidTokens};
use crate::config::LimitsConfig;
use crate::fleet::Fleet;
use crate::keys::SigningKey;
use crate::queue::{Queue, Waiters};
use crate::rates::Rates;
use crate::routes::Routes;
use crate::store::Store;

/// Shared state of the handlers.
pub(crate) struct App {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) store: Store,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) routes: Routes,
    pub(crate) queue: Queue,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) audit: Audit,
    pub(crate) clients: Clients,
    pub(crate) rates: Rates,
    pub(crate) mid_tokens: MidTokens,
    pub(crate) signing_key: SigningKey,
    pub(crate) instance_id: String,
    /// How MIDs reach the instance.
    pub(crate) public_url: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) limits: LimitsConfig,
    pub(crate) first_admin_file: PathBuf,
    /// Long polls end when it is cancelled.
    pub(crate) stopping: tokio_util::sync::CancellationToken,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new_id(&self) -> String {
        new_id(self.clock.wall(), &*self.random)
    }

    /// Unix milliseconds.
    pub(crate) fn now(&self) -> i64 {
        self.clock.wall().unix_millis()
    }
}
