#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! What the recorders of all environments share.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        custom_resource_watch::Follow, kubernetes_events::EventPublisher, watch::WatchTimings,
    },
    leader::election::ElectionWatch,
    metrics::Metrics,
    snapshot::{environments::Environments, log::SnapshotLog, shared_state::SharedState},
};

/// How many objects are written for the logs of all environments together in a second, at most. A snapshot is one, and each
/// part of a state that is too big for it is one more.
const WRITES_PER_SECOND: u32 = 20;

/// What recording needs.
#[derive(Clone)]
pub struct RecorderContext {
    /// For the environments and their status.
    pub client: Client,
    /// What runs, and what is to be recorded.
    pub shared: Arc<SharedState>,
    /// Where snapshots are appended.
    pub log: SnapshotLog,
    /// What delivery knows of the environments.
    pub environments: Arc<Environments>,
    pub metrics: Arc<Metrics>,
    /// The operator's own namespace: it may see an environment that doesn't say who may.
    pub namespace: String,
    /// Becomes true when the settings that exist at start have their cursors. Only a baseline is appended before, unless
    /// that takes too long.
    pub cursors_ready: watch::Receiver<bool>,
    /// Spreads appends over time.
    pub write_budget: Arc<WriteBudget>,
    /// Kubernetes Events on environments.
    pub events: EventPublisher,
    /// How patiently the environments are followed.
    pub watch_timings: WatchTimings,
    /// Whether this process may write.
    pub leadership: ElectionWatch,
    /// Ends recording.
    pub stop: CancellationToken,
}

impl RecorderContext {
    /// What it takes to follow the environments.
    pub(crate) fn follow(&self) -> Follow<'_, SharedState> {
        Follow {
            client: &self.client,
            streams: &self.shared,
            metrics: &self.metrics,
            events: &self.events,
            timings: self.watch_timings,
        }
    }
}

/// Lets so many appends a second pass, in the order in which they come.
#[derive(Debug)]
pub struct WriteBudget {
    next: Mutex<Instant>,
    interval: Duration,
}

impl Default for WriteBudget {
    fn default() -> Self {
        Self {
            next: Mutex::new(Instant::now()),
            interval: Duration::from_secs(1) / WRITES_PER_SECOND,
        }
    }
}

impl WriteBudget {
    /// Waits until so many objects may be written.
    pub(crate) async fn pass(&self, objects: usize) {
        let at = {
            let mut next = self.next.lock().await;
            // A burst of one second's worth may pass at once.
            let at = (*next).max(Instant::now() - Duration::from_secs(1));
            *next = at + self.interval * u32::try_from(objects).unwrap_or(u32::MAX);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_most_20_objects_a_second_are_written_and_a_pause_saves_up_no_more_than_one_second()
    {
        let budget = WriteBudget::default();
        let time_of = async |passes: usize, objects: usize| {
            let begun = Instant::now();
            for _ in 0..passes {
                budget.pass(objects).await;
            }
            begun.elapsed()
        };
        let seconds = Duration::from_secs;
        assert_eq!(time_of(1, 1).await, Duration::ZERO);
        assert_eq!(time_of(100, 1).await, seconds(5));
        advance(seconds(60)).await;
        assert_eq!(time_of(21, 1).await, Duration::ZERO);
        assert_eq!(time_of(100, 1).await, seconds(5));
        // A snapshot with a state in 39 parts delays those after it.
        assert_eq!(time_of(1, 40).await, seconds(1) / 20);
        assert_eq!(time_of(1, 1).await, seconds(2));
    }
}
