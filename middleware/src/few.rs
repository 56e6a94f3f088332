//! A list that is usually one item long, and then is where its owner is: no further place in memory to fetch.

use std::{mem, slice};

/// None, one or many.
#[derive(Debug, Clone, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    // Behind a box, so that the usual case stays as small as its item.
    #[expect(clippy::box_collection)]
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, item: T) {
        *self = match mem::take(self) {
            Few::None => Few::One(item),
            Few::One(first) => Few::Many(Box::new(vec![first, item])),
            Few::Many(mut items) => {
                items.push(item);
                Few::Many(items)
            }
        };
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(item) => slice::from_ref(item),
            Few::Many(items) => items,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(item) => slice::from_mut(item),
            Few::Many(items) => items,
        }
    }
}
