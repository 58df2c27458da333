//! How an instance stops: whoever sends it work learns it first, then it takes nothing new, and only when nobody waits any
//! more does it stop to listen. Until then MIDs report what they did.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::queue::Waiters;

/// How long running calls may take to end once nothing new is taken, and connections after that.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// The steps, each cancelled when it begins.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// `/readyz` says no, and all else goes on: balancers send no more work here.
    pub(crate) leaving: CancellationToken,
    /// No request and no call is taken, and MIDs get no work.
    pub(crate) stopping: CancellationToken,
    /// Nobody listens any more; who still waits is told so.
    pub(crate) closing: CancellationToken,
}

impl Stop {
    /// Begins when `shutdown` is cancelled.
    pub(crate) fn asked_by(shutdown: &CancellationToken) -> Self {
        Self { leaving: shutdown.child_token(), stopping: CancellationToken::new(), closing: CancellationToken::new() }
    }

    /// Stops without waiting for balancers.
    pub(crate) fn now(&self) {
        self.leaving.cancel();
        self.stopping.cancel();
    }

    /// Goes through the steps, `leave` between the first and the second.
    pub(crate) async fn step_by_step(&self, leave: Duration, waiters: &Waiters) {
        self.leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(leave) => {}
            () = self.stopping.cancelled() => {}
        }
        self.stopping.cancel();
        tracing::info!("stopping: running calls may end, and MIDs report them");
        if tokio::time::timeout(DRAIN, waiters.none()).await.is_err() {
            tracing::warn!("calls did not end in time; who waits for them is told so");
        }
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Wants;

    const AT_ONCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn it_listens_as_long_as_somebody_waits() {
        let (shutdown, waiters) = (CancellationToken::new(), Waiters::default());
        let stop = Stop::asked_by(&shutdown);
        let waiting = waiters.wait("a", Wants::Answer);
        shutdown.cancel();
        assert!(stop.leaving.is_cancelled() && !stop.stopping.is_cancelled());
        let leaves = async {
            stop.stopping.cancelled().await;
            assert!(!stop.closing.is_cancelled(), "somebody waits");
            drop(waiting);
        };
        let both = async { tokio::join!(stop.step_by_step(Duration::ZERO, &waiters), leaves) };
        assert!(tokio::time::timeout(AT_ONCE, both).await.is_ok());
        assert!(stop.closing.is_cancelled());
    }

    #[tokio::test]
    async fn one_that_must_not_go_on_does_not_wait_for_balancers() {
        let (stop, waiters) = (Stop::asked_by(&CancellationToken::new()), Waiters::default());
        stop.now();
        let steps = stop.step_by_step(Duration::from_hours(1), &waiters);
        assert!(tokio::time::timeout(AT_ONCE, steps).await.is_ok());
    }
}
