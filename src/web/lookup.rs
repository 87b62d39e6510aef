#![expect(clippy::disallowed_methods, reason = "asks for the time")]

//! Finds what a path of the read API names: environments, snapshots, and what belongs to a flow.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{EnvironmentSnapshotSpec, environment::EnvironmentId},
    cluster::fleet::Fleet,
    message::installation::Installation,
    snapshot::{
        environments::{EnvironmentInfo, Environments},
        ledger::Ledger,
        log::{LogError, SnapshotLog},
        shared_state::SharedState,
        state::ClusterState,
    },
    web::{
        error_response::Refusal,
        flow_index::{FlowIndex, ReadEntry, SearchedPart},
        snapshot_expression::SnapshotExpression,
        views::{
            artifact::{FlowAnswer, FlowQuery, LoggedProvenance, Wanted},
            environment::{self, AllowedView, EnvironmentView},
            snapshot::{self, EventView, SnapshotLineView, SnapshotView},
        },
    },
};

/// How many snapshots, over all environments and the newest first, are searched for something whose object was deleted.
const SEARCHED: i64 = 2_000;

/// How far above the newest snapshot that is known here one is looked for in the log: another replica may have appended it a
/// moment ago, and told of it. What is not there costs a request to the API server, so only numbers that may be are tried.
const AHEAD: i64 = 32;

/// The largest number of a snapshot: it has ten digits.
const MAX_INDEX: i64 = 9_999_999_999;

/// Where everything is looked up.
#[derive(Clone)]
pub(crate) struct Lookup {
    pub(crate) state: Arc<SharedState>,
    pub(crate) log: SnapshotLog,
    pub(crate) environments: Arc<Environments>,
    pub(crate) installation: Arc<Installation>,
    pub(crate) flows: Arc<FlowIndex>,
}

impl ReadEntry for SnapshotLog {
    type Error = LogError;

    async fn entry(
        &self,
        environment: &EnvironmentId,
        index: i64,
    ) -> Result<Option<Arc<EnvironmentSnapshotSpec>>, LogError> {
        // A long search must not push out of the cache what delivery needs.
        self.read_uncached(environment, index).await
    }
}

/// The log of an environment that has a snapshot.
pub(crate) struct LogOf {
    environment: EnvironmentId,
    head: i64,
}

/// A snapshot that was looked up.
pub(crate) struct FoundSnapshot {
    spec: Arc<EnvironmentSnapshotSpec>,
    /// The state after it.
    after: Ledger,
    /// When the snapshot after it was recorded.
    next: Option<Timestamp>,
}

impl FoundSnapshot {
    pub(crate) fn view<'a>(&'a self, installation: &'a Installation) -> SnapshotView<'a> {
        snapshot::snapshot(installation, &self.spec, &self.after, self.next)
    }
}

impl Lookup {
    pub(crate) fn check_org(&self, org: &str) -> Result<(), Refusal> {
        if org == self.installation.org {
            return Ok(());
        }
        let own = &self.installation.org;
        Err(Refusal::not_found(format!(
            "the organisation here is {own}"
        )))
    }

    /// The environment of this name, if it exists.
    pub(crate) fn known(&self, org: &str, name: &str) -> Result<EnvironmentInfo, Refusal> {
        self.check_org(org)?;
        let known = self.environments.get(name);
        known.ok_or_else(|| Refusal::not_found(format!("there is no Environment {name:?}")))
    }

    pub(crate) fn log_of(&self, org: &str, name: &str) -> Result<LogOf, Refusal> {
        let known = self.known(org, name)?;
        let none = || Refusal::not_found("the environment has no snapshot yet");
        let head = head(&known).ok_or_else(none)?;
        Ok(LogOf {
            environment: known.id(name),
            head,
        })
    }

    pub(crate) fn environment(&self, name: &str) -> EnvironmentView {
        self.state.with(|state, _| self.describe(state, name))
    }

    pub(crate) fn all_environments(&self) -> Vec<EnvironmentView> {
        let known = self.environments.all();
        self.state.with(|state, _| {
            let names = known.keys();
            names.map(|name| self.describe(state, name)).collect()
        })
    }

