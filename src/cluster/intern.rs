//! Shares equal values: a hundred thousand pods have a few thousand different names, images and label sets.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

/// A set of shared values. Values that are no longer used elsewhere are dropped when the set has doubled.
///
/// Values are found by hash, and the hashes are stored together: a tree of the values themselves would fetch a dozen of them
/// from memory for each look-up. Of two values with the same hash the second is not shared.
#[derive(Debug)]
pub struct Interner<T: ?Sized> {
    values: BTreeMap<u64, Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            sweep_at: 1_024,
        }
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// The shared copy of `value`.
    pub fn intern<Q: Borrow<T> + Into<Arc<T>>>(&mut self, value: Q) -> Arc<T> {
        let mut hasher = DefaultHasher::new();
        value.borrow().hash(&mut hasher);
        let hash = hasher.finish();
        match self.values.get(&hash) {
            Some(shared) if **shared == *value.borrow() => return shared.clone(),
            Some(_) => return value.into(),
            None => {}
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(1_024);
        }
        let shared = value.into();
        self.values.insert(hash, shared.clone());
        shared
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
        assert!(names.values.len() <= 1_024, "{}", names.values.len());
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
    }
}
