//! Decides what to do about an environment now: nothing, wait, or append what has settled.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::snapshot::{Cause, MAX_COMPLETED, MAX_IDENTITIES, MAX_WORKLOADS, ReadAt},
    cluster::{
        fleet::{Fleet, LearnedContainer, Workload},
        image::Fingerprint,
        pod_view::version,
        scope::Scope,
        watch_progress::WatchKind,
    },
    compliance::artifact_identity::IdentityResolver,
    snapshot::{
        assessment::{AssessmentState, Assessor},
        census::{Census, admits, cells_of},
        cut::{CutInput, Entry, Learned, learned_containers, that_fit},
        ledger::{CENSUS_VERSION, Cell, Identities, Ledger, Place},
        settle::{Comparison, SettleTimes, Unsettled, rests_at, rolling_until},
        state::{ClusterState, EnvironmentState, Frozen, FrozenReason, KnownLog, Plan},
        unrecorded::Unrecorded,
    },
    time::Moment,
};

/// How long to wait for a watch to catch up with the log before relisting. A bookmark may take a minute: to record nothing
/// for that long, each time another instance takes over, would be worse than a list.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long to wait between two cuts of an environment, at least and at most, unless the logs are too big: what settles at
/// about the same time is one entry, and whoever asks for settle times below this sees each change.
const CUT_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);
/// How many pods that are being deleted are looked at for the next one of an environment that may hang.
const LOOKED: usize = 100;

impl EnvironmentState {
    /// When the next cut may be.
    fn next_cut(&self) -> Option<Moment> {
        let pause_ends = self.last_cut? + self.pause();
        Some(pause_ends.max(self.write_rate.next()))
    }

    /// How long to wait after the last cut.
    fn pause(&self) -> Duration {
        let (shortest, longest) = CUT_INTERVALS.into_inner();
        let pause = match self.last_append <= shortest {
            true => self.settle.quiet.clamp(shortest, longest),
            false => longest, // the API server or the budget of writes is busy
        };
        pause.max(self.cut_interval)
    }
}

/// When the next pod of a scope may no longer count because it hangs, or earlier: whoever creates pods elsewhere must not make
/// it long to find.
fn next_hanging(
    census: &Census,
    scope: &Scope,
    fleet: &Fleet,
    settle: &SettleTimes,
    now: Moment,
    wall: Timestamp,
) -> Option<Moment> {
    let after = census.hanging().by.saturating_add(1);
    let mut pods = (0..).zip(fleet.pods_ending(after..u32::MAX));
    let next = pods.find(|(looked, (pod, _))| *looked >= LOOKED || admits(scope, fleet, pod));
    let ends = next.and_then(|(_, (pod, _))| pod.ends())?;
    let due = u64::from(ends) + settle.hangs_after().as_secs();
    let due = Timestamp::from_second(due.try_into().ok()?).ok()?;
    let wait = due.duration_since(wall).max(SignedDuration::ZERO);
    Some(now + wait.unsigned_abs())
}

impl ClusterState {
    /// What to do about an environment now.
    pub fn plan(&mut self, name: &str, now: Moment, wall: Timestamp) -> Plan {
        let Some(env) = self.environments.get(name) else {
            return Plan::Wait(None);
        };
        let unread = self.unread_pods_in(&env.scope);
        let wanted_unread = self.unread_pods_in(&env.wanted);
        let frozen = self.unknown_cluster(env, now);
        if let Some(frozen) = frozen.or_else(|| self.unknown_log(name, now)) {
            return Plan::Frozen(frozen);
        }
        let read_at = self.read_at(now);
        let pods = self.stream(WatchKind::Pods).version;
        let Some(env) = self.environments.get_mut(name) else {
            return Plan::Wait(None);
        };
        env.leave_out_hanging(&self.fleet, &self.evidence, pods, now, wall);
        if let Some(next_cut) = env.next_cut().filter(|next_cut| *next_cut > now) {
            let has_work = env.has_work(name, &self.evidence);
            let hanging =
                next_hanging(&env.census, &env.scope, &self.fleet, &env.settle, now, wall);
            let work = has_work.then_some(next_cut);
            return Plan::Wait(work.or(hanging.map(|hanging| hanging.max(next_cut))));
        }
        let resolver = IdentityResolver {
            evidence: &self.evidence,
            trust: &env.trust,
            recorded: &env.recorded,
        };
        let counted = unidentified(&env.census, unread, env.rules.is_some());
        let judged_unidentified = unidentified(&env.census, unread, true);
        let planner = Planner {
            wanted_unread,
            input: CutInput {
                environment: name,
                uid: &env.uid,
                census: &env.census,
                fleet: &self.fleet,
                assessor: Assessor {
                    environment: name,
                    rules: env.rules.as_ref(),
                    resolver,
                    census: &env.census,
                    unidentified: counted,
                },
                unidentified: counted,
                settle: &env.settle,
                read_at: &read_at,
                causes: if env.restored {
                    &[Cause::Restored]
                } else {
                    &[]
                },
                now,
                wall,
            },
            scope: &env.scope,
            wanted: &env.wanted,
            next_whole: env.write_rate.next_whole(),
            unsettled: &env.unsettled,
            unrecorded: &mut env.unrecorded,
            open_since: &mut env.open_since,
            unidentified_since: &mut env.unidentified_since,
            judged_unidentified,
            assessment: &mut env.assessment,
        };
        match &mut env.log {
            KnownLog::Unread => Plan::Wait(None),
            KnownLog::Blank(end, cause) => planner.baseline(end.as_deref(), *cause),
            KnownLog::Read(ledger, _) if ledger.census_version != CENSUS_VERSION => {
                planner.baseline(Some(ledger), Cause::RulesChanged)
            }
            KnownLog::Read(ledger, _) => planner.next(ledger),
        }
    }

