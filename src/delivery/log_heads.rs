#![expect(
    clippy::disallowed_methods,
    reason = "waits, and reads the log in the API server"
)]

//! Finds where each log ends, so that what is in a log is delivered also while its environment can't be recorded: after a
//! start with pods that can't be read, or without one of the kinds that recording needs.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::snapshot::{environments::Environments, log::SnapshotLog};

/// How long the recorder has to say where a log ends before the log is read.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait after a round in which a log could not be read.
const PAUSE: Duration = Duration::from_secs(10);

/// Finds the heads of logs for ever.
pub(crate) async fn find(environments: Arc<Environments>, log: SnapshotLog) {
    let mut news = environments.subscribe();
    environments.wait_listed().await;
    loop {
        news.mark_unchanged();
        let mut failed = false;
        if environments
            .all()
            .values()
            .any(|info| info.head.get().is_none())
        {
            sleep(PATIENCE).await;
        }
        for (name, info) in environments.all().iter() {
            if info.head.get().is_some() {
                continue;
            }
            let began = Instant::now();
            let environment = info.id(name);
            match log.entries(&environment).await {
                Ok(entries) => {
                    if let Some(last) = entries.last() {
                        environments.found_head(info, (last.index, last.created));
                        debug!(environment = name, index = last.index, elapsed = ?began.elapsed(), "found the end of the log");
                    }
                }
                Err(error) => {
                    debug!(environment = name, %error, "can't find the end of the log");
                    failed = true;
                }
            }
        }
        if failed {
            sleep(PAUSE).await;
        } else if news.changed().await.is_err() {
            return;
        }
    }
}
