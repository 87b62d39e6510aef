#![expect(
    clippy::disallowed_types,
    reason = "holds the client of the API server"
)]

//! What all workers share.

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    api::notification_setting::Cursor,
    cluster::{
        custom_resource_watch::Follow, kubernetes_events::EventPublisher, watch::WatchTimings,
    },
    delivery::{request_slots::RequestSlots, secret::RbacHints},
    http::sender::HttpSender,
    leader::election::ElectionWatch,
    message::installation::Installation,
    metrics::Metrics,
    snapshot::{
        delivery_progress::DeliveryProgress, environments::Environments, log::SnapshotLog,
        shared_state::SharedState,
    },
};

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
    /// Whether this process may send and write.
    pub leadership: ElectionWatch,
    /// Ends sending: what is on its way is finished first.
    pub stop: CancellationToken,
    pub requests: RequestSlots,
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
