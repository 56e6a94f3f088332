//! Faults that come after what came before them.

use std::task::{Context, Poll};

use http_body::Frame;

/// An answer's fault that waits for a turn.
///
/// hyper and h2 throw away what they have not sent when a body fails. Where the head of an answer, a part of its body and
/// its fault are there at once, the client would get nothing at all, and might take that for a connection that had gone
/// stale, and ask again. A turn later, what was there before is with the client's kernel, if that has room.
pub(super) struct Late<E>(Option<E>);

impl<E> Default for Late<E> {
    fn default() -> Self {
        Self(None)
    }
}

impl<E> Late<E> {
    /// The next frame, or the fault that came instead of it the last time.
    pub(super) fn pass<T>(
        &mut self,
        context: &mut Context<'_>,
        next: impl FnOnce(&mut Context<'_>) -> Poll<Option<Result<Frame<T>, E>>>,
    ) -> Poll<Option<Result<Frame<T>, E>>> {
        if let Some(fault) = self.0.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        match next(context) {
            Poll::Ready(Some(Err(fault))) => {
                self.0 = Some(fault);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            next => next,
        }
    }
}
