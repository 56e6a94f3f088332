//! The way out of a parser, which closes what it is given, for what must not be closed yet.

use std::sync::{Arc, Mutex, PoisonError};

/// Where a connection is left for whoever says the last word on it.
pub(super) struct Exit<T>(Arc<Mutex<Option<T>>>);

impl<T> Exit<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn leave(&self, left: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }

    /// What was left, if the connection was not closed.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Clone for Exit<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
