//! The id of a request that came without one.

use std::cell::RefCell;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A request's id, kept where the request is: minting one allocates nothing.
pub(super) enum Id {
    /// 128 random bits as 32 hex digits.
    Minted([u8; 32]),
    /// One that came with the request.
    Given(Box<str>),
}

impl Id {
    /// A new id, from the thread's own generator.
    ///
    /// It names a request and guards nothing, so the generator need not be a cryptographic one. It has 256 bits of state,
    /// which the operating system filled: two ids are alike as seldom as 128 bits promise, in one thread and over all.
    pub(super) fn mint() -> Self {
        thread_local! {
            static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
        }
        let number: u128 = RANDOM.with_borrow_mut(|random| random.random());
        let mut digits = [0; 32];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        Id::Minted(digits)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Id::Minted(digits) => str::from_utf8(digits).expect("they are digits"),
            Id::Given(id) => id,
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
}
