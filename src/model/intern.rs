//! One copy of each value: a hundred thousand pods share a few thousand names, images and label sets.

use std::{borrow::Borrow, collections::BTreeSet, sync::Arc};

/// A set of shared values. Values that nobody else holds any more are dropped when the set has doubled.
#[derive(Debug)]
pub struct Interner<T: ?Sized + Ord> {
    values: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Ord> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: BTreeSet::new(),
            sweep_at: 1_024,
        }
    }
}

impl<T: ?Sized + Ord> Interner<T> {
    /// The one copy of `value`.
    pub fn intern<Q: ?Sized + Ord>(&mut self, value: &Q) -> Arc<T>
    where
        Arc<T>: Borrow<Q>,
        for<'a> &'a Q: Into<Arc<T>>,
    {
        if let Some(shared) = self.values.get(value) {
            return shared.clone();
        }
        self.insert(value.into())
    }

    /// The one copy of `value`, which is already owned.
    pub fn intern_owned(&mut self, value: T) -> Arc<T>
    where
        T: Sized,
        Arc<T>: Borrow<T>,
    {
        if let Some(shared) = self.values.get(&value) {
            return shared.clone();
        }
        self.insert(Arc::new(value))
    }

    fn insert(&mut self, shared: Arc<T>) -> Arc<T> {
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(1_024);
        }
        self.values.insert(shared.clone());
        shared
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_forgotten_ones_go() {
        let mut names = Interner::<str>::default();
        let kept = names.intern("kept");
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
        for number in 0..10_000 {
            names.intern(number.to_string().as_str());
        }
        assert!(names.len() <= 1_024, "{}", names.len());
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
    }
}
