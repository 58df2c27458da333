//! A fetch's wait for its turn at the server, which may be long: the secret is not kept in memory for all of it.

use std::pin::pin;
use std::time::Duration;

use midward_core::{Fingerprint, Hop, Trace};

use crate::fetch::{FetchContext, FetchFailure, GrantFetcher, Material};
use crate::sync;
use crate::turn::{Refused, Turn};

/// A turn, and what to send in it.
pub(crate) struct InTurn {
    pub(crate) turn: Turn,
    pub(crate) material: Material,
    pub(crate) print: Fingerprint,
}

impl GrantFetcher {
    /// Longest time that a secret is kept for its turn. When the turn takes longer, it is wiped, and read again then.
    pub const MOST_HELD: Duration = Duration::from_secs(30);
    /// Longest time that a turn is kept for a vault. When the vault takes longer, others have the turn.
    pub const MOST_READ: Duration = Duration::from_secs(5);

    /// Waits for a turn. `fresh`: how the material was read, and is read again.
    pub(crate) async fn in_turn(
        &self,
        material: Material,
        mut print: Fingerprint,
        fresh: bool,
        after: Refused,
        context: &FetchContext,
        trace: &mut Trace,
    ) -> Result<InTurn, FetchFailure> {
        let mut after = Some(after);
        let mut held = Some(material);
        loop {
            context.progress.at_server();
            let waits = self.clock.boot();
            let mut next = pin!(context.turns.next(print, after.take()));
            let turn = if let Ok(turn) = sync::timeout(Self::MOST_HELD, &mut next).await {
                turn
            } else {
                held = None;
                next.await
            };
            let waited = self.clock.boot().saturating_since(waits);
            if waited >= Duration::from_millis(1) {
                trace.push(Hop::Mid, "waited for a turn at the authorization server", waited);
            }
            let turn = turn?;
            if let Some(material) = held {
                return Ok(InTurn { turn, material, print });
            }
            let mut turn = Some(turn);
            let material = {
                let mut read = pin!(self.read(fresh, context, trace));
                if let Ok(material) = sync::timeout(Self::MOST_READ, &mut read).await {
                    material?
                } else {
                    turn = None;
                    read.await?
                }
            };
            let new = material.material.fingerprint(&self.fingerprint_key);
            // A turn is for one secret: another one may not be proven.
            if let Some(turn) = turn.filter(|_| new == print) {
                context.progress.at_server();
                return Ok(InTurn { turn, material, print });
            }
            print = new;
            held = Some(material);
        }
    }
}
