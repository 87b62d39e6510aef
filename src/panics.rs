#![expect(
    clippy::disallowed_methods,
    reason = "waits before a task starts again"
)]

//! Panics are defects. One in a request, or in the task of one environment or setting, ends only that: it is logged and
//! counted, and a task starts again. One anywhere else ends the program, which Kubernetes starts again.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::time::sleep;
use tracing::error;

use crate::{
    backoff::{self, Backoff},
    metrics::Metrics,
};

/// Aborting would let one request end the program.
#[cfg(not(panic = "unwind"))]
compile_error!("Shipbell contains panics: build it with panic = \"unwind\"");

/// How long a task that panicked waits before it starts again: the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// At most this many characters of a panic's message are logged.
const MESSAGE: usize = 500;

/// What a panic is contained in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanicScope {
    /// One request to one of the ports.
    Request,
    /// The recorder of one environment.
    Environment,
    /// The worker of one setting.
    Setting,
    /// The search for the ends of the logs.
    LogHeads,
}

impl PanicScope {
    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Environment => "environment",
            Self::Setting => "setting",
            Self::LogHeads => "log-heads",
        }
    }
}

/// Logs every panic like everything else that is logged, in one line.
pub(crate) fn log_all() {
    panic::set_hook(Box::new(|info| {
        let location = info.location().map(ToString::to_string);
        error!(
            at = location.unwrap_or_default(),
            message = message(info),
            "a defect of Shipbell: please report it"
        );
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("no message");
    text.chars().take(MESSAGE).collect()
}

/// The result of some work, unless it panics. A panic is counted.
pub(crate) async fn contain<T>(
    scope: PanicScope,
    metrics: &Metrics,
    work: impl Future<Output = T>,
) -> Option<T> {
    // What is shared is behind locks that are not poisoned and held only for short, consistent steps.
    let result = AssertUnwindSafe(work).catch_unwind().await;
    if result.is_err() {
        metrics.panicked(scope.as_str());
    }
    result.ok()
}

/// Does some work, anew whenever it panics, after a pause.
pub(crate) async fn restart<T, F: Future<Output = T>>(
    scope: PanicScope,
    name: &str,
    metrics: &Metrics,
    mut work: impl FnMut() -> F,
) -> T {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    loop {
        // The work may panic before its future exists.
        let attempt = async { work().await };
        if let Some(result) = contain(scope, metrics, attempt).await {
            return result;
        }
        let pause = backoff.take(backoff::random());
        error!(
            scope = scope.as_str(),
            name,
            ?pause,
            "it starts again after a panic"
        );
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_is_counted_and_starts_again_until_it_succeeds() {
        let metrics = Metrics::new();
        let mut attempts = 0;
        let work = || {
            attempts += 1;
            let attempt = attempts;
            async move {
                assert!(attempt > 3, "attempt {attempt}");
                attempt
            }
        };
        let result = restart(PanicScope::Environment, "prod", &metrics, work).await;
        assert_eq!(result, 4);
        let text = metrics.text(jiff::Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("shipbell_panics_total{scope=\"environment\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("shipbell_panics_total{scope=\"request\"} 0\n"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_before_it_waits_for_anything_is_contained_too() {
        let metrics = Metrics::new();
        let mut first = true;
        let result = restart(PanicScope::Setting, "hook", &metrics, || {
            assert!(!std::mem::take(&mut first), "at once");
            std::future::ready(7)
        });
        assert_eq!(result.await, 7);
    }
}
