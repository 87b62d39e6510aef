//! Places of which each of many has a part, so that none keeps out the others.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The places of each. There are entries only for those who wait for a place or have one.
#[derive(Debug)]
pub(crate) struct PlacesOfEach<K> {
    each: usize,
    taken: Mutex<BTreeMap<K, Arc<Semaphore>>>,
}

impl<K: Ord> PlacesOfEach<K> {
    pub(crate) fn new(each: usize) -> Self {
        let taken = Mutex::default();
        Self { each, taken }
    }

    /// Waits for a place of one.
    pub(crate) async fn take(&self, who: K) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.of(who).acquire_owned().await
    }

    fn of(&self, who: K) -> Arc<Semaphore> {
        let mut taken = self.taken.lock();
        // Whoever waits for a place or has one keeps its semaphore.
        taken.retain(|_, places| Arc::strong_count(places) > 1);
        let new = || Arc::new(Semaphore::new(self.each));
        taken.entry(who).or_insert_with(new).clone()
    }
}

/// Places of all together, of which each one has a part. Clones share them.
#[derive(Debug)]
pub(crate) struct Places<K> {
    of_each: Arc<PlacesOfEach<K>>,
    all: Arc<Semaphore>,
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self {
            of_each: self.of_each.clone(),
            all: self.all.clone(),
        }
    }
}

/// A place of one, and one of all, until it is dropped.
pub(crate) type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl<K: Ord> Places<K> {
    /// `of_each`, `all`: how many there are.
    pub(crate) fn new((of_each, all): (usize, usize)) -> Self {
        Self {
            of_each: Arc::new(PlacesOfEach::new(of_each)),
            all: Arc::new(Semaphore::new(all)),
        }
    }

    /// Waits for a place. Whoever asks waits for one of its own first, so that it takes none from others meanwhile.
    pub(crate) async fn take(&self, who: K) -> Result<Place, AcquireError> {
        let own = self.of_each.take(who).await?;
        Ok((own, self.all.clone().acquire_owned().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_one_that_has_no_place() {
        let places = PlacesOfEach::new(1);
        for who in 0..=255 {
            let place = places.take(who).await.unwrap();
            assert!(places.of(who).try_acquire().is_err());
            drop(place);
        }
        assert!(places.taken.lock().len() <= 2);
    }
}
