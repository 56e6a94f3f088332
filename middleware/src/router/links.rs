//! From a node and the text behind it to the next node: one table for all nodes of all hosts, eight bytes per link.
//!
//! A map in each node would mean two or three places in memory per step, of tables that are too many to stay near the
//! processor. Here it is one, and the text is compared where the node is, which is looked at next anyway.

use super::hash::{hash, mix};

/// The links. Nobody is linked to node 0.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// A power of two of them, or none. A quarter is always empty, so every search ends.
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// 0 in an empty slot.
    node: u32,
}

impl Links {
    /// The node behind `text` after node `from`. Whether one that may be is the one, `is` says.
    pub(super) fn find(&self, from: u32, text: &str, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let hash = hash_of(from, text);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.node == 0 {
                return None;
            }
            if slot.hash == hash && is(slot.node) {
                return Some(slot.node);
            }
            at = (at + 1) & mask;
        }
    }

    /// Links a node that is not linked yet.
    pub(super) fn insert(&mut self, from: u32, text: &str, node: u32) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let grown = vec![Slot::default(); (self.slots.len() * 2).max(8)];
            for slot in std::mem::replace(&mut self.slots, grown) {
                self.put(slot);
            }
        }
        self.used += 1;
        self.put(Slot { hash: hash_of(from, text), node });
    }

    fn put(&mut self, slot: Slot) {
        if slot.node == 0 {
            return;
        }
        let mask = self.slots.len() - 1;
        let mut at = slot.hash as usize & mask;
        while self.slots[at].node != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

fn hash_of(from: u32, text: &str) -> u32 {
    mix(hash(text.as_bytes()) ^ u64::from(from)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_is_found_and_no_other() {
        let mut links = Links::default();
        assert_eq!(links.find(0, "a", |_| true), None);
        let all: Vec<(u32, String, u32)> = (1..1_000).map(|node| (node % 7, format!("s{}", node / 7), node)).collect();
        for (from, text, node) in &all {
            links.insert(*from, text, *node);
        }
        for (from, text, node) in &all {
            assert_eq!(links.find(*from, text, |found| found == *node), Some(*node));
        }
        assert_eq!(links.find(8, "s1", |node| all[node as usize - 1].0 == 8), None);
        assert_eq!(links.find(1, "t1", |node| all[node as usize - 1].1 == "t1"), None);
    }
}
