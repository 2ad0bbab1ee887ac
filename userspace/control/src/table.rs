//! Things under numbers that are never used again: what has gone does not come back as another.

use core::ops::{Index, IndexMut};
use std::collections::BTreeMap;

/// A map from numbers that it gives out itself, oldest first.
pub(crate) struct Table<T> {
    items: BTreeMap<usize, T>,
    next: usize,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            next: 0,
        }
    }

    /// The number that the next item gets.
    pub(crate) const fn next(&self) -> usize {
        self.next
    }

    pub(crate) fn push(&mut self, item: T) -> usize {
        let at = self.next;
        self.next += 1;
        self.items.insert(at, item);
        at
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        self.items.remove(&at)
    }

    pub(crate) fn contains(&self, at: usize) -> bool {
        self.items.contains_key(&at)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.items.get(&at)
    }

    /// All numbers in use, for loops that change things as they go.
    pub(crate) fn keys(&self) -> Vec<usize> {
        self.items.keys().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.items.iter().map(|(at, item)| (*at, item))
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.values()
    }

    pub(crate) fn position(&self, mut is_it: impl FnMut(&T) -> bool) -> Option<usize> {
        self.iter().find_map(|(at, item)| is_it(item).then_some(at))
    }
}

/// Of something that is there: who keeps a number checks that first.
impl<T> Index<usize> for Table<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.items[&at]
    }
}

impl<T> IndexMut<usize> for Table<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        match self.items.get_mut(&at) {
            Some(item) => item,
            None => panic!("nothing under this number any more"),
        }
    }
}
