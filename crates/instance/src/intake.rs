//! Bodies on their way in, once their senders have shown who they are: how long one may take, and how much of all of them is
//! in memory.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use midward_core::{Failure, Hop};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::app::Shared;
use crate::problem::Problem;

/// How long a body may take.
const WITHIN: Duration = Duration::from_secs(30);
/// And a second more for so many bytes of it that came.
const BYTES_PER_SECOND: usize = 64 * 1024;
/// What is counted at once, in bytes.
const UNIT: usize = 1024;

/// What one kind of sender may have in memory.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    room: Arc<Semaphore>,
    within: Duration,
}

/// Callers do not take from MIDs, nor MIDs from callers.
#[derive(Debug)]
pub(crate) struct Intakes {
    pub(crate) callers: Intake,
    pub(crate) mids: Intake,
}

impl Intakes {
    /// So many bytes for each.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { callers: Intake::new(bytes, WITHIN), mids: Intake::new(bytes, WITHIN) }
    }
}

/// For the paths of the API.
pub(crate) async fn callers(State(app): State<Shared>, request: Request, next: Next) -> Response {
    app.intakes.callers.pass(request, next).await
}

/// For the paths of the MIDs.
pub(crate) async fn mids(State(app): State<Shared>, request: Request, next: Next) -> Response {
    app.intakes.mids.pass(request, next).await
}

impl Intake {
    fn new(bytes: usize, within: Duration) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), within }
    }

    /// What the body takes is held until the answer is there.
    async fn pass(&self, request: Request, next: Next) -> Response {
        let (request, held) = self.meter(request);
        let response = next.run(request).await;
        match held.refused() {
            Some(problem) => problem.into_response(),
            None => response,
        }
    }

    /// Has the body counted while it is read. What was counted is free again when [`Held`] and the body are gone.
    pub(crate) fn meter(&self, request: Request) -> (Request, Held) {
        let held = Held(Arc::new(Count { room: Arc::clone(&self.room), so_far: Mutex::default() }));
        if request.body().is_end_stream() {
            return (request, held);
        }
        let within = Box::pin(tokio::time::sleep(self.within));
        let count = Arc::clone(&held.0);
        (request.map(|inner| Body::new(Metered { inner, count, within, came: 0 })), held)
    }
}

/// What one body takes.
#[derive(Debug)]
pub(crate) struct Held(Arc<Count>);

impl Held {
    /// Why the body was not read to its end.
    pub(crate) fn refused(&self) -> Option<Problem> {
        match self.0.so_far().refused? {
            Refused::TooSlow => {
                let action = "Send it at once; look at the network between you and the instance.";
                let failure = Failure::transient(Hop::Caller, "body_too_slow", "the body did not come in time", action);
                Some(Problem::new(StatusCode::REQUEST_TIMEOUT, failure))
            }
            Refused::NoRoom => {
                Some(Problem::busy("bodies of other requests take all the memory that there is for them"))
            }
        }
    }
}

#[derive(Debug)]
struct Count {
    room: Arc<Semaphore>,
    so_far: Mutex<SoFar>,
}

#[derive(Debug, Default)]
struct SoFar {
    units: Option<OwnedSemaphorePermit>,
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
enum Refused {
    TooSlow,
    NoRoom,
}

impl Count {
    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is missing for so many bytes in all.
    fn take(&self, bytes: usize) -> bool {
        let mut so_far = self.so_far();
        let has = so_far.units.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.div_ceil(UNIT).saturating_sub(has)).unwrap_or(u32::MAX);
        if more == 0 {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(more) else { return false };
        match &mut so_far.units {
            Some(units) => units.merge(permit),
            none => *none = Some(permit),
        }
        true
    }

    fn refuse(&self, why: Refused) -> axum::Error {
        let mut so_far = self.so_far();
        so_far.refused = Some(why);
        // Nothing of it is kept.
        so_far.units = None;
        axum::Error::new(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
    }
}

struct Metered {
    inner: Body,
    count: Arc<Count>,
    within: Pin<Box<Sleep>>,
    came: usize,
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            ready!(self.within.as_mut().poll(context));
            return Poll::Ready(Some(Err(self.count.refuse(Refused::TooSlow))));
        };
        if let Some(Ok(frame)) = &frame {
            let before = self.came;
            self.came = before.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if !self.count.take(self.came) {
                return Poll::Ready(Some(Err(self.count.refuse(Refused::NoRoom))));
            }
            let seconds = self.came / BYTES_PER_SECOND - before / BYTES_PER_SECOND;
            let later = self.within.deadline() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            self.within.as_mut().reset(later);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequest as _;
    use futures_util::StreamExt as _;
    use futures_util::stream::{iter, pending};

    use super::*;

    fn pieces(bytes: usize, count: usize) -> Body {
        let pieces = vec![Bytes::from(vec![b'x'; bytes]); count];
        Body::from_stream(iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn all_bodies_together_have_a_limit_and_give_back_what_they_took() {
        let intake = Intake::new(10 * UNIT, Duration::from_hours(1));
        let (request, first) = intake.meter(Request::new(pieces(1500, 4)));
        assert_eq!(Bytes::from_request(request, &()).await.expect("read").len(), 6000);
        assert_eq!(intake.room.available_permits(), 4, "6000 bytes are six units");
        let (request, second) = intake.meter(Request::new(pieces(1500, 4)));
        assert!(Bytes::from_request(request, &()).await.is_err());
        let problem = second.refused().expect("refused");
        assert_eq!((problem.status.as_u16(), problem.failure.code.as_str()), (503, "busy"));
        assert!(first.refused().is_none() && problem.retry_after.is_some());
        assert_eq!(intake.room.available_permits(), 4, "one that is refused keeps nothing");
        drop(first);
        let (request, third) = intake.meter(Request::new(pieces(1500, 4)));
        assert!(Bytes::from_request(request, &()).await.is_ok() && third.refused().is_none());
        drop(third);
        assert_eq!(intake.room.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_refused_in_the_end() {
        let intake = Intake::new(10 * UNIT, Duration::from_millis(20));
        let begins = iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))]).chain(pending());
        let (request, held) = intake.meter(Request::new(Body::from_stream(begins)));
        let read = tokio::time::timeout(Duration::from_secs(10), Bytes::from_request(request, &())).await;
        assert!(read.expect("in time").is_err());
        let problem = held.refused().expect("refused");
        assert_eq!((problem.status.as_u16(), problem.failure.code.as_str()), (408, "body_too_slow"));
    }
}
