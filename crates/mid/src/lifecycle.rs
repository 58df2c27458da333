//! The process around a MID Server: hardening and signals.

use midward_core::{Failure, Hop};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::runtime::Mid;

/// No core dumps, and no other process of the same user may read this one's memory. Called before any secret is read.
pub fn harden() -> Result<(), Failure> {
    let failed = |error: rustix::io::Errno| {
        Failure::permanent(
            Hop::Mid,
            "not_hardened",
            format!("the process could not be protected: {error}"),
            "Look for a security module that forbids setrlimit or prctl.",
        )
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

/// Runs until SIGTERM or SIGINT, then drains; a second one ends the drain. SIGHUP calls `reload`.
pub async fn run(mid: Mid, reload: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let (stop, stop_now) = (CancellationToken::new(), CancellationToken::new());
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let signals = {
        let (stop, stop_now) = (stop.clone(), stop_now.clone());
        async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hang_up.recv() => {
                        reload();
                        continue;
                    }
                }
                if stop.is_cancelled() {
                    stop_now.cancel();
                }
                stop.cancel();
            }
        }
    };
    tokio::select! {
        result = mid.run(stop, stop_now) => result,
        () = signals => Ok(()),
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        Failure::permanent(Hop::Mid, "no_signals", format!("signals cannot be received: {error}"), "Restart the host.")
    })
}
