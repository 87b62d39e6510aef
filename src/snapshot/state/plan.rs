//! What to do about an environment now: nothing, wait, or append what is ripe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::snapshot::{Cause, MAX_IDENTITIES, ReadAt},
    cluster::{
        fleet::Fleet,
        pod_view::version,
        stream::{StreamState, WatchKind},
    },
    compliance::{evidence::EvidenceKind, identity::IdentityResolver},
    snapshot::{
        assessment::Assessor,
        census::Census,
        cut::{CutInput, PendingEntries},
        ledger::{CENSUS_VERSION, Cell, Identities, Ledger},
        settle::{Settle, Unsettled, restless_until, rests_at, rolling_until},
        state::{ClusterState, EnvironmentState, KnownLog, Plan},
    },
    time::Moment,
};

/// So long we wait for a stream to reach what the log has seen; then a new list settles it. A bookmark may take a minute:
/// not to record anything for that long, after each change of the one who writes, would be worse than a list.
const BEHIND: Duration = Duration::from_secs(10);
/// At most one cut of an environment in this time.
const CUT_INTERVAL: Duration = Duration::from_secs(1);

impl ClusterState {
    /// What to do about an environment now.
    pub fn plan(&mut self, name: &str, now: Moment, wall: Timestamp) -> Plan {
        let Some(env) = self.environments.get(name) else {
            return Plan::Wait(None);
        };
        if let Some((reason, message)) = self.frozen(env, now) {
            return Plan::Frozen(reason, message);
        }
        let behind = match &env.log {
            KnownLog::Unread => {
                return Plan::Frozen(
                    "ReadingLog",
                    "the environment's log is being read".to_owned(),
                );
            }
            KnownLog::Blank(..) => None,
            KnownLog::Read(ledger, read) => Some(self.behind(ledger, *read, now)),
        };
        if let Some(behind) = behind {
            match behind {
                Behind::No { set_back } => {
                    if let Some(env) = self.environments.get_mut(name) {
                        env.restored |= set_back;
                    }
                }
                Behind::Wait { until, kinds } if now < until => {
                    let waits = format!(
                        "waiting for the {} to reach what the log has seen",
                        names(&kinds)
                    );
                    return Plan::Frozen("CatchingUp", waits);
                }
                Behind::Wait { kinds, .. } => {
                    for kind in &kinds {
                        self.want_relist(*kind);
                    }
                    let reads = format!("reading the {} anew", names(&kinds));
                    return Plan::Frozen("CatchingUp", reads);
                }
            }
        }
        let read_at = self.read_at(now);
        let Some(env) = self.environments.get_mut(name) else {
            return Plan::Wait(None);
        };
        if let Some(last) = env
            .last_cut
            .map(|last| last + CUT_INTERVAL)
            .filter(|at| *at > now)
        {
            return if env.has_work(name, &self.fleet, &self.evidence) {
                Plan::Wait(Some(last))
            } else {
                Plan::Wait(None)
            };
        }
        let causes: &[Cause] = if env.restored {
            &[Cause::Restored]
        } else {
            &[]
        };
        let names = IdentityResolver {
            fleet: &self.fleet,
            evidence: &self.evidence,
            trust: &env.trust,
            recorded: &env.recorded,
        };
        let assessor = Assessor {
            environment: name,
            rules: env.rules.as_ref(),
            names,
            census: &env.census,
        };
        let mut material = CutInput {
            environment: name,
            uid: &env.uid,
            census: &env.census,
            fleet: &self.fleet,
            assessor,
            unidentified: i64::try_from(env.census.unidentified()).unwrap_or(i64::MAX),
            settle: &env.settle,
            read_at: &read_at,
            causes,
            now,
            wall,
        };
        let docket = &mut env.docket;
        let draft = match &mut env.log {
            KnownLog::Unread => return Plan::Wait(None),
            KnownLog::Blank(end, cause) => {
                material.baseline(end.as_deref(), &env.scope, *cause, docket)
            }
            KnownLog::Read(ledger, _) => {
                if ledger.census_version != CENSUS_VERSION {
                    let cause = Cause::RulesChanged;
                    let draft = material.baseline(Some(ledger), &env.scope, cause, docket);
                    return Plan::Append(Box::new(draft));
                }
                let nameless = (material.unidentified > 0, ledger.unidentified > 0);
                let mut steady = None;
                if env.rules.is_some() && nameless.0 != nameless.1 {
                    // It may pass: a container that has just started is often known by its image a moment later.
                    let since = *env.nameless_since.get_or_insert(now);
                    if now < since + env.settle.max {
                        steady = Some(since + env.settle.max);
                        material.unidentified = ledger.unidentified;
                    }
                } else {
                    env.nameless_since = None;
                }
                if let Some(draft) = material.timers(ledger, docket) {
                    return Plan::Append(Box::new(draft));
                }
                let closing =
                    close_rollouts(ledger, &env.unsettled, &self.fleet, &env.settle, now, wall);
                let rescoped = env.scope != env.wanted;
                let ripe = env
                    .unsettled
                    .ripe(&env.census, ledger, &self.fleet, &env.settle, now);
                let mut cells = ripe.cells;
                if rescoped {
                    // What changed under the old scope is told before the new scope counts as known.
                    cells = env.unsettled.dirty().keys().cloned().collect();
                }
                let (identities, more) = identities(ledger, &env.census, &names, &cells);
                if more {
                    cells.clear(); // what is renamed later would look as if it had stopped
                }
                // Looked at only if there may be something: it takes a copy of all that is recorded.
                let nameless = env.rules.is_some() && material.unidentified != ledger.unidentified;
                let looks = !cells.is_empty() || !identities.is_empty() || docket.has_work();
                let draft = (looks || nameless)
                    .then(|| material.record(ledger, &env.unsettled, &cells, &identities, docket))
                    .flatten();
                if rescoped {
                    let census = &Census::of(&env.wanted, &names);
                    let end = draft.as_ref().and_then(|draft| draft.entries.last());
                    let end = end.map_or(&**ledger, |entry| &entry.after);
                    let assessor = Assessor { census, ..assessor };
                    let unidentified = i64::try_from(census.unidentified()).unwrap_or(i64::MAX);
                    let scoped = CutInput {
                        census,
                        assessor,
                        unidentified,
                        ..material
                    };
                    let cause = Cause::ScopeChanged;
                    let baseline = scoped.baseline(Some(end), &env.wanted, cause, docket);
                    let mut entries = draft.map(|draft| draft.entries).unwrap_or_default();
                    entries.extend(baseline.entries);
                    PendingEntries {
                        entries,
                        ..baseline
                    }
                } else if let Some(draft) = draft {
                    draft
                } else {
                    let timer = docket.next_timer(name, ledger, &self.evidence);
                    let timer = timer.map(|at| {
                        let wait = at.duration_since(wall).max(SignedDuration::ZERO);
                        now + wait.unsigned_abs()
                    });
                    return Plan::Wait(
                        [ripe.next, closing, steady, timer]
                            .into_iter()
                            .flatten()
                            .min(),
                    );
                }
            }
        };
        Plan::Append(Box::new(draft))
    }

