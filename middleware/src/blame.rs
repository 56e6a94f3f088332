//! Whose doing it is that a request, or an answer, is dropped before it is over.
//!
//! Nearly always its client has gone away, and that is what whoever remembers it takes for granted when it is dropped.
//! Whoever knows better says so here, for as long as the dropping takes.

use std::cell::Cell;

use crate::Cause;

thread_local! {
    static CAUSE: Cell<Option<Cause>> = const { Cell::new(None) };
}

/// Why something is being dropped, if somebody has said so.
pub fn known() -> Option<Cause> {
    CAUSE.get()
}

/// Drops something for this reason.
pub fn because(cause: Cause, drop: impl FnOnce()) {
    /// What was said before is said again at the end, also if a panic is it.
    struct Until(Option<Cause>);
    impl Drop for Until {
        fn drop(&mut self) {
            CAUSE.set(self.0);
        }
    }
    let _until = Until(CAUSE.replace(Some(cause)));
    drop();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_for_as_long_as_the_dropping_takes() {
        let mut seen = Vec::new();
        because(Cause::Draining, || {
            because(Cause::RouteTimeout, || seen.push(known()));
            seen.push(known());
        });
        seen.push(known());
        assert_eq!(seen, [Some(Cause::RouteTimeout), Some(Cause::Draining), None]);
    }
}