    fn describe(&self, state: &ClusterState, name: &str) -> EnvironmentView {
        environment::environment(&self.installation, name, state.summary(name).as_ref())
    }

    /// The allow-list of one environment, or of all.
    pub(crate) fn allow_list(&self, environment: Option<&str>) -> Vec<AllowedView> {
        let now = Timestamp::now();
        self.state
            .with(|state, _| environment::allow_list(state.evidence(), environment, now))
    }

    async fn entry(
        &self,
        log: &LogOf,
        index: i64,
    ) -> Result<Arc<EnvironmentSnapshotSpec>, Refusal> {
        let name = &log.environment.name;
        let found = self.log.read(&log.environment, index).await?;
        found.ok_or_else(|| {
            Refusal::not_found(format!(
                "the log of {name} has no snapshot {index}, or no longer"
            ))
        })
    }

    /// When the snapshot after this one was recorded; `None` for the newest.
    async fn next_time(
        &self,
        log: &LogOf,
        index: i64,
        newest: i64,
    ) -> Result<Option<Timestamp>, Refusal> {
        if index >= newest {
            return Ok(None);
        }
        Ok(Some(self.entry(log, index + 1).await?.time))
    }

    /// The number of the snapshot that an expression means.
    pub(crate) async fn index(&self, log: &LogOf, expression: &str) -> Result<i64, Refusal> {
        let parsed = SnapshotExpression::parse(expression, Timestamp::now());
        let how =
            "a snapshot is named by its number, -1 (the newest), ~N or @{2026-11-24T10:00:00}";
        let index = match parsed.ok_or_else(|| Refusal::bad_request(how))? {
            SnapshotExpression::Number(number) => number,
            SnapshotExpression::Behind(behind) => log.head.saturating_sub(behind),
            SnapshotExpression::At(time) => self.newest_by(log, time).await?,
        };
        if (1..=log.head).contains(&index) {
            return Ok(index);
        }
        let LogOf { environment, head } = log;
        let name = &environment.name;
        if (head + 1..=head + AHEAD).contains(&index) {
            let found = self.log.read_uncached(environment, index).await?;
            // Whoever can write snapshots may have written one of this name.
            if found.is_some_and(|found| found.environment == *name && found.index == index) {
                return Ok(index);
            }
        }
        Err(Refusal::not_found(format!(
            "the newest snapshot of {name} is {head}"
        )))
    }

    /// A snapshot with everything that runs after it.
    pub(crate) async fn snapshot(&self, log: &LogOf, index: i64) -> Result<FoundSnapshot, Refusal> {
        let spec = self.entry(log, index).await?;
        let next = self.next_time(log, index, log.head).await?;
        let replay = self.log.replay(&log.environment, index).await?;
        let after = replay.and_then(|replay| {
            replay
                .ledger(Duration::ZERO, &mut Fleet::default())
                .map_err(|error| error.to_string())
        });
        let after = after.map_err(|error| {
            let message = format!("the state after snapshot {index} cannot be computed: {error}");
            Refusal::not_found(message)
        })?;
        Ok(FoundSnapshot { spec, after, next })
    }

    /// The number of the newest snapshot that was recorded by then; 0 if there is none. Later snapshots are never earlier.
    async fn newest_by(&self, log: &LogOf, time: Timestamp) -> Result<i64, Refusal> {
        let (mut below, mut at_most) = (self.first(log).await? - 1, log.head);
        while below < at_most {
            let middle = below + (at_most - below + 1) / 2;
            let read = self.log.read_uncached(&log.environment, middle).await?;
            match read.is_none_or(|spec| spec.time <= time) {
                true => below = middle,
                false => at_most = middle - 1,
            }
        }
        Ok(below)
    }

    async fn first(&self, log: &LogOf) -> Result<i64, Refusal> {
        let first = self.log.first(&log.environment).await?;
        Ok(first.unwrap_or(log.head).min(log.head))
    }

