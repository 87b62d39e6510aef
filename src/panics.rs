#![expect(
    clippy::disallowed_methods,
    reason = "waits before a task starts again"
)]

//! Panics are defects. One in a request, or in the task of one environment or setting, ends only that: it is logged and
//! counted, and a task starts again. One anywhere else ends the program, which Kubernetes starts again.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use crate::{
    backoff::{self, Backoff},
    metrics::Metrics,
};

/// Aborting would let one request end the program.
#[cfg(not(panic = "unwind"))]
compile_error!("Shipbell contains panics: build it with panic = \"unwind\"");

/// How long a task that panicked waits before it starts again: the first time, and later; up to twice as long by jitter.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
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
            panic = message(info),
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

/// Tasks of which each works for one object among many: a panic in one ends nothing else. Nobody can start one in which it
/// would.
#[derive(Clone)]
pub(crate) struct ContainedTasks {
    scope: PanicScope,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

impl ContainedTasks {
    pub(crate) fn new(scope: PanicScope, metrics: Arc<Metrics>) -> Self {
        Self {
            scope,
            metrics,
            tasks: TaskTracker::new(),
        }
    }

    /// Starts the task of an object: it works until it is done or stopped, and begins anew after a panic. `panicked` is
    /// called after each.
    pub(crate) fn spawn<F: Future<Output = ()> + Send>(
        &self,
        name: String,
        stop: CancellationToken,
        work: impl FnMut() -> F + Send + 'static,
        panicked: impl Fn() + Send + 'static,
    ) {
        let (scope, metrics) = (self.scope, self.metrics.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = restart(scope, &name, &metrics, work, panicked) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Waits until all that were started have ended. More may be started afterwards.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

/// Does some work, anew whenever it panics, after a pause.
async fn restart<F: Future<Output = ()>>(
    scope: PanicScope,
    name: &str,
    metrics: &Metrics,
    mut work: impl FnMut() -> F,
    panicked: impl Fn(),
) {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    loop {
        // The work may panic before its future exists.
        let attempt = async { work().await };
        if contain(scope, metrics, attempt).await.is_some() {
            return;
        }
        let pause = backoff.take(backoff::random());
        error!(
            scope = scope.as_str(),
            name,
            ?pause,
            "it starts again after a panic"
        );
        panicked();
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use parking_lot::Mutex;
    use tokio::{sync::Notify, time::Instant};

    use super::*;
    use crate::{config::LogFormat, simulation::testing::Logged};

    #[test]
    fn a_panic_is_logged_in_one_line_that_says_where_and_asks_for_a_report() {
        let long = "x".repeat(2 * MESSAGE);
        for format in [LogFormat::Text, LogFormat::Json] {
            let logged = Logged::begin(format);
            let before = panic::take_hook();
            log_all();
            let caught = panic::catch_unwind(|| panic!("one line\nand another {long}"));
            panic::set_hook(before);
            assert!(caught.is_err());
            let text = logged.text();
            assert_eq!(text.lines().count(), 1, "{text}");
            for part in [
                "ERROR",
                "a defect of Shipbell: please report it",
                "src/panics.rs:",
                "one line\\nand another xxx",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(text.matches('x').count() <= MESSAGE, "{text}");
        }
    }

    /// A task that panics `times` times, before or after it first waits, and works then until it is stopped.
    async fn panicking(times: usize, at_once: bool) {
        let logged = Logged::begin(LogFormat::Text);
        let (stop, metrics) = (CancellationToken::new(), Arc::new(Metrics::new()));
        let (working, told) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (works, counts, begins) = (working.clone(), told.clone(), AtomicUsize::new(0));
        let start = Instant::now();
        let began = Arc::new(Mutex::new(vec![]));
        let notes = began.clone();
        let work = move || {
            notes.lock().push(start.elapsed());
            let begun = begins.fetch_add(1, Ordering::Relaxed);
            let bad = begun < times;
            assert!(!(bad && at_once), "at once");
            let works = works.clone();
            async move {
                assert!(!bad, "attempt {begun}");
                works.notify_one();
                pending::<()>().await;
            }
        };
        let tasks = ContainedTasks::new(PanicScope::Environment, metrics.clone());
        tasks.spawn("prod".to_owned(), stop.clone(), work, move || {
            counts.fetch_add(1, Ordering::Relaxed);
        });
        working.notified().await;
        assert_eq!(told.load(Ordering::Relaxed), times);
        let log = logged.text();
        let again = "it starts again after a panic scope=\"environment\" name=\"prod\"";
        assert_eq!(log.matches(again).count(), times, "{log}");
        let began = began.lock().clone();
        let pauses = began.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(pauses.max() <= Some(Duration::from_mins(1)), "{began:?}");
        let text = metrics.text(jiff::Timestamp::UNIX_EPOCH);
        for line in [
            format!("shipbell_panics_total{{scope=\"environment\"}} {times}\n"),
            "shipbell_panics_total{scope=\"request\"} 0\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{text}");
        }
        stop.cancel();
        tasks.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_told_of_and_starts_again_until_it_is_stopped() {
        panicking(8, false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_before_it_waits_for_anything_is_contained_too() {
        panicking(1, true).await;
    }
}
