//! The ids of a request and its trace, kept where the request is.

use std::cell::RefCell;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// So many bytes need no memory of their own: a UUID, a trace id, 128 bits in hex.
const SHORT: usize = 38;

/// An id that a request has. One of usual length allocates nothing.
pub(super) enum Id {
    /// The first so many of these bytes, cut from a text.
    Short(u8, [u8; SHORT]),
    /// A longer one.
    Long(Box<str>),
}

impl Id {
    /// An id that somebody else made.
    pub(super) fn given(id: &str) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..id.len()) {
            Some(room) => {
                room.copy_from_slice(id.as_bytes());
                Id::Short(id.len() as u8, bytes)
            }
            None => Id::Long(id.into()),
        }
    }

    /// A new id, from the thread's own generator.
    ///
    /// It names a request and guards nothing, so the generator need not be a cryptographic one. It has 256 bits of state,
    /// which the operating system filled: two ids are alike as seldom as 128 bits promise, in one thread and over all.
    pub(super) fn mint() -> Self {
        thread_local! {
            static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
        }
        let number: u128 = RANDOM.with_borrow_mut(|random| random.random());
        let mut digits = [0; SHORT];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        Id::Short(32, digits)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Id::Short(length, bytes) => str::from_utf8(&bytes[..usize::from(*length)]).expect("it was a text"),
            Id::Long(id) => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn a_minted_id_is_32_hex_digits_and_no_two_are_alike() {
        let mint = || (0..1000).map(|_| Id::mint().as_str().to_owned()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(mint)).collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        for id in &ids {
            assert!(id.len() == 32 && id.bytes().all(|digit| DIGITS.contains(&digit)), "{id}");
        }
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn an_id_of_any_length_reads_back() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 128, 300] {
            let id = "ü0".repeat(length).chars().take(length).collect::<String>();
            assert_eq!(Id::given(&id).as_str(), id);
        }
    }
}