    /// The numbers of all snapshots that are kept.
    pub(crate) async fn indexes(&self, log: &LogOf) -> Result<Range<i64>, Refusal> {
        Ok(self.first(log).await?..log.head + 1)
    }

    /// Snapshots as a list shows them, without those that are gone. `newest`: the newest that the list has.
    pub(crate) async fn lines(
        &self,
        log: &LogOf,
        indexes: impl IntoIterator<Item = i64>,
        newest: i64,
    ) -> Result<Vec<SnapshotLineView>, Refusal> {
        let now = Timestamp::now();
        let mut lines = vec![];
        for index in indexes {
            if let Some(spec) = self.log.read(&log.environment, index).await? {
                let next = self.next_time(log, index, newest).await?;
                lines.push(snapshot::line(&spec, next, now));
            }
        }
        Ok(lines)
    }

    /// The events of one snapshot, the last first.
    pub(crate) async fn events(&self, log: &LogOf, index: i64) -> Result<Vec<EventView>, Refusal> {
        let spec = self.entry(log, index).await?;
        Ok(snapshot::events(&self.installation, &spec))
    }

    /// How many events each snapshot has. It is in their metadata; only those that an older version recorded are read.
    pub(crate) async fn event_counts(&self, log: &LogOf) -> Result<BTreeMap<i64, usize>, Refusal> {
        let mut counts = BTreeMap::new();
        for (index, count) in self.log.event_counts(&log.environment).await? {
            let count = match count {
                Some(count) => count,
                None => self
                    .log
                    .read_uncached(&log.environment, index)
                    .await?
                    .map_or(0, |spec| spec.events.len()),
            };
            counts.insert(index, count);
        }
        Ok(counts)
    }

    /// Some of the events of all snapshots: those at these positions, of which the newest event has the first. What is gone
    /// by now is left out.
    pub(crate) async fn some_events(
        &self,
        log: &LogOf,
        counts: &BTreeMap<i64, usize>,
        positions: Range<usize>,
    ) -> Result<Vec<EventView>, Refusal> {
        let mut events = vec![];
        for (index, within) in events_at(counts, positions) {
            if let Some(spec) = self.log.read(&log.environment, index).await? {
                let all = snapshot::events(&self.installation, &spec).into_iter();
                events.extend(all.skip(within.start).take(within.len()));
            }
        }
        Ok(events)
    }

