//! Ending a connection so that nobody takes it for done.

use tokio_rustls::server::TlsStream;

use super::stream::Stream;
use crate::wire::Wire;

/// A connection that can be broken.
pub(super) trait Reset {
    /// Ends it at once, and not in order: the client hears of an error instead of an end.
    fn reset(self);
}

impl Reset for Wire<Stream> {
    fn reset(self) {
        self.into_inner().reset();
    }
}

impl<S: Reset> Reset for Box<TlsStream<S>> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}
