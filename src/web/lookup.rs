#![expect(clippy::disallowed_methods, reason = "asks for the time")]

//! Finds what a path of the read API names: environments, snapshots, and what belongs to a flow.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use crate::{
    api::{EnvironmentSnapshotSpec, environment::EnvironmentId},
    cluster::fleet::Fleet,
    message::installation::Installation,
    snapshot::{
        environments::{EnvironmentInfo, Environments},
        log::SnapshotLog,
        shared_state::SharedState,
        state::ClusterState,
    },
    web::{
        error_response::Refusal,
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
/// How many of them are read at once.
const AT_ONCE: usize = 8;

/// Where everything is looked up.
#[derive(Clone)]
pub(crate) struct Lookup {
    pub(crate) state: Arc<SharedState>,
    pub(crate) log: SnapshotLog,
    pub(crate) environments: Arc<Environments>,
    pub(crate) installation: Arc<Installation>,
}

/// The log of an environment that has a snapshot.
pub(crate) struct LogOf {
    environment: EnvironmentId,
    head: i64,
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
        let (head, _) = known.head.get().ok_or_else(none)?;
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
            SnapshotExpression::At(time) => {
                let entries = self.log.entries(&log.environment).await?;
                let created_by_then = entries.iter().filter(|entry| entry.created <= time);
                created_by_then.map(|entry| entry.index).max().unwrap_or(0)
            }
        };
        if (1..=log.head).contains(&index) {
            return Ok(index);
        }
        let LogOf { environment, head } = log;
        let name = &environment.name;
        Err(Refusal::not_found(format!(
            "the newest snapshot of {name} is {head}"
        )))
    }

    /// A snapshot with everything that runs after it.
    pub(crate) async fn snapshot(&self, log: &LogOf, index: i64) -> Result<SnapshotView, Refusal> {
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
        Ok(snapshot::snapshot(&self.installation, &spec, &after, next))
    }

    /// The numbers of all snapshots, the newest first.
    pub(crate) async fn indexes(&self, log: &LogOf) -> Result<Vec<i64>, Refusal> {
        let entries = self.log.entries(&log.environment).await?;
        Ok(entries.iter().rev().map(|entry| entry.index).collect())
    }

    /// Snapshots as a list shows them. `newest`: the newest that the list has.
    pub(crate) async fn lines(
        &self,
        log: &LogOf,
        indexes: Vec<i64>,
        newest: i64,
    ) -> Result<Vec<SnapshotLineView>, Refusal> {
        let now = Timestamp::now();
        let mut lines = vec![];
        for index in indexes {
            let spec = self.entry(log, index).await?;
            let next = self.next_time(log, index, newest).await?;
            lines.push(snapshot::line(&spec, next, now));
        }
        Ok(lines)
    }

    /// The events of one snapshot, the last first.
    pub(crate) async fn events(&self, log: &LogOf, index: i64) -> Result<Vec<EventView>, Refusal> {
        let spec = self.entry(log, index).await?;
        Ok(snapshot::events(&self.installation, &spec))
    }

    /// The events of all snapshots, the last first.
    pub(crate) async fn all_events(&self, log: &LogOf) -> Result<Vec<EventView>, Refusal> {
        let entries = self.log.entries(&log.environment).await?;
        let first = entries.first().map_or(log.head, |entry| entry.index);
        let mut all = vec![];
        for index in (first..=log.head).rev() {
            if let Some(spec) = self.log.read(&log.environment, index).await? {
                all.extend(snapshot::events(&self.installation, &spec));
            }
        }
        Ok(all)
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
        for (environment, known) in known.iter() {
            let found = self.search(&query, environment, known, depth).await?;
            if let Some(answer) = found {
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

    /// Searches the newest `depth` entries of one log.
    async fn search(
        &self,
        query: &FlowQuery,
        environment: &str,
        known: &EnvironmentInfo,
        depth: i64,
    ) -> Result<Option<FlowAnswer>, Refusal> {
        let environment = known.id(environment);
        let head = known.head.get().map_or(0, |(head, _)| head);
        let newest = (1..=head).rev().take(usize::try_from(depth).unwrap_or(1));
        let entries = stream::iter(newest)
            .map(|index| self.log.read_uncached(&environment, index))
            .buffered(AT_ONCE);
        let mut entries = pin!(entries);
        while let Some(Some(spec)) = entries.try_next().await? {
            let mut logged = LoggedProvenance::in_entry(&spec);
            if let Some(logged) = logged.find(|logged| query.is_answered_by(logged)) {
                let answer = |state: &mut ClusterState, _| {
                    query.answer_by(&self.installation, state, &logged)
                };
                return Ok(self.state.with(answer));
            }
        }
        Ok(None)
    }
}