    /// Why the log can't be continued now: it is not read, or has seen more of the cluster than we have.
    fn unknown_log(&mut self, name: &str, now: Moment) -> Option<Frozen> {
        let (ledger, read) = match &self.environments.get(name)?.log {
            KnownLog::Unread => {
                let why = "the environment's log is being read";
                return Some(FrozenReason::ReadingLog.because(why));
            }
            KnownLog::Blank(..) => return None,
            KnownLog::Read(ledger, read) => (ledger, *read),
        };
        let (behind, set_back) = self.behind(ledger, read, now);
        if behind.is_empty() {
            self.environments.get_mut(name)?.restored |= set_back;
            return None;
        }
        let kinds = names(&behind);
        let message = if now < read + CATCH_UP {
            format!("waiting for the {kinds} to reach what the log has seen")
        } else {
            for kind in behind {
                self.want_relist(kind);
            }
            format!("reading the {kinds} again")
        };
        Some(FrozenReason::CatchingUp.because(message))
    }

    /// Why the state of the cluster is not known now.
    fn unknown_cluster(&self, env: &EnvironmentState, now: Moment) -> Option<Frozen> {
        let mut kinds = WatchKind::ALL.into_iter();
        if let Some(kind) = kinds.find(|kind| kind.decides() && self.stream(*kind).awaited) {
            let why = self.stream(kind).trouble.as_deref();
            let kind = kind.as_str();
            let message = match why {
                None => format!(
                    "the cluster's store was set back to an older state; the {kind} are being listed again"
                ),
                Some(why) => format!(
                    "the cluster's store was set back to an older state; the {kind} can't be listed again: {why}"
                ),
            };
            return Some(FrozenReason::NotSynced.because(message));
        }
        let needs_namespaces = env.wanted.needs_namespaces() || env.scope.needs_namespaces();
        let needed = [
            Some(WatchKind::Pods),
            needs_namespaces.then_some(WatchKind::Namespaces),
            Some(WatchKind::Environments),
        ];
        // Without evidence every image would seem to lack provenance, and what is deleted would go on to count.
        let mut needed = needed.into_iter().flatten().chain(WatchKind::EVIDENCE);
        needed
            .find_map(|kind| self.unknown_kind(kind, now))
            .or_else(|| self.evidence_of_before())
    }

    /// Whether evidence is not known as the replica that led before may have known it.
    fn evidence_of_before(&self) -> Option<Frozen> {
        let begun = |kind| self.stream(kind).list_begun.unwrap_or_default();
        let mut kinds = WatchKind::EVIDENCE.into_iter();
        let kind = kinds.find(|kind| begun(*kind) < self.leads_since)?;
        let name = kind.as_str();
        let message =
            format!("the {name} are being listed again, as another replica led before this one");
        Some(FrozenReason::CatchingUp.because(message))
    }

    fn unknown_kind(&self, kind: WatchKind, now: Moment) -> Option<Frozen> {
        let stream = self.stream(kind);
        let name = kind.as_str();
        if !stream.synced {
            let why = match &stream.trouble {
                None => format!("the {name} are being listed"),
                Some(why) => format!("the {name} can't be listed: {why}"),
            };
            return Some(FrozenReason::NotSynced.because(why));
        }
        if stream.is_good(now) {
            return None;
        }
        let why = stream.trouble.as_deref().unwrap_or("reconnecting");
        let message = format!("the watch of {name} has been silent for too long: {why}");
        Some(FrozenReason::WatchStale.because(message))
    }

