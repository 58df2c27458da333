//! Keeps the checkpoints of the instance's audit in this MID's own: an instance that writes its history anew cannot
//! change what was kept here (`midward audit verify --mirror`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;
use midward_core::Clock;
use midward_wire::{AuditCheckpoint, CheckpointsReply, MidState, checkpoint_signing_input, paths};
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, AuditEntry};
use crate::link::{Link, LinkError, LinkState, check_version};

/// How often the instance is asked.
pub(crate) const EVERY: Duration = Duration::from_mins(1);
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer that is taken in, in bytes.
const LARGEST: usize = 64 * 1024;
/// Checkpoints that are remembered, to notice when one is told otherwise.
const REMEMBERED: usize = 1000;

pub(crate) struct Mirror {
    link: Arc<Link>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    every: Duration,
    /// Hashes by chain and number.
    seen: BTreeMap<(String, i64), String>,
}

impl Mirror {
    pub(crate) fn new(link: Arc<Link>, audit: Arc<Audit>, clock: Arc<dyn Clock>, every: Duration) -> Self {
        Self { link, audit, clock, every, seen: BTreeMap::new() }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // A MID that has just started waits for its link, not for the next turn.
            let mut state = self.link.state();
            let works = |state: &LinkState| matches!(state, LinkState::Known(MidState::Validated | MidState::Paused));
            tokio::select! {
                known = state.wait_for(works) => if known.is_err() { return },
                () = stop.cancelled() => return,
            }
            match self.look().await {
                Ok(()) => {}
                // An instance of before there were any.
                Err(LinkError::Refused(404)) => tracing::debug!("the instance has no audit checkpoints"),
                Err(error) => tracing::debug!(%error, "the instance's audit checkpoints were not fetched"),
            }
        }
    }

    async fn look(&mut self) -> Result<(), LinkError> {
        let answer = self.link.call(Method::GET, paths::CHECKPOINTS, Bytes::new(), DEADLINE, LARGEST).await?;
        let reply: CheckpointsReply =
            serde_json::from_slice(&answer).map_err(|error| LinkError::NotUnderstood(error.to_string()))?;
        check_version(reply.version)?;
        for checkpoint in reply.checkpoints {
            self.keep(checkpoint);
        }
        Ok(())
    }

    fn keep(&mut self, checkpoint: AuditCheckpoint) {
        let place = (checkpoint.chain.clone(), checkpoint.seq);
        let at = self.clock.wall();
        let changed = match self.seen.get(&place) {
            Some(hash) if *hash == checkpoint.hash => return,
            Some(_) => true,
            None => false,
        };
        if changed {
            tracing::error!(
                chain = checkpoint.chain,
                block = checkpoint.seq,
                "the instance tells another history than before: its audit was written anew"
            );
        }
        if self.seen.len() >= REMEMBERED {
            // Chains sort by when they began.
            self.seen.pop_first();
        }
        self.seen.insert(place, checkpoint.hash.clone());
        let pinned = self.is_signed_by_the_pinned_key(&checkpoint);
        self.audit.record(AuditEntry::InstanceCheckpoint { at, checkpoint, pinned, changed });
    }

    /// Other instances on the same database have keys of their own.
    fn is_signed_by_the_pinned_key(&self, checkpoint: &AuditCheckpoint) -> bool {
        let input = checkpoint_signing_input(&checkpoint.chain, checkpoint.seq, &checkpoint.hash, checkpoint.at);
        let Ok(signature) = URL_SAFE_NO_PAD.decode(&checkpoint.signature) else { return false };
        UnparsedPublicKey::new(&ED25519, self.link.pinned_key()).verify(&input, &signature).is_ok()
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("seen", &self.seen.len()).finish_non_exhaustive()
    }
}
