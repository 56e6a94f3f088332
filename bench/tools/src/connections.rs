//! Connections by number. The number is their token in epoll.

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::{Events, Poll};

/// Waits for something to happen.
pub fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    wait_at_most(poll, events, None)
}

/// Waits for something to happen, so long and no longer.
pub fn wait_at_most(poll: &mut Poll, events: &mut Events, time: Option<Duration>) -> io::Result<()> {
    loop {
        match poll.poll(events, time) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            waited => return waited,
        }
    }
}

/// A place that was freed is used again. An event that was already fetched for its former tenant then reaches the new
/// one, which does no harm: it reads or writes, and finds that there is nothing to do.
pub struct Connections<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Connections<T> {
    pub fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// The number that the next [`insert`](Self::insert) will use.
    pub fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    pub fn insert(&mut self, connection: T) {
        match self.free.pop() {
            Some(number) => self.places[number] = Some(connection),
            None => self.places.push(Some(connection)),
        }
    }

    pub fn get(&mut self, number: usize) -> Option<&mut T> {
        self.places.get_mut(number)?.as_mut()
    }

    pub fn remove(&mut self, number: usize) {
        if self.places[number].take().is_some() {
            self.free.push(number);
        }
    }
}
