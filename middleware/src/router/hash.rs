//! Maps by text, and one hash for them and for sticky splits: quick on short text, the same on every machine and in every release.
//!
//! It resists nobody who may choose the keys of a table. That is fine here: the file puts them in, requests only ask.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map by text that comes out of the file.
#[derive(Debug, Clone)]
pub(super) struct Map<V>(HashMap<Text, V, BuildHasherDefault<TextHasher>>);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<V> Map<V> {
    pub(super) fn get(&self, text: &str) -> Option<&V> {
        self.0.get(text.as_bytes())
    }

    pub(super) fn insert(&mut self, text: &str, value: V) -> Option<V> {
        self.0.insert(Text::from(text), value)
    }

    pub(super) fn entry(&mut self, text: &str) -> Entry<'_, Text, V> {
        self.0.entry(Text::from(text))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Text whose bytes, if they are few, are where the text is: a lookup that compares it fetches no further memory.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Short(u8, [u8; Text::SHORT]),
    Long(Box<[u8]>),
}

impl Text {
    /// Makes both kinds equally large.
    const SHORT: usize = 22;

    pub(super) fn is(&self, text: &str) -> bool {
        let bytes: &[u8] = self.borrow();
        bytes == text.as_bytes()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut bytes = [0; Self::SHORT];
        match bytes.get_mut(..text.len()) {
            Some(short) => {
                short.copy_from_slice(text.as_bytes());
                Self::Short(text.len() as u8, bytes)
            }
            None => Self::Long(text.as_bytes().into()),
        }
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        let (one, other): (&[u8], &[u8]) = (self.borrow(), other.borrow());
        one == other
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes: &[u8] = self.borrow();
        bytes.hash(state);
    }
}

/// Hashes text, eight bytes at a time.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let start = 0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64;
    mix(words.iter().fold(start, |hash, word| mix(hash ^ u64::from_le_bytes(*word))) ^ last)
}

/// Spreads every bit over all: the two halves of a product, folded.
pub(super) fn mix(hash: u64) -> u64 {
    let product = u128::from(hash) * 0xa076_1d64_78bd_642f;
    (product as u64) ^ (product >> 64) as u64
}

/// [`hash`] as std wants it, for [`Text`] and nothing else.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TextHasher(u64);

impl Hasher for TextHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    /// The length, which std puts before the bytes. It is hashed with them.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
