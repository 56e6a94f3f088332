//! Finds the route of a request.

/// The compiled routes of one listener.
#[derive(Debug, Default)]
pub struct Table {}
