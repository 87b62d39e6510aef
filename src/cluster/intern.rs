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
    pub fn intern<Q: ?Sized + Hash + Eq>(&mut self, value: &Q) -> Arc<T>
    where
        Arc<T>: Borrow<Q>,
        for<'a> &'a Q: Into<Arc<T>>,
    {
        let hash = hash(value);
        match self.values.get(&hash) {
            Some(shared) if Borrow::<Q>::borrow(shared) == value => shared.clone(),
            Some(_) => value.into(),
            None => self.insert(hash, value.into()),
        }
    }

    /// The shared copy of `value`, which is already owned.
    pub fn intern_owned(&mut self, value: T) -> Arc<T>
    where
        T: Sized,
    {
        let hash = hash(&value);
        match self.values.get(&hash) {
            Some(shared) if **shared == value => shared.clone(),
            Some(_) => Arc::new(value),
            None => self.insert(hash, Arc::new(value)),
        }
    }

    fn insert(&mut self, hash: u64, shared: Arc<T>) -> Arc<T> {
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(1_024);
        }
        self.values.insert(hash, shared.clone());
        shared
    }
}

fn hash<Q: ?Sized + Hash>(value: &Q) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
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
