#![expect(
    clippy::disallowed_types,
    reason = "holds the client of the API server"
)]

//! What all workers share.

use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    api::notification_setting::Cursor,
    cluster::{
        custom_resource_watch::Follow, kubernetes_events::EventPublisher, watch::WatchTimings,
    },
    delivery::secret::RbacHints,
    http::sender::HttpSender,
    message::installation::Installation,
    metrics::Metrics,
    snapshot::{
        delivery_progress::DeliveryProgress, environments::Environments, log::SnapshotLog,
        shared_state::SharedState,
    },
};

/// At most this many statuses are written at once. A thousand settings that hear of one change must not crowd out all
/// other writes; while they queue, each acknowledges more with one write.
const STATUS_WRITES: usize = 8;
/// At most this many logs are listed at once: to find where cursors start, or where the log of a deleted environment ends. A
/// thousand settings may hear of one environment.
const LOG_LISTS: usize = 4;
/// At most this many other requests of settings are under way at once: each takes a connection and about 11 KB, and after a
/// start each setting reads its Secret.
const READS: usize = 16;

/// What delivery works with.
pub(crate) struct Context {
    pub client: Client,
    /// The monotonic clock, and how far the settings have been read.
    pub clock: Arc<SharedState>,
    /// How patiently the settings are followed.
    pub watch_timings: WatchTimings,
    pub log: SnapshotLog,
    pub environments: Arc<Environments>,
    pub sender: HttpSender,
    pub installation: Arc<Installation>,
    pub metrics: Arc<Metrics>,
    /// Records Kubernetes Events.
    pub events: EventPublisher,
    pub rbac_hints: RbacHints,
    /// How far every setting has got, for pruning.
    pub progress: Arc<DeliveryProgress>,
    /// Ends sending: what is on its way is finished first.
    pub stop: CancellationToken,
    pub requests: RequestSlots,
}

/// How many requests to the API server all settings together may have under way, by what they do.
pub(crate) struct RequestSlots {
    pub status_writes: Semaphore,
    pub log_lists: Semaphore,
    pub reads: Semaphore,
}

impl Default for RequestSlots {
    fn default() -> Self {
        Self {
            status_writes: Semaphore::new(STATUS_WRITES),
            log_lists: Semaphore::new(LOG_LISTS),
            reads: Semaphore::new(READS),
        }
    }
}

impl Context {
    /// What it takes to follow the settings.
    pub fn follow(&self) -> Follow<'_, SharedState> {
        Follow {
            client: &self.client,
            streams: &self.clock,
            metrics: &self.metrics,
            events: &self.events,
            timings: self.watch_timings,
        }
    }
}

/// The progress of one setting: it counts as long as this lives.
#[derive(Debug)]
pub(crate) struct ProgressEntry {
    progress: Arc<DeliveryProgress>,
    setting: String,
}

impl ProgressEntry {
    pub fn new(progress: Arc<DeliveryProgress>, setting_uid: &str) -> Self {
        Self {
            progress,
            setting: setting_uid.to_owned(),
        }
    }

    pub fn put(&self, cursors: Vec<Cursor>) {
        self.progress.put(&self.setting, cursors);
    }
}

impl Drop for ProgressEntry {
    fn drop(&mut self) {
        self.progress.remove(&self.setting);
    }
}
