//! Whose doing it is that a request is dropped before it has an answer.
//!
//! Nearly always its client has gone away, and that is what whoever sees a request dropped takes for granted, unless
//! somebody [says better](portcullis_middleware::blame) for as long as the dropping takes. Over HTTP/2 it may be known before.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use portcullis_middleware::{Cause, blame};

use super::http2;

/// A cause, and what the client did wrong, if there is more to say.
pub(crate) type Blame = (Cause, Option<&'static str>);

/// Why the request that is being dropped has no answer.
pub(crate) fn why() -> Blame {
    blame::known().map(|cause| (cause, None)).or_else(http2::over).unwrap_or((Cause::ClientClosed, None))
}

/// Whether the answer to this request of HTTP/2 goes nowhere, whatever it is.
pub(crate) fn is_over() -> bool {
    http2::over().is_some()
}

pin_project! {
    /// A request that is being answered. When it is dropped instead, `known` tells the cause if it is not the client's
    /// doing.
    pub(super) struct Blamed<F, K: Fn() -> Option<Cause>> {
        #[pin]
        request: Option<F>,
        known: K,
    }

    impl<F, K: Fn() -> Option<Cause>> PinnedDrop for Blamed<F, K> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(cause) = (this.known)() {
                blame::because(cause, || this.request.set(None));
            }
        }
    }
}

impl<F, K: Fn() -> Option<Cause>> Blamed<F, K> {
    pub(super) fn new(request: F, known: K) -> Self {
        Self { request: Some(request), known }
    }
}

impl<F: Future, K: Fn() -> Option<Cause>> Future for Blamed<F, K> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().request.as_pin_mut().expect("it is gone only when this is dropped").poll(context)
    }
}
