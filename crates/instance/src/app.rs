//! What all handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use midward_core::{Clock, Random, new_id};
use midward_telemetry::Tracer;

use crate::at_rest::AtRest;
use crate::audit::Audit;
use crate::auth::{Clients, MidTokens};
use crate::config::{LimitsConfig, RetentionConfig};
use crate::fleet::{Fleet, MidView};
use crate::intake::Intakes;
use crate::keys::SigningKey;
use crate::metrics::Counters;
use crate::mid::pulses::Pulses;
use crate::queue::room::Room;
use crate::queue::{Broken, Queue, Waiters};
use crate::rates::Rates;
use crate::routes::Routes;
use crate::stop::Stop;
use crate::store::{Store, StoreError, mids};

/// Shared state of the handlers.
pub(crate) struct App {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) store: Store,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) routes: Routes,
    pub(crate) queue: Queue,
    pub(crate) room: Arc<Room>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) at_rest: Arc<AtRest>,
    pub(crate) broken: Arc<Broken>,
    pub(crate) audit: Audit,
    pub(crate) clients: Clients,
    pub(crate) counters: Arc<Counters>,
    pub(crate) tracer: Tracer,
    pub(crate) rates: Rates,
    pub(crate) intakes: Intakes,
    pub(crate) pulses: Pulses,
    pub(crate) mid_tokens: MidTokens,
    pub(crate) signing_key: SigningKey,
    pub(crate) instance_id: String,
    /// How MIDs reach the instance.
    pub(crate) public_url: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) limits: LimitsConfig,
    pub(crate) retention: RetentionConfig,
    pub(crate) first_admin_file: PathBuf,
    pub(crate) stop: Stop,
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

    /// The database's time, in unix milliseconds: what all replicas agree on.
    pub(crate) async fn store_now(&self) -> Result<i64, StoreError> {
        let mut tx = self.store.readers().begin().await?;
        self.store.now(&mut tx, self.now()).await
    }

    /// A MID as the database knows it now, whichever replica changed it last.
    pub(crate) async fn fresh_mid(&self, id: &str) -> Result<Option<MidView>, StoreError> {
        if self.store.is_shared()
            && let Some(row) = mids::by_id(self.store.readers(), id).await?
        {
            self.fleet.add(row, self.clock.boot(), self.store_now().await?);
        }
        Ok(self.fleet.by_id(id))
    }
}
