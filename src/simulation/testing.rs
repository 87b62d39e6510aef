//! Helpers for the tests of several modules.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::Router;
use jiff::Timestamp;
use parking_lot::Mutex;
use proptest::test_runner::Config as ProptestConfig;
use sha2::{Digest as _, Sha256};
use tracing::{Dispatch, subscriber::DefaultGuard};
use tracing_subscriber::{
    Layer as _, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

use crate::{
    api::{
        EnvironmentSnapshotSpec,
        snapshot::{Cause, Change, Compliance, ReadAt, Totals, WorkloadChange},
    },
    cluster::image::Fingerprint,
    config::LogFormat,
    snapshot::{cut, ledger::content_hash},
};

/// How often a property is tried: as often as `PROPTEST_CASES` says, else so often where `ALL_TRIES` is set, as `make test`
/// does, and a quarter of that elsewhere: `cargo test --lib` has to take less than a minute. This is for the properties of
/// what reads nothing from outside: simulations of hours, and messages, whose cases take too long for a thousand of them.
pub fn tries(all: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let is_set = |name| std::env::var_os(name).is_some();
    let cases = match (is_set("PROPTEST_CASES"), is_set("ALL_TRIES")) {
        (true, _) => default.cases,
        (false, true) => all,
        (false, false) => all / 4,
    };
    ProptestConfig { cases, ..default }
}

/// How often a property of what reads texts from outside is tried.
pub fn reader_tries() -> ProptestConfig {
    tries(1_000)
}

/// An API server that never answers, and how many requests it got.
pub fn silent_api_server() -> (Router, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    let hangs = Router::new().fallback(move || {
        counts.fetch_add(1, Ordering::Relaxed);
        pending::<()>()
    });
    (hangs, asked)
}

/// Where log lines are written in a test.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock(), line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what this thread logs, until it is dropped.
pub struct Logged {
    lines: Lines,
    _guard: DefaultGuard,
    _second: Dispatch,
}

impl Logged {
    pub fn begin(format: LogFormat) -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let layer = match format {
            LogFormat::Json => layer.json().boxed(),
            LogFormat::Text => layer.with_ansi(false).boxed(),
        };
        Self {
            lines,
            _second: another_subscriber(),
            _guard: registry().with(layer).set_default(),
        }
    }

    pub fn text(&self) -> String {
        self.lines.text()
    }
}

/// With a single subscriber tracing asks only that of the thread which comes to a line first: another test's, with none.
pub fn another_subscriber() -> Dispatch {
    Dispatch::new(registry())
}

/// A digest for a name.
pub fn digest(name: &str) -> Fingerprint {
    Fingerprint(Sha256::digest(name.as_bytes()).into())
}

/// A snapshot of `aws-prod` with these changes: name, was, now.
pub fn snapshot(index: i64, changes: &[(&str, i64, i64)]) -> EnvironmentSnapshotSpec {
    let changes: Vec<Change> = changes
        .iter()
        .map(|(name, was, now)| Change {
            fingerprint: digest(name).to_string(),
            name: (*name).to_owned(),
            was: *was,
            now: *now,
            rollout: false,
            workloads: vec![WorkloadChange {
                kind: "Deployment".to_owned(),
                namespace: "prod".to_owned(),
                name: (*name).to_owned(),
                was: *was,
                now: *now,
                rolling: false,
            }],
            ..Change::default()
        })
        .collect();
    let mut spec = EnvironmentSnapshotSpec {
        environment: "aws-prod".to_owned(),
        environment_uid: "0e4a6c1e-5d6b-4b0e-9a53-3d1f3f1d7a10".to_owned(),
        index,
        time: Timestamp::from_second(1_692_616_493).unwrap(),
        causes: vec![Cause::WorkloadsChanged],
        census_version: 1,
        previous: None,
        content_hash: String::new(),
        read_at: ReadAt::default(),
        ended_by: None,
        ended_at: vec![],
        totals: Totals::default(),
        compliance: Compliance::default(),
        events: cut::events(&changes),
        changes,
        identities: vec![],
        completed_rollouts: vec![],
        allow_list: vec![],
        checkpoint: None,
        cut: None,
    };
    spec.content_hash = content_hash(&spec);
    spec
}
