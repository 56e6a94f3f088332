//! A list that mostly has one entry.

use std::{mem, slice};

/// As a list, but one entry needs no memory of its own: most requests are tried once, and by one tracer.
#[derive(Debug, Clone, Default)]
pub(crate) enum Few<T> {
    /// Nothing yet.
    #[default]
    None,
    /// What is usual.
    One(T),
    /// What is not.
    Several(Vec<T>),
}

impl<T> Few<T> {
    /// Puts one more at the end.
    pub(super) fn push(&mut self, item: T) {
        *self = match mem::take(self) {
            Few::None => Few::One(item),
            Few::One(first) => Few::Several(vec![first, item]),
            Few::Several(mut items) => {
                items.push(item);
                Few::Several(items)
            }
        };
    }

    /// Every entry, in order.
    pub(crate) fn all(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(item) => slice::from_ref(item),
            Few::Several(items) => items,
        }
    }

    /// One entry, to change it.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match self {
            Few::One(item) if index == 0 => Some(item),
            Few::Several(items) => items.get_mut(index),
            _ => None,
        }
    }
}