    /// The kinds of which less has been read than the log has seen, and whether others were set back to before that.
    fn behind(&self, ledger: &Ledger, head_read: Moment, now: Moment) -> (Vec<WatchKind>, bool) {
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
        (kinds, set_back)
    }

    fn read_at(&self, now: Moment) -> ReadAt {
        let read_at = |kind| {
            let stream = Some(self.stream(kind)).filter(|stream| stream.is_good(now));
            stream.map_or(String::new(), |stream| stream.version.to_string())
        };
        ReadAt {
            pods: read_at(WatchKind::Pods),
            deployments: read_at(WatchKind::Deployments),
            namespaces: read_at(WatchKind::Namespaces),
        }
    }
}

/// Plans the next entries of a log that can be written.
struct Planner<'a> {
    /// How many pods of the scope that the spec asks for could never be read.
    wanted_unread: usize,
    input: CutInput<'a>,
    /// The scope that is counted.
    scope: &'a Scope,
    /// The scope that the spec asks for.
    wanted: &'a Scope,
    /// When a change may be recorded that takes the whole state.
    next_whole: Moment,
    unsettled: &'a Unsettled,
    unrecorded: &'a mut Unrecorded,
    open_since: &'a mut BTreeMap<Arc<Workload>, (Timestamp, Moment)>,
    /// Since when there is something that rules judge as unidentified, though the log has none; or none any more. Also known
    /// without rules, which may be added.
    unidentified_since: &'a mut Option<Moment>,
    /// How much that is, with rules or not.
    judged_unidentified: i64,
    assessment: &'a mut AssessmentState,
}