    /// Looks up an artifact, a deployment or a review of a flow. If its object was deleted, and so the newest state no
    /// longer has it, the older entries of the logs may.
    pub(crate) async fn of_flow(&self, query: FlowQuery) -> Result<FlowAnswer, Refusal> {
        let installation = &self.installation;
        let now = self
            .state
            .with(|state, _| query.answer(installation, state));
        if let Some(answer) = now {
            return Ok(answer);
        }
        let known = self.environments.all();
        let depth = (SEARCHED / i64::try_from(known.len()).unwrap_or(SEARCHED).max(1)).max(1);
        let exists = |uid: &str| known.values().any(|known| known.uid == uid);
        self.flows.keep(exists).await;
        for (name, info) in known.iter() {
            let head = head(info).unwrap_or(0);
            let part = SearchedPart {
                oldest: (head - depth + 1).max(1),
                head,
                logs: known.len(),
            };
            let environment = info.id(name);
            let found = self.flows.find(&self.log, &environment, part, &query);
            let Some(spec) = found.await? else { continue };
            let mut logged = LoggedProvenance::in_entry(&spec);
            let logged = logged.find(|logged| query.is_answered_by(logged));
            let answer = logged.and_then(|logged| {
                let answer = |state: &mut ClusterState, _| {
                    query.answer_by(&self.installation, state, &logged)
                };
                self.state.with(answer)
            });
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        let what = match query.wanted {
            Wanted::Artifact(digest) => format!("artifact {digest}"),
            Wanted::Deployment(number) => format!("deployment {number}"),
            Wanted::Approval(number) => format!("approval {number}"),
        };
        Err(Refusal::not_found(format!(
            "{what} of flow {} is not known: it is in no object in a namespace that an Environment trusts, and not in \
             the newest {depth} snapshots of each environment",
            query.flow
        )))
    }
}

/// The number of the newest snapshot. The name of an object may say anything, but one of more digits is not ours.
fn head(known: &EnvironmentInfo) -> Option<i64> {
    let (head, _) = known.head.get()?;
    Some(head.min(MAX_INDEX))
}

/// Which events of which snapshots are at these positions: the newest snapshot comes first, and its last event.
fn events_at(
    counts: &BTreeMap<i64, usize>,
    positions: Range<usize>,
) -> impl Iterator<Item = (i64, Range<usize>)> {
    let mut before = 0;
    counts.iter().rev().filter_map(move |(index, count)| {
        let start = positions.start.max(before) - before;
        let end = positions.end.clamp(before, before + count) - before;
        before += count;
        (start < end).then_some((*index, start..end))
    })
}

#[cfg(test)]
#[expect(
    clippy::disallowed_types,
    reason = "the API server is played by a router"
)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{
        Router,
        http::{StatusCode, Uri},
    };
    use kube::Client;
    use serde_json::json;

    use super::*;
    use crate::{simulation::testing, snapshot::log, web::testing::lookup};

    #[tokio::test]
    async fn a_snapshot_that_another_replica_has_just_appended_is_found_by_its_number() {
        let spec = |environment: &str, index| EnvironmentSnapshotSpec {
            environment: environment.to_owned(),
            environment_uid: "uid-of-prod".to_owned(),
            ..testing::snapshot(index, &[])
        };
        let stored: BTreeMap<String, _> = [
            (8, spec("prod", 8)),
            (9, spec("prod", 5)),
            (10, spec("test", 10)),
            (40, spec("prod", 40)),
        ]
        .map(|(index, spec)| (log::name("prod", index), spec))
        .into();
        let requests = Arc::<AtomicUsize>::default();
        let asked = requests.clone();
        let answers = async move |uri: Uri| {
            asked.fetch_add(1, Ordering::Relaxed);
            let name = uri.path().rsplit('/').next().unwrap_or_default();
            match stored.get(name) {
                Some(spec) => (
                    StatusCode::OK,
                    json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "EnvironmentSnapshot", "metadata": {"name": name}, "spec": spec}).to_string(),
                ),
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "none"}).to_string(),
                ),
            }
        };
        let client = Client::new(Router::new().fallback(answers), "default");
        let lookup = lookup(client, Some(7));
        let log = lookup.log_of("acme", "prod").unwrap();
        for (number, found, cost) in [
            ("7", true, 0),
            ("8", true, 1),
            ("9", false, 1),
            ("10", false, 1),
            ("11", false, 1),
            ("39", false, 1),
            ("40", false, 0),
            ("9999999999", false, 0),
            ("9223372036854775807", false, 0),
            ("0", false, 0),
        ] {
            let before = requests.load(Ordering::Relaxed);
            let index = lookup.index(&log, number).await;
            assert_eq!(index.is_ok(), found, "{number}");
            let asked = requests.load(Ordering::Relaxed) - before;
            assert_eq!(asked, cost, "{number}");
        }
    }

    #[test]
    fn a_page_of_events_is_in_the_snapshots_that_hold_its_positions() {
        let counts: BTreeMap<i64, usize> = [(5, 3), (6, 0), (7, 1), (8, 4)].into();
        for (positions, want) in [
            (0..1, vec![(8, 0..1)]),
            (3..5, vec![(8, 3..4), (7, 0..1)]),
            (4..8, vec![(7, 0..1), (5, 0..3)]),
            (6..7, vec![(5, 1..2)]),
            (0..100, vec![(8, 0..4), (7, 0..1), (5, 0..3)]),
            (8..10, vec![]),
            (2..2, vec![]),
        ] {
            let found: Vec<_> = events_at(&counts, positions.clone()).collect();
            assert_eq!(found, want, "{positions:?}");
        }
    }
}
