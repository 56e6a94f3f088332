//! Who waits for one thing, the first in front.

use std::collections::VecDeque;

use tokio::sync::oneshot::{self, Receiver, Sender};

/// A line of those who wait. Whoever goes away leaves a place behind that is passed over; there are never many more of
/// these than there once were waiting at a time.
#[derive(Debug)]
pub(super) struct Line<T>(VecDeque<Sender<T>>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Line<T> {
    /// Goes to the end of the line.
    pub(super) fn join(&mut self) -> Receiver<T> {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|place| !place.is_closed());
            // So much that this is not done again soon.
            self.0.reserve(self.0.len() + 1);
        }
        let (sender, receiver) = oneshot::channel();
        self.0.push_back(sender);
        receiver
    }

    /// Gives something to the first who still waits; back it comes if there is nobody.
    pub(super) fn serve(&mut self, mut thing: T) -> Option<T> {
        while let Some(first) = self.0.pop_front() {
            match first.send(thing) {
                Ok(()) => return None,
                Err(unwanted) => thing = unwanted,
            }
        }
        Some(thing)
    }

    /// Gives something to all but the first ones, in their order.
    pub(super) fn dismiss(&mut self, keep: usize, thing: impl Fn() -> T) {
        for late in self.0.drain(keep.min(self.0.len())..) {
            let _ = late.send(thing());
        }
    }

    /// Whether somebody waits.
    pub(super) fn is_awaited(&mut self) -> bool {
        while self.0.front().is_some_and(Sender::is_closed) {
            self.0.pop_front();
        }
        !self.0.is_empty()
    }

    /// How many wait, or went away.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_still_waits_is_served_first() {
        let mut line = Line::default();
        let (gone, mut first, mut second) = (line.join(), line.join(), line.join());
        drop(gone);
        assert!(line.is_awaited());
        assert_eq!((line.serve(1), line.serve(2), line.serve(3)), (None, None, Some(3)));
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(1), Ok(2)));
        assert!(!line.is_awaited());
    }

    #[test]
    fn those_behind_the_first_ones_are_dismissed() {
        let mut line = Line::default();
        let [mut first, mut second, mut third] = [line.join(), line.join(), line.join()];
        line.dismiss(1, || 7);
        assert!(first.try_recv().is_err());
        assert_eq!((second.try_recv(), third.try_recv(), line.len()), (Ok(7), Ok(7), 1));
        line.dismiss(2, || 8);
        assert_eq!((first.try_recv().is_ok(), line.len()), (false, 1));
    }

    #[test]
    fn those_who_went_away_are_forgotten_also_behind_one_who_stays() {
        let mut line = Line::<()>::default();
        let stays = line.join();
        for _ in 0..10_000 {
            drop(line.join());
        }
        assert!(line.len() < 16, "{}", line.len());
        drop(stays);
        assert!(!line.is_awaited());
    }
}