impl Planner<'_> {
    fn baseline(self, before: Option<&Ledger>, cause: Cause) -> Plan {
        let input = self.input;
        Plan::Append(input.baseline(before, self.scope, cause, self.assessment))
    }

    /// What comes after `ledger`: the effect of timers that ran out, else what has settled, else a wait.
    fn next(mut self, ledger: &mut Arc<Ledger>) -> Plan {
        self.assessment.resume(self.input.census);
        let steady = self.wait_for_identities(ledger);
        if let Some(entries) = self.input.timers(ledger, self.assessment) {
            return Plan::Append(entries);
        }
        let input = self.input;
        let (fleet, settle, now) = (input.fleet, input.settle, input.now);
        let (completed, closing) = self.close_rollouts(ledger);
        let rescoped = self.scope != self.wanted;
        let comparison = Comparison {
            census: input.census,
            ledger,
            fleet,
            settle,
            now,
        };
        let settled = self.unsettled.settled(comparison, input.wall);
        let mut cells = settled.cells;
        let whole = self.postpone_whole(&mut cells);
        if rescoped {
            // Changes under the old scope are recorded before what the new scope holds counts as known.
            cells = self.unsettled.dirty().keys().cloned().collect();
        }
        let resolver = &input.assessor.resolver;
        let (identities, more) = identities(ledger, input.census, resolver, &cells);
        if more {
            cells.clear(); // an artifact that is renamed later would look as if it had stopped
        }
        let late = (!more).then(|| self.find_late(ledger, &cells)).flatten();
        let ruled = input.assessor.rules.is_some();
        let containers = unwritten_containers(ledger, input.census, resolver, ruled, &cells);
        let learned = Learned {
            containers: that_fit(containers, identities.len()),
            identities,
            completed,
        };
        let entries = self.record(ledger, &cells, &learned);
        if rescoped {
            return Plan::Append(self.rescope(ledger, entries));
        }
        if let Some(entries) = entries {
            return Plan::Append(entries);
        }
        let timer = self.next_timer(ledger);
        let hanging = next_hanging(
            input.census,
            self.scope,
            input.fleet,
            input.settle,
            now,
            input.wall,
        );
        let waits = [settled.next, closing, steady, timer, hanging, late, whole];
        Plan::Wait(waits.into_iter().flatten().min())
    }

    /// Leaves out the artifacts that change in more workloads than an entry holds, if that would make the log grow too fast:
    /// their changes wait, and nothing else. Returns until when.
    fn postpone_whole(&self, cells: &mut BTreeSet<Cell>) -> Option<Moment> {
        if self.next_whole <= self.input.now {
            return None;
        }
        let mut workloads: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for cell in &*cells {
            *workloads.entry(cell.fingerprint).or_insert(0) += 1;
        }
        let before = cells.len();
        cells.retain(|cell| workloads[&cell.fingerprint] <= MAX_WORKLOADS);
        (cells.len() < before).then_some(self.next_whole)
    }

    /// Forgets rollouts that were recorded before they were over and are over now: further changes of their workloads are
    /// new. Returns those whose end has to be recorded, and when the next may be over. Without revisions nothing shows that it
    /// is over but its next change. None is open for longer than a rollout may take, though its end may be written under a
    /// clock that was ahead.
    fn close_rollouts(&mut self, ledger: &mut Arc<Ledger>) -> (Vec<Arc<Workload>>, Option<Moment>) {
        let CutInput {
            fleet,
            settle,
            now,
            wall,
            ..
        } = self.input;
        let input = self.input;
        let patience = input.patience(now);
        let (mut expired, mut completed) = (vec![], vec![]);
        let mut next: Option<Moment> = None;
        self.open_since
            .retain(|workload, _| ledger.rollouts.contains_key(workload));
        for (workload, until) in &ledger.rollouts {
            let open = self.open_since.entry(workload.clone());
            let (known, since) = open.or_insert((*until, now));
            if known != until {
                (*known, *since) = (*until, now);
            }
            let longest = *since + settle.rollout;
            if wall < *until && longest <= now && !self.unsettled.has(workload) {
                completed.push(workload.clone());
                continue;
            }
            let is_ahead = SignedDuration::try_from(settle.rollout)
                .is_ok_and(|rollout| until.duration_since(wall) > rollout);
            if is_ahead && longest > now {
                next = Some(next.map_or(longest, |next| next.min(longest)));
            }
            let state = fleet.workload(workload);
            let several = cells_of(ledger.cells(), workload).nth(1).is_some();
            let shows_nothing = several && !ledger.resting.contains(workload);
            if shows_nothing && state.is_some_and(|state| !state.has_revisions()) && wall < *until {
                continue;
            }
            let over = state.map_or(now, |state| {
                let rolling = rolling_until(state, settle, patience.hanging);
                let waits_until = rolling.max(patience.restless_until(state));
                rests_at(state, settle).max(waits_until.unwrap_or_default())
            });
            if wall >= *until {
                expired.push(workload.clone());
            } else if over <= now && !self.unsettled.has(workload) {
                completed.push(workload.clone());
            } else if over > now {
                next = Some(next.map_or(over, |next| next.min(over)));
            }
        }
        completed.truncate(MAX_COMPLETED);
        let closed: BTreeSet<_> = expired.iter().chain(&completed).collect();
        if !closed.is_empty() {
            let ledger = Arc::make_mut(ledger);
            ledger
                .rollouts
                .retain(|workload, _| !closed.contains(workload));
        }
        (completed, next)
    }

    /// Finds what runs, should have been recorded by now and is not recorded now either: it has to be judged all the same.
    /// Returns when there may be more of that.
    fn find_late(&mut self, ledger: &Ledger, recorded: &BTreeSet<Cell>) -> Option<Moment> {
        let CutInput { now, wall, .. } = self.input;
        self.unrecorded.tidy(ledger);
        if self.input.assessor.rules.is_none() {
            self.assessment.set_late(BTreeMap::new());
            return None;
        }
        // What does not meet the rules must not seem to meet them for a while after a restart.
        let lacks = |it: &Fingerprint| ledger.lacks(*it);
        let (late, next) = self.unrecorded.late(self.input.settle.max, lacks, now);
        let recorded: BTreeSet<Place> = recorded.iter().map(Cell::place).collect();
        let late = late
            .into_iter()
            .filter(|(place, _)| !recorded.contains(place));
        let since = |first: Moment| {
            let passed = SignedDuration::try_from(now.saturating_sub(first));
            let passed = passed.unwrap_or(SignedDuration::MAX);
            wall.checked_sub(passed).unwrap_or(Timestamp::MIN)
        };
        let late = late.map(|(place, first)| (place, since(first)));
        self.assessment.set_late(late.collect());
        next
    }

    /// Until when to wait before recording that there are unidentified containers now, or none any more. That may be
    /// temporary: a container that has just started is often identified a moment later.
    fn wait_for_identities(&mut self, ledger: &Ledger) -> Option<Moment> {
        let input = &mut self.input;
        if (self.judged_unidentified > 0) == (ledger.unidentified > 0) {
            *self.unidentified_since = None;
            return None;
        }
        let since = *self.unidentified_since.get_or_insert(input.now);
        let until = since + input.settle.max;
        if input.assessor.rules.is_none() || input.now >= until {
            return None;
        }
        input.unidentified = ledger.unidentified;
        Some(until)
    }

    /// The entries that record these cells and what was learned. An assessment copies all that is recorded, so it is made only if
    /// there may be something.
    fn record(
        &mut self,
        ledger: &Ledger,
        cells: &BTreeSet<Cell>,
        learned: &Learned,
    ) -> Option<Vec<Entry>> {
        let input = &self.input;
        let unidentified =
            input.assessor.rules.is_some() && input.unidentified != ledger.unidentified;
        let may_differ = unidentified
            || !cells.is_empty()
            || !learned.is_nothing()
            || self.assessment.has_work();
        may_differ
            .then(|| input.record(ledger, self.unsettled, cells, learned, self.assessment))
            .flatten()
    }

    /// These entries, and a baseline of the new scope after them.
    fn rescope(self, ledger: &Ledger, entries: Option<Vec<Entry>>) -> Vec<Entry> {
        let input = self.input;
        let census = &Census::of(
            self.wanted,
            input.fleet,
            &input.assessor.resolver,
            input.census.hanging().clone(),
        );
        let ruled = input.assessor.rules.is_some();
        let unidentified = unidentified(census, self.wanted_unread, ruled);
        let scoped = CutInput {
            census,
            assessor: Assessor {
                census,
                unidentified,
                ..input.assessor
            },
            unidentified,
            ..input
        };
        let mut entries = entries.unwrap_or_default();
        let end = entries.last().map_or(ledger, |entry| &entry.after);
        let cause = Cause::ScopeChanged;
        let baseline = scoped.baseline(Some(end), self.wanted, cause, self.assessment);
        entries.extend(baseline);
        entries
    }

    fn next_timer(&self, ledger: &Ledger) -> Option<Moment> {
        let input = &self.input;
        let evidence = input.assessor.resolver.evidence;
        let timer =
            self.assessment
                .next_timer(input.environment, ledger, evidence, input.census)?;
        let wait = timer.duration_since(input.wall).max(SignedDuration::ZERO);
        Some(input.now + wait.unsigned_abs())
    }
}

