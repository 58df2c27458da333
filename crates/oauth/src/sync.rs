//! What the concurrent part is made of: locks and atomics of the standard library, tasks and timers of tokio. With the
//! feature `shuttle`, which is for tests alone, shuttle's in their place, so that a test can order every step of every
//! thread (`tests/interleavings.rs`). Nothing else differs: the code under test is the code that runs.

#[cfg(not(feature = "shuttle"))]
pub(crate) use real::{AtomicU64, Loaded, Mutex, MutexGuard, RwLock, Slot, Spawner, sleep, timeout};
#[cfg(feature = "shuttle")]
pub(crate) use shuttled::{AtomicU64, Loaded, Mutex, MutexGuard, RwLock, Slot, Spawner, sleep, timeout};

/// How a task ended.
#[cfg_attr(feature = "shuttle", expect(dead_code, reason = "shuttle reports a panic itself, and ends no runtime"))]
pub(crate) enum Ended {
    Done,
    /// The runtime has shut down.
    ShutDown,
    Panicked,
}

/// Too late.
#[derive(Debug)]
pub(crate) struct Elapsed;

#[cfg(not(feature = "shuttle"))]
mod real {
    use std::future::Future;
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard, RwLock};
    use std::time::Duration;

    use arc_swap::{ArcSwapOption, Guard};
    use tokio::runtime::Handle;
    pub(crate) use tokio::time::sleep;

    use super::{Elapsed, Ended};

    /// Starts tasks.
    #[derive(Clone, Debug)]
    pub(crate) struct Spawner(Handle);

    impl Spawner {
        /// Of the runtime that the caller runs in.
        pub(crate) fn current() -> Self {
            Self(Handle::current())
        }

        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.spawn(task);
        }

        /// Runs a task of its own to its end.
        pub(crate) async fn run(&self, task: impl Future<Output = ()> + Send + 'static) -> Ended {
            match self.0.spawn(task).await {
                Ok(()) => Ended::Done,
                Err(error) if error.is_cancelled() => Ended::ShutDown,
                Err(_) => Ended::Panicked,
            }
        }
    }

    /// A shared pointer that is read without a lock and without writing a reference count.
    pub(crate) struct Slot<T>(ArcSwapOption<T>);

    /// What a [`Slot`] held when it was read.
    pub(crate) type Loaded<T> = Guard<Option<Arc<T>>>;

    impl<T> Default for Slot<T> {
        fn default() -> Self {
            Self(ArcSwapOption::empty())
        }
    }

    impl<T> Slot<T> {
        #[inline]
        pub(crate) fn load(&self) -> Loaded<T> {
            self.0.load()
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            self.0.store(value);
        }

        pub(crate) fn loaded(value: Arc<T>) -> Loaded<T> {
            Guard::from_inner(Some(value))
        }
    }

    pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
    }
}

#[cfg(feature = "shuttle")]
mod shuttled {
    use std::future::Future;
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use shuttle::sync::atomic::AtomicU64;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};

    use super::{Elapsed, Ended};

    #[derive(Clone, Debug)]
    pub(crate) struct Spawner;

    impl Spawner {
        pub(crate) fn current() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "as with tokio")]
        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            drop(shuttle::future::spawn(task));
        }

        pub(crate) async fn run(&self, task: impl Future<Output = ()> + Send + 'static) -> Ended {
            task.await;
            Ended::Done
        }
    }

    /// Reading and writing it are steps between which others may run.
    pub(crate) struct Slot<T>(Mutex<Option<Arc<T>>>);

    pub(crate) type Loaded<T> = Box<Option<Arc<T>>>;

    impl<T> Default for Slot<T> {
        fn default() -> Self {
            Self(Mutex::new(None))
        }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "read through a pointer, as arc-swap's guard")]
    impl<T> Slot<T> {
        pub(crate) fn load(&self) -> Loaded<T> {
            Box::new(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            let old = std::mem::replace(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner), value);
            drop(old);
        }

        pub(crate) fn loaded(value: Arc<T>) -> Loaded<T> {
            Box::new(Some(value))
        }
    }

    /// A timer for something that is due rings some time; the long sleep of somebody who waits for a message does
    /// not, so that a message that gets lost is found as a deadlock.
    pub(crate) async fn sleep(span: Duration) {
        if span >= Duration::from_secs(30) {
            std::future::pending::<()>().await;
        }
        shuttle::future::yield_now().await;
    }

    /// Never elapses: whoever waits for ever is found.
    pub(crate) async fn timeout<F: Future>(_limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        Ok(future.await)
    }
}