    /// Why nothing can be said of an environment now. It must never look as if everything had stopped.
    fn frozen(&self, env: &EnvironmentState, now: Moment) -> Option<(&'static str, String)> {
        let mut needed = vec![WatchKind::Pods];
        if env.wanted.needs_namespaces() || env.scope.needs_namespaces() {
            needed.push(WatchKind::Namespaces);
        }
        let unlisted = EvidenceKind::ALL
            .into_iter()
            .find(|kind| !self.listed_evidence.contains(kind));
        let watched = needed.into_iter().find_map(|kind| {
            let stream = self.stream(kind);
            let name = kind.as_str();
            let why = stream.trouble.clone();
            match (stream.synced, stream.is_good(now)) {
                (true, true) => None,
                (true, false) => Some((
                    "WatchStale",
                    format!(
                        "the watch of {name} has been silent for too long: {}",
                        why.unwrap_or_else(|| "reconnecting".to_owned())
                    ),
                )),
                (false, _) => Some((
                    "NotSynced",
                    why.unwrap_or_else(|| format!("the {name} are being listed")),
                )),
            }
        });
        watched.or_else(|| {
            // Without them everything would look as if nobody knew where it comes from.
            let kind = unlisted?;
            let why = self.evidence_trouble.get(&kind).cloned();
            let why = why.unwrap_or_else(|| format!("the {} are being listed", kind.as_str()));
            Some(("NotSynced", why))
        })
    }

