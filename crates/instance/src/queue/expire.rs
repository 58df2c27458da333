//! What waited for longer than it may ends, so many at once that no transaction becomes a long one.

use std::sync::Arc;

use midward_core::{Failure, Hop};
use midward_wire::Outcome;
use sqlx::{Any, Transaction};

use super::Ended;
use super::batch::Writer;
use super::transaction::lost;
use super::work::Effects;
use crate::store::{StoreError, outcomes, to_json};

/// Requests whose time is over that end in one transaction; when there are more, the next one follows at once.
const MOST_OVER: usize = 2000;

type Tx = Transaction<'static, Any>;

impl Writer {
    /// Ends what is over.
    pub(super) async fn expire(&mut self, tx: &mut Tx, now: i64, effects: &mut Effects) -> Result<(), StoreError> {
        let mut room = MOST_OVER;
        for (id, outcome, trace) in outcomes::expire_retried(tx, now, room).await? {
            let outcome = self.parts.at_rest.outcome(&mut **tx, &id, outcome).await?;
            let outcome = outcome.unwrap_or_else(|why| Outcome::Unknown { failure: why.failure() });
            self.parts.journal.ended(&id, None, &outcome);
            effects.ended.push((id, Ended { outcome: Arc::new(outcome), trace: trace.into() }));
            effects.hint = true;
            room -= 1;
        }
        // Lost: it was given to a MID before it came back into the queue, so it may have been sent.
        for (outcome, was_given_out) in
            [(Outcome::Failed { failure: expired() }, false), (Outcome::Unknown { failure: lost() }, true)]
        {
            let text = to_json(&outcome)?;
            let outcome = Arc::new(outcome);
            for id in outcomes::expire(tx, now, &text, was_given_out, room).await? {
                self.parts.journal.ended(&id, None, &outcome);
                effects.ended.push((id, Ended { outcome: Arc::clone(&outcome), trace: "[]".into() }));
                effects.hint = true;
                room -= 1;
            }
        }
        self.is_more_over = room == 0;
        Ok(())
    }
}

fn expired() -> Failure {
    Failure::transient(
        Hop::Instance,
        "expired",
        "the request's time was over before a MID Server took it; it was never sent",
        "Look at the MIDs with `midward get mids`, then submit it again.",
    )
}
