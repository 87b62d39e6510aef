#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "talks to the API server"
)]

//! Compares the running counts with a new count, and the number of pods with that of the API server at the same version.

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
        // Both at once: a pod that comes or goes meanwhile is no difference.
        let (here, known) = shared.with(|state, _| {
            let stream = state.stream(WatchKind::Pods);
            (stream.version, stream.synced.then(|| state.known_pods()))
        });
        let Ok((there, _)) = count(&client, PodView::PATH, None).await else {
            continue; // the watch reports it
        };
        // A version that the server no longer has can't be compared.
        let then = count(&client, PodView::PATH, Some(here)).await.ok();
        let differs = known
            .zip(then)
            .is_some_and(|(known, (_, pods))| known != pods);
        if differs && differed || there < here {
            warn!("the number of pods differs from that of the API server; listing them again");
            shared.with(|state, _| state.want_relist(WatchKind::Pods));
        }
        differed = differs;
    }
}