    /// Whether what has been read is older than what the log has seen.
    fn behind(&self, ledger: &Ledger, head_read: Moment, now: Moment) -> Behind {
        let mut set_back = false;
        let mut kinds = vec![];
        let seen = [
            (WatchKind::Pods, &ledger.read_at.pods),
            (WatchKind::Deployments, &ledger.read_at.deployments),
            (WatchKind::Namespaces, &ledger.read_at.namespaces),
        ];
        for (kind, seen) in seen {
            let stream = self.stream(kind);
            if seen.is_empty() || !stream.is_good(now) || stream.version >= version(seen) {
                continue;
            }
            if kind == WatchKind::Namespaces && !ledger.scope.needs_namespaces() {
                continue;
            }
            // A quorum list that began after the head was read is new enough, whatever its number.
            if stream.list_begun.is_some_and(|begun| begun >= head_read) {
                set_back = true;
            } else {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            Behind::No { set_back }
        } else {
            Behind::Wait {
                until: head_read + BEHIND,
                kinds,
            }
        }
    }

    fn read_at(&self, now: Moment) -> ReadAt {
        let of = |stream: &StreamState| {
            if stream.is_good(now) {
                stream.version.to_string()
            } else {
                String::new()
            }
        };
        ReadAt {
            pods: of(&self.pods),
            deployments: of(&self.deployments),
            namespaces: of(&self.namespaces),
        }
    }
}

enum Behind {
    No {
        set_back: bool,
    },
    Wait {
        until: Moment,
        kinds: Vec<WatchKind>,
    },
}

/// The names of kinds, for people.
fn names(kinds: &[WatchKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    names.join(" and ")
}

/// Other digests that the log doesn't know of yet, of what is recorded or is to be recorded now: as many as an entry can
/// hold, and whether more of what is recorded goes by another digest.
pub(super) fn identities(
    ledger: &Ledger,
    census: &Census,
    names: &IdentityResolver,
    cells: &BTreeSet<Cell>,
) -> (Identities, bool) {
    let pair = |digest| (digest, names.canonical(digest));
    let sourced = |(digest, known)| (digest, (known, names.source(digest, known)));
    let recorded = || ledger.artifacts().map(|(digest, _)| pair(*digest));
    let mut renamed = recorded().filter(|(digest, known)| digest != known);
    let mut found: BTreeMap<_, _> = renamed.by_ref().take(MAX_IDENTITIES).map(sourced).collect();
    if renamed.next().is_some() {
        return (found, true);
    }
    let soon = cells.iter().map(|cell| cell.fingerprint);
    let told: BTreeSet<_> = recorded().map(|(_, known)| known).chain(soon).collect();
    let unknown = census
        .aliases()
        .filter(|alias| !ledger.identities.contains_key(alias))
        .map(pair)
        .filter(|(_, known)| told.contains(known) && census.total(known) > 0)
        .map(sourced);
    let room = MAX_IDENTITIES - found.len();
    found.extend(unknown.take(room));
    (found, false)
}

/// Forgets rollouts that were recorded half-way and are over: what their workloads do now is news. When the next may be.
fn close_rollouts(
    ledger: &mut Arc<Ledger>,
    unsettled: &Unsettled,
    fleet: &Fleet,
    settle: &Settle,
    now: Moment,
    wall: Timestamp,
) -> Option<Moment> {
    let mut closed = vec![];
    let mut next: Option<Moment> = None;
    for (workload, until) in &ledger.rollouts {
        let over = fleet.workload(workload).map_or(now, |state| {
            let held = rolling_until(state, settle).max(restless_until(state, settle));
            rests_at(state, settle).max(held.unwrap_or_default())
        });
        if wall >= *until || (over <= now && !unsettled.has(workload)) {
            closed.push(workload.clone());
        } else if over > now {
            next = Some(next.map_or(over, |next| next.min(over)));
        }
    }
    if !closed.is_empty() {
        let ledger = Arc::make_mut(ledger);
        ledger
            .rollouts
            .retain(|workload, _| !closed.contains(workload));
    }
    next
}
