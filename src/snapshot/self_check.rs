#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Compares the running counts with a new count, and the number of pods with that of the API server.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{task::yield_now, time::sleep};
use tracing::warn;

use crate::{
    backoff,
    cluster::{
        pod_view::PodView,
        watch::{WatchedKind as _, count},
        watch_progress::WatchKind,
    },
    metrics::Metrics,
    snapshot::shared_state::SharedState,
};

/// Checks for ever, and requests a new list of pods when their number differs twice in a row.
pub async fn run(client: Client, shared: Arc<SharedState>, metrics: Arc<Metrics>, every: Duration) {
    let mut differed = false;
    loop {
        sleep(every + backoff::part(every / 5, backoff::random())).await;
        // One after the other: nothing else is done while one is counted.
        for name in shared.with(|state, _| state.environment_names()) {
            let wrong = shared.with(|state, now| !state.check_counts(&name, now));
            metrics.index_mismatches(usize::from(wrong));
            yield_now().await;
        }
        let here = shared.with(|state, _| state.stream(WatchKind::Pods).version);
        let Ok((there, pods)) = count(&client, PodView::PATH).await else {
            continue; // the watch reports it
        };
        let differs = shared
            .with(|state, _| state.stream(WatchKind::Pods).synced && state.known_pods() != pods);
        if differs && differed || there < here {
            warn!("the number of pods differs from that of the API server; listing them again");
            shared.with(|state, _| state.want_relist(WatchKind::Pods));
        }
        differed = differs;
    }
}
