//! How many requests to the API server all settings together have under way. Namespaces take turns, so that one with a
//! thousand settings makes another wait for one request, not for a thousand.

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// At most this many statuses are written at once. A thousand settings that hear of one change must not crowd out all
/// other writes; while they queue, each acknowledges more with one write.
const STATUS_WRITES: usize = 8;
/// At most this many logs are listed at once: to find where cursors start, or where the log of a deleted environment ends. A
/// thousand settings may hear of one environment.
const LOG_LISTS: usize = 4;
/// At most this many other requests of settings are under way at once: each takes a connection and about 11 KB, and after a
/// start each setting reads its Secret.
const READS: usize = 16;

/// The slots for requests to the API server, by what they do.
pub(crate) struct RequestSlots {
    pub status_writes: Arc<FairSlots>,
    pub log_lists: Arc<FairSlots>,
    pub reads: Arc<FairSlots>,
}

impl Default for RequestSlots {
    fn default() -> Self {
        Self {
            status_writes: FairSlots::new(STATUS_WRITES),
            log_lists: FairSlots::new(LOG_LISTS),
            reads: FairSlots::new(READS),
        }
    }
}

/// FairSlots that namespaces take in turn.
pub(crate) struct FairSlots(Mutex<Queues>);

struct Queues {
    free: usize,
    /// Requests that wait, by namespace. None is empty.
    waiting: BTreeMap<Arc<str>, VecDeque<oneshot::Sender<RequestSlot>>>,
    /// The namespace whose turn was last.
    last: Arc<str>,
}

/// A slot that is held; the next request gets it when this is dropped.
#[must_use]
pub(crate) struct RequestSlot(Option<Arc<FairSlots>>);

impl FairSlots {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queues {
            free,
            waiting: BTreeMap::new(),
            last: Arc::from(""),
        })))
    }

    /// Waits for a slot. Who no longer waits takes none.
    pub async fn take(self: &Arc<Self>, namespace: Arc<str>) -> RequestSlot {
        let turn = {
            let mut queues = self.0.lock();
            if let Some(free) = queues.free.checked_sub(1) {
                queues.free = free;
                return RequestSlot(Some(self.clone()));
            }
            let (tell, turn) = oneshot::channel();
            queues.waiting.entry(namespace).or_default().push_back(tell);
            turn
        };
        // Only a slot's end takes a sender out of its queue, and that sends the slot.
        turn.await.unwrap_or(RequestSlot(None))
    }
}

impl Queues {
    /// Who waits longest in the namespace that comes after the one whose turn was last.
    fn next(&mut self) -> Option<oneshot::Sender<RequestSlot>> {
        loop {
            let after_last = (Excluded(self.last.clone()), Unbounded);
            let later = self.waiting.range::<Arc<str>, _>(after_last).next();
            let (namespace, _) = later.or_else(|| self.waiting.first_key_value())?;
            self.last = namespace.clone();
            let queue = self.waiting.get_mut(&self.last)?;
            // Who no longer waits takes no turn.
            let next = iter::from_fn(|| queue.pop_front()).find(|next| !next.is_closed());
            if queue.is_empty() {
                self.waiting.remove(&self.last);
            }
            if next.is_some() {
                return next;
            }
        }
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        let Some(slots) = self.0.take() else {
            return;
        };
        let mut slot = Self(Some(slots.clone()));
        loop {
            let next = {
                let mut queues = slots.0.lock();
                let next = queues.next();
                queues.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else {
                slot.0 = None; // it is free
                return;
            };
            match next.send(slot) {
                Ok(()) => return,
                Err(unused) => slot = unused,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, task::Poll};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    impl FairSlots {
        fn free(&self) -> usize {
            self.0.lock().free
        }
    }

    /// A request of a namespace that waits in its queue.
    async fn waits(
        slots: &Arc<FairSlots>,
        namespace: &str,
    ) -> Pin<Box<impl Future<Output = RequestSlot> + use<>>> {
        let mut slot = Box::pin({
            let (slots, namespace) = (slots.clone(), Arc::from(namespace));
            async move { slots.take(namespace).await }
        });
        let is_waiting = poll_fn(|cx| Poll::Ready(slot.as_mut().poll(cx).is_pending())).await;
        assert!(is_waiting, "no slot is free");
        slot
    }

    #[tokio::test]
    async fn a_namespace_waits_for_one_request_of_another_however_many_that_has() {
        let slots = FairSlots::new(1);
        let held = slots.take("many".into()).await;
        let mut many = VecDeque::new();
        for _ in 0..1_000 {
            many.push_back(waits(&slots, "many").await);
        }
        let [first, second] = [waits(&slots, "few").await, waits(&slots, "few").await];
        drop(held);
        drop(first.await);
        drop(many.pop_front().unwrap().await);
        drop(second.await);
        for other in many {
            drop(other.await);
        }
        assert_eq!((slots.free(), slots.0.lock().waiting.len()), (1, 0));
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::tries(256))]

        /// What happens: a request comes, the oldest or the newest ends or no longer waits, or the two oldest do before a
        /// third notices.
        #[test]
        fn no_slot_is_lost_or_made_and_none_is_free_while_somebody_waits(
            happenings in vec((0..5_u8, 0..3_usize), 0..60), limit in 1..4_usize,
        ) {
            let slots = FairSlots::new(limit);
            let mut requests = VecDeque::new();
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for (happening, namespace) in happenings {
                match happening {
                    0 | 1 => {
                        let slots = slots.clone();
                        let namespace = ["a", "b", "c"][namespace].into();
                        requests.push_back((Box::pin(async move { slots.take(namespace).await }), None));
                    }
                    2 => drop(requests.pop_front()),
                    3 => drop((requests.pop_front(), requests.pop_front())),
                    _ => drop(requests.pop_back()),
                }
                for (request, slot) in requests.iter_mut().filter(|(_, slot)| slot.is_none()) {
                    if let Poll::Ready(taken) = request.as_mut().poll(&mut context) {
                        *slot = Some(taken);
                    }
                }
                let held = requests.iter().filter(|(_, slot)| slot.is_some()).count();
                prop_assert_eq!(held, limit.min(requests.len()));
                prop_assert_eq!(held + slots.free(), limit);
            }
        }
    }
}