/// The containers that can't be identified, with rules also those that are not counted, and the pods that could never be
/// read: nobody knows what runs in them.
pub(super) fn unidentified(census: &Census, unread: usize, ruled: bool) -> i64 {
    let containers = if ruled {
        census.unidentified_in_all()
    } else {
        census.unidentified()
    };
    i64::try_from(containers + unread).unwrap_or(i64::MAX)
}

/// Joins the names of kinds.
fn names(kinds: &[WatchKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    names.join(" and ")
}

/// Other digests that are not in the log yet, of what is recorded or is to be recorded now: as many as an entry can hold, and
/// whether there are more recorded artifacts with another canonical digest.
pub(super) fn identities(
    ledger: &Ledger,
    census: &Census,
    resolver: &IdentityResolver,
    cells: &BTreeSet<Cell>,
) -> (Identities, bool) {
    let pair = |digest| (digest, resolver.canonical(digest));
    let recorded = ledger.artifacts().map(|(digest, _)| pair(*digest));
    let mut renamed = recorded.filter(|(digest, known)| digest != known);
    let mut found: BTreeMap<_, _> = renamed.by_ref().take(MAX_IDENTITIES).collect();
    if renamed.next().is_some() {
        return (found, true);
    }
    let mut next: BTreeSet<_> = found.values().copied().collect();
    next.extend(cells.iter().map(|cell| cell.fingerprint));
    let is_recorded = |it: &Fingerprint| ledger.total(it) > 0 || next.contains(it);
    let unknown = census
        .aliases()
        .filter(|alias| !ledger.identities.contains_key(alias))
        .map(pair)
        .filter(|(alias, known)| alias != known && is_recorded(known) && census.total(known) > 0);
    let room = MAX_IDENTITIES - found.len();
    found.extend(unknown.take(room));
    (found, false)
}

/// What was learned of running containers and is not in the log yet. Without rules only of what is recorded, or is to be
/// recorded now.
pub(super) fn unwritten_containers<'a>(
    ledger: &'a Ledger,
    census: &'a Census,
    resolver: &'a IdentityResolver,
    ruled: bool,
    cells: &BTreeSet<Cell>,
) -> impl Iterator<Item = (u64, LearnedContainer)> + 'a {
    let next: BTreeSet<Fingerprint> = cells.iter().map(|cell| cell.fingerprint).collect();
    let is_recorded = move |it: &Fingerprint| ledger.total(it) > 0 || next.contains(it);
    let learned = learned_containers(census, resolver, ruled, is_recorded);
    let is_known = |(id, it): &(u64, LearnedContainer)| {
        let known = ledger.containers.get(id);
        known.is_some_and(|known| known.tells(it))
    };
    learned.filter(move |it| !is_known(it))
}
