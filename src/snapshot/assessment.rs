//! Assesses an environment: which artifacts comply, what changed on its allow-list, and whether the environment complies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        EventType,
        compliance::ComplianceState,
        cut_to_schema::{self, cut_to_schema},
        snapshot::{
            AllowListChange, AllowListState, Allowed, Cause, Compliance, Provenance,
            UncountedArtifact, Verdict, VerdictReason,
        },
    },
    cluster::{
        fleet::{TrustedContainer, TrustedDigests},
        image::{Fingerprint, display_name},
    },
    compliance::{
        artifact_identity::IdentityResolver,
        artifact_rules::{ArtifactInput, ArtifactRules, ArtifactVerdict, CONTAINERS, evaluate},
        environment_compliance::{ComplianceInput, step},
        evidence::{Allowance, DeploymentRecord, Evidence},
    },
    snapshot::{
        census::Census,
        ledger::{ArtifactFacts, Ledger, Place},
        reasons,
    },
};

/// At most how many deployments and reviews are embedded, the newest first.
const NOTES: usize = 10;
/// Of how many images that are not counted an entry says since when they have not met the rules.
const UNCOUNTED: usize = 100;
/// What has no entry among so many that are younger than that may have had one: it has no grace. Each namespace has its share of
/// them, or those of one would take the grace of those of another.
const LATELY: SignedDuration = SignedDuration::from_hours(24);
/// At most how many changes of the allow-list fit into one entry; the rest follows in the next.
const ALLOWED: usize = 500;

/// What an assessment needs.
#[derive(Clone, Copy, Debug)]
pub struct Assessor<'a> {
    pub environment: &'a str,
    pub rules: Option<&'a ArtifactRules>,
    /// Resolves its digests, and has the evidence.
    pub resolver: IdentityResolver<'a>,
    /// What runs, with the digests by which containers are known.
    pub census: &'a Census,
    /// How many running containers can't be identified, and pods can't be read.
    pub unidentified: i64,
}

/// The facts about the artifacts of an environment: those of the log, updated by what was assessed since.
#[derive(Clone, Debug, Default)]
pub struct AssessmentState {
    facts: BTreeMap<Fingerprint, ArtifactFacts>,
    /// Artifacts that have to be assessed again.
    stale: BTreeSet<Fingerprint>,
    /// Artifacts that are recorded and did not run when all was assessed last: they were left out.
    postponed: BTreeSet<Fingerprint>,
    /// All have to be assessed again.
    all_stale: bool,
    policy_edited: bool,
    /// The allow-list may have changed.
    allow_list: bool,
    /// When the environment's state may change without anything else happening.
    pending: Option<Timestamp>,
    /// What runs, should have been recorded by now and is not, because it never settles; and when it was seen first.
    late: BTreeMap<Place, Timestamp>,
    /// What runs, is not recorded and does not meet the rules.
    uncounted: Vec<UncountedFinding>,
    /// When something expires on which the compliance of what is not recorded depends.
    uncounted_until: Option<Timestamp>,
}

/// An artifact that runs, is not counted or recorded late, and does not meet the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct UncountedFinding {
    pub fingerprint: Fingerprint,
    pub name: String,
    /// That of its namespaces among whose images it is remembered.
    namespace: String,
    /// There is no room for it.
    crowded: bool,
    pub verdict: Verdict,
}

impl AssessmentState {
    /// Begins with the facts of the log; all of them have to be assessed again.
    pub fn of(ledger: &Ledger) -> Self {
        Self {
            facts: ledger.facts.clone(),
            all_stale: true,
            allow_list: true,
            pending: ledger.compliance.pending_until,
            ..Self::default()
        }
    }

    /// Artifacts with these digests have to be assessed again.
    pub fn touch(&mut self, digests: impl IntoIterator<Item = Fingerprint>) {
        self.stale.extend(digests);
    }

    /// The rules or the trusted namespaces changed.
    pub fn rules_edited(&mut self) {
        (self.all_stale, self.policy_edited) = (true, true);
    }

    /// Everything has to be assessed again.
    pub fn touch_all(&mut self) {
        self.all_stale = true;
    }

    /// The allow-list changed.
    pub fn allow_list_changed(&mut self) {
        self.allow_list = true;
    }

    /// Sets what runs, should have been recorded by now and is not; and when it was seen first.
    pub fn set_late(&mut self, mut late: BTreeMap<Place, Timestamp>) {
        for (place, first) in &mut late {
            match self.late.get(place) {
                Some(known) => *first = *known,
                None => self.stale.extend([place.0]),
            }
        }
        let before = std::mem::replace(&mut self.late, late);
        let gone = before
            .keys()
            .filter(|place| !self.late.contains_key(*place));
        self.stale.extend(gone.map(|(fingerprint, _)| *fingerprint));
    }

    /// An artifact came or went somewhere. It has to be assessed again if it should have been recorded there by now.
    pub fn moved(&mut self, place: &Place) {
        if self.late.contains_key(place) {
            self.stale.insert(place.0);
        }
    }

    /// What runs, is not recorded and does not meet the rules.
    pub fn uncounted(&self) -> &[UncountedFinding] {
        &self.uncounted
    }

    /// The facts about an artifact.
    pub fn facts(&self, fingerprint: Fingerprint) -> Option<&ArtifactFacts> {
        self.facts.get(&fingerprint)
    }

    /// Whether anything has to be assessed.
    pub fn has_work(&self) -> bool {
        self.all_stale || self.allow_list || !self.stale.is_empty()
    }

    /// What did not run when all was assessed last and runs now has to be assessed again.
    pub fn resume(&mut self, census: &Census) {
        let returned = |it: &Fingerprint| census.total(it) > 0;
        self.stale.extend(self.postponed.extract_if(.., returned));
    }

    /// When the next timer runs out, or ran out without being recorded yet. What no longer runs has none: that it is gone is
    /// recorded first.
    pub fn next_timer(
        &self,
        environment: &str,
        ledger: &Ledger,
        evidence: &Evidence,
        census: &Census,
    ) -> Option<Timestamp> {
        let running = self.facts.iter().filter(|(it, _)| census.total(it) > 0);
        let verdicts = running.filter_map(|(_, facts)| facts.verdict.as_ref());
        let ends = verdicts.flat_map(|verdict| [verdict.grace_until, verdict.valid_until]);
        let expiries = in_force(environment, ledger, evidence).map(|entry| entry.expires);
        let ends = ends.chain([self.pending, self.uncounted_until]);
        ends.chain(expiries).flatten().min()
    }

    /// Why the facts about a recorded artifact differ from the log, if they do. `allow_list`: its changes.
    fn cause_of_change(
        &self,
        old: Option<&ArtifactFacts>,
        new: &ArtifactFacts,
        allow_list: &[AllowListChange],
        now: Timestamp,
    ) -> Option<Cause> {
        let was = old.and_then(|facts| facts.verdict.as_ref());
        let is = new.verdict.as_ref();
        let summary = |it: &Verdict| (it.state, it.reason, it.grace_until.is_some());
        let status = |facts: &ArtifactFacts| facts.provenance.as_ref().map(|known| known.status);
        let same_status = old.and_then(status) == status(new);
        if was.map(summary) == is.map(summary) && same_status {
            return None;
        }
        let ended = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        let listed =
            |it: Option<&Verdict>| it.map(|it| it.reason) == Some(VerdictReason::AllowListed);
        Some(match was {
            Some(was) if ended(was.grace_until) => Cause::GraceExpired,
            Some(was) if ended(was.valid_until) => Cause::AllowanceExpired,
            _ if self.policy_edited || was.is_some() != is.is_some() => Cause::PolicyChanged,
            _ if listed(was) != listed(is) && !allow_list.is_empty() => Cause::AllowListChanged,
            _ => Cause::EvidenceChanged,
        })
    }
}

/// The entries of an environment's allow-list that are in force according to its log.
fn in_force<'e>(
    environment: &str,
    ledger: &Ledger,
    evidence: &'e Evidence,
) -> impl Iterator<Item = &'e Arc<Allowance>> {
    let entries = evidence.allowances_in(environment);
    entries.filter(|entry| {
        let known = |digest: &Fingerprint| ledger.allowed.get(&(entry.uid.clone(), *digest));
        let mut known = entry.artifacts.keys().filter_map(known);
        known.any(|known| known.active)
    })
}

/// The result of an assessment: what has to be recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assessment {
    /// Artifacts whose facts differ from the log. Those that are recorded for another reason are in `facts` only.
    pub differs: BTreeSet<Fingerprint>,
    /// The facts about all artifacts that were assessed, without those of which nothing is known now and was before.
    pub facts: BTreeMap<Fingerprint, ArtifactFacts>,
    /// The state of the environment.
    pub compliance: Compliance,
    /// The event about the environment as a whole.
    pub event: Option<EventType>,
    pub causes: BTreeSet<Cause>,
    /// What changed on the allow-list.
    pub allow_list: Vec<AllowListChange>,
    /// Artifacts that were added to the allow-list, as the events name them.
    pub allowed: Vec<Addition>,
    /// There were more changes of the allow-list than fit.
    pub more: bool,
}

impl Assessment {
    /// Whether there is nothing to record.
    pub fn is_nothing(&self) -> bool {
        self.differs.is_empty() && self.causes.is_empty() && self.allow_list.is_empty()
    }
}

/// An artifact that was added to the allow-list.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// Its canonical digest if it runs, else the listed one.
    pub fingerprint: Fingerprint,
    /// Its name in the entry.
    pub name: Box<str>,
    pub allowed: Allowed,
    /// Where it comes from, if that is known.
    pub provenance: Option<Provenance>,
}

/// Which artifacts are assessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssessmentScope {
    /// Those whose timers ran out, and no others.
    Timers,
    /// All that may have changed.
    All,
}

/// What became of what runs and is not recorded.
#[derive(Debug, Default)]
struct JudgedUncounted {
    /// What does not meet the rules.
    lacking: Vec<UncountedFinding>,
    /// When something expires on which that depends.
    until: Option<Timestamp>,
    /// All that was judged.
    running: BTreeSet<Fingerprint>,
}

/// How many images are remembered that are not recorded and do not meet the rules, by namespace: those that run or did lately.
struct Crowds<'a>(BTreeMap<&'a str, usize>);

impl<'a> Crowds<'a> {
    fn of(remembered: impl Iterator<Item = &'a UncountedArtifact>) -> Self {
        let mut counts = BTreeMap::new();
        for it in remembered {
            *counts.entry(it.namespace.as_str()).or_default() += 1;
        }
        Self(counts)
    }

    /// Whether more of a namespace may have been forgotten: no more fit in all, and it has its share.
    fn fill(&self, namespace: &str) -> bool {
        let Self(counts) = self;
        let own = counts.get(namespace).copied().unwrap_or(0);
        let namespaces = counts.len() + usize::from(own == 0);
        counts.values().sum::<usize>() >= UNCOUNTED && own >= UNCOUNTED / namespaces
    }
}

impl Assessor<'_> {
    /// Assesses `after`: the state of the log with what is about to be recorded. `before` is the log.
    pub fn assess(
        &self,
        state: &mut AssessmentState,
        before: &Ledger,
        after: &Ledger,
        scope: AssessmentScope,
        now: Timestamp,
    ) -> Assessment {
        let mut found = Assessment::default();
        self.read_allow_list(&mut found, state, after, scope, now);
        let mut nothing = vec![];
        for (fingerprint, namespaces) in self.wanted(state, before, after, scope, now) {
            let artifact = self.input(fingerprint, namespaces, after);
            let verdict = evaluate(self.rules, self.environment, &artifact, &self.resolver, now);
            let old = before.facts.get(&fingerprint);
            let facts = self.facts(fingerprint, verdict, old, after, now);
            if after.total(&fingerprint) > 0
                && before.total(&fingerprint) > 0
                && let Some(cause) = state.cause_of_change(old, &facts, &found.allow_list, now)
            {
                found.differs.insert(fingerprint);
                found.causes.insert(cause);
            }
            // Most artifacts of environments without rules have no facts: they take no memory.
            let had = old.is_some() || after.facts.contains_key(&fingerprint);
            if facts.is_nothing() {
                nothing.push(fingerprint);
            }
            if had || !facts.is_nothing() {
                found.facts.insert(fingerprint, facts);
            }
        }
        for fingerprint in nothing {
            state.facts.remove(&fingerprint);
        }
        for (fingerprint, facts) in &found.facts {
            if !facts.is_nothing() {
                state.facts.insert(*fingerprint, facts.clone());
            }
        }
        if scope == AssessmentScope::All {
            state.stale.clear();
            let recorded = after.artifacts().map(|(fingerprint, _)| *fingerprint);
            state.postponed = recorded.filter(|it| self.is_gone(before, it)).collect();
            state.all_stale = false;
            state.allow_list = found.more;
        }
        state
            .facts
            .retain(|fingerprint, _| after.total(fingerprint) > 0);
        self.conclude(&mut found, state, before, after, now);
        if scope == AssessmentScope::All {
            state.policy_edited = false;
        }
        found
    }

    /// Whether an artifact is recorded and runs no more. That is recorded first: it keeps its verdict until then, and no grace
    /// of it ends.
    fn is_gone(&self, before: &Ledger, fingerprint: &Fingerprint) -> bool {
        before.total(fingerprint) > 0 && self.census.total(fingerprint) == 0
    }

    /// The artifacts to assess, and the namespaces in which they run. There may be all artifacts of a cluster.
    fn wanted<'l>(
        &self,
        state: &'l AssessmentState,
        before: &Ledger,
        after: &'l Ledger,
        scope: AssessmentScope,
        now: Timestamp,
    ) -> BTreeMap<Fingerprint, Vec<&'l str>> {
        let due = |fingerprint: &Fingerprint| {
            let facts = state.facts.get(fingerprint);
            let verdict = facts.and_then(|facts| facts.verdict.as_ref());
            let ends = verdict.map(|verdict| [verdict.grace_until, verdict.valid_until]);
            ends.into_iter().flatten().flatten().any(|end| end <= now)
        };
        // Stale artifacts may have another canonical digest by now.
        let stale = state.stale.iter();
        let stale: BTreeSet<_> = stale
            .map(|digest| self.resolver.canonical(*digest))
            .collect();
        let wanted = |fingerprint: &Fingerprint| {
            !self.is_gone(before, fingerprint)
                && (due(fingerprint)
                    || scope == AssessmentScope::All
                        && (state.all_stale
                            || stale.contains(fingerprint)
                            || state.stale.contains(fingerprint)
                            || before.total(fingerprint) == 0))
        };
        let artifacts = after.artifacts().map(|(fingerprint, _)| *fingerprint);
        let mut places: BTreeMap<Fingerprint, Vec<&str>> =
            artifacts.filter(wanted).map(|it| (it, vec![])).collect();
        if !places.is_empty() {
            let recorded = after.cells().keys();
            let recorded = recorded.map(|it| (it.fingerprint, &*it.workload.namespace));
            let late = self.late(state);
            let late = late.map(|(fingerprint, namespace)| (*fingerprint, &**namespace));
            for (fingerprint, namespace) in recorded.chain(late) {
                if let Some(namespaces) = places.get_mut(&fingerprint)
                    && namespaces.last() != Some(&namespace)
                {
                    namespaces.push(namespace);
                }
            }
        }
        places
    }

    /// What an artifact is judged by.
    fn input<'l>(
        &self,
        fingerprint: Fingerprint,
        namespaces: Vec<&'l str>,
        after: &'l Ledger,
    ) -> ArtifactInput<'l> {
        let trusted = self.census.trusted(fingerprint);
        ArtifactInput {
            fingerprint,
            containers: trusted.take(CONTAINERS + 1).cloned().collect(),
            name: after.names.get(&fingerprint).map_or("", String::as_str),
            namespaces: namespaces.into_iter().collect(),
        }
    }

    /// What runs and should have been recorded by now.
    fn late<'l>(&self, state: &'l AssessmentState) -> impl Iterator<Item = &'l Place> {
        let census = self.census;
        state.late.keys().filter(|place| census.is_in(place))
    }

    /// The facts that follow from a verdict for an artifact that is recorded or about to be.
    fn facts(
        &self,
        fingerprint: Fingerprint,
        verdict: ArtifactVerdict,
        old: Option<&ArtifactFacts>,
        after: &Ledger,
        now: Timestamp,
    ) -> ArtifactFacts {
        let was = old.and_then(|facts| facts.verdict.as_ref());
        // What was written under a clock that was ahead may lie in the future. Grace begins now at the latest, and once.
        let recorded = after.seen.get(&fingerprint).copied();
        let first_seen = recorded.into_iter().chain(was.map(|was| was.first_seen));
        let first_seen = first_seen.chain(after.uncounted(fingerprint).map(|it| it.since));
        let first_seen = first_seen.chain([now]).min().unwrap_or(now);
        let grace_over =
            verdict.reason == VerdictReason::AllowListed || was.is_some_and(|was| was.grace_over);
        let provenance = provenance(self.environment, &verdict).map(Provenance::cut_to_schema);
        let verdict = self
            .rules
            .map(|rules| with_grace(verdict, rules, first_seen, grace_over, now));
        ArtifactFacts {
            verdict,
            provenance,
        }
    }

    /// Derives the state of the environment from all its artifacts.
    fn conclude(
        &self,
        found: &mut Assessment,
        state: &mut AssessmentState,
        before: &Ledger,
        after: &Ledger,
        now: Timestamp,
    ) {
        let was = &before.compliance;
        let mut grace_ends = vec![];
        let mut violations = vec![];
        let mut unknown = false;
        for (fingerprint, facts) in &state.facts {
            let Some(verdict) = &facts.verdict else {
                continue;
            };
            match (verdict.state, verdict.grace_until) {
                (ComplianceState::NonCompliant, Some(end)) if end > now => grace_ends.push(end),
                (ComplianceState::NonCompliant, Some(_)) if self.is_gone(before, fingerprint) => {}
                (ComplianceState::NonCompliant, _) => violations.push((*fingerprint, verdict)),
                (ComplianceState::Unknown, _) => unknown = true,
                (ComplianceState::Compliant, _) => {}
            }
        }
        let judged = self.judge_uncounted(state, before, after, now);
        (state.uncounted, state.uncounted_until) = (judged.lacking, judged.until);
        let mut uncounted = vec![];
        for UncountedFinding {
            fingerprint,
            name,
            verdict,
            ..
        } in &state.uncounted
        {
            match verdict.grace_until {
                Some(end) => grace_ends.push(end),
                None if violations.iter().any(|(it, _)| it == fingerprint) => {}
                None => uncounted.push(reasons::line(name, *fingerprint, &verdict.message)),
            }
        }
        let uncounted_violates = state
            .uncounted
            .iter()
            .any(|it| it.verdict.grace_until.is_none());
        // A3: containers that can't be identified.
        let unidentified = self.rules.filter(|_| after.unidentified > 0);
        let unidentified_since =
            unidentified.map(|_| was.unidentified_since.unwrap_or(now).min(now));
        let mut unidentified_violates = false;
        if let (Some(since), Some(rules)) = (unidentified_since, self.rules) {
            match since.checked_add(rules.grace()) {
                Ok(end) if end > now => grace_ends.push(end),
                _ => unidentified_violates = self.unidentified > 0,
            }
        }
        let input = ComplianceInput {
            ruled: self.rules.is_some(),
            violated: !violations.is_empty() || uncounted_violates || unidentified_violates,
            unknown,
            grace_ends: grace_ends.into_iter().min(),
        };
        let window = self.rules.map(ArtifactRules::recovery_window);
        let (mut compliance, event) = step(was, input, window.unwrap_or_default(), now);
        compliance.unidentified_since = unidentified_since;
        compliance.rules = self.rules.map(|rules| rules.edition.clone());
        let unidentified = unidentified_violates.then_some(after.unidentified);
        compliance.reasons = reasons::reasons(after, &violations, uncounted, unidentified);
        compliance.uncounted = self.remember_uncounted(was, &state.uncounted, &judged.running, now);
        let mending = compliance.raw == ComplianceState::Compliant
            && (compliance.state == ComplianceState::NonCompliant || event.is_some());
        if mending {
            compliance.resolved = if was.raw == ComplianceState::NonCompliant {
                reasons::resolved(before, after, &state.facts)
            } else {
                was.resolved.clone()
            };
            if compliance.resolved.is_empty() && !was.uncounted.is_empty() {
                let line = "what is not recorded complies with the rules now, or has ended";
                compliance.resolved.push(line.to_owned());
            }
        }
        if found.causes.is_empty() {
            found.causes.extend(cause_of_turn(was, &compliance, now));
        }
        state.pending = compliance.pending_until;
        (found.compliance, found.event) = (compliance, event);
    }

    /// Judges what runs and is not recorded: what is not counted, and what should have been recorded by now. Whoever may
    /// create pods chooses their owner, and how often they change, and thereby whether they are recorded: so all of it is
    /// judged.
    fn judge_uncounted(
        &self,
        state: &AssessmentState,
        before: &Ledger,
        after: &Ledger,
        now: Timestamp,
    ) -> JudgedUncounted {
        let Some(rules) = self.rules else {
            return JudgedUncounted::default();
        };
        let mut artifacts: BTreeMap<Fingerprint, (Arc<str>, ArtifactInput)> = BTreeMap::new();
        let mut add =
            |fingerprint, image: &Arc<str>, namespace, trusted: &mut dyn Iterator<Item = _>| {
                let (named, input) = artifacts.entry(fingerprint).or_insert_with(|| {
                    let input = ArtifactInput {
                        fingerprint,
                        containers: BTreeSet::new(),
                        name: "",
                        namespaces: BTreeSet::new(),
                    };
                    (image.clone(), input)
                });
                *named = image.clone().min(named.clone());
                let room = (CONTAINERS + 1).saturating_sub(input.containers.len());
                input.containers.extend(trusted.take(room));
                input.namespaces.insert(namespace);
            };
        for it in self.census.uncounted() {
            let trusted = &mut [it.trusted.clone()].into_iter();
            add(it.fingerprint, &it.image, &*it.namespace, trusted);
        }
        // Where else an artifact runs that is recorded counts for its own verdict.
        let late = self.late(state);
        for (fingerprint, namespace) in late.filter(|(it, _)| after.total(it) == 0) {
            let image = self.census.images(*fingerprint).min();
            let trusted = &mut self.census.trusted(*fingerprint).cloned();
            add(*fingerprint, &image.unwrap_or_default(), namespace, trusted);
        }
        let first_late = |fingerprint: Fingerprint| {
            let of_it = state.late.range((fingerprint, Arc::default())..);
            let of_it = of_it.take_while(|((it, _), _)| *it == fingerprint);
            of_it.map(|(_, first)| *first).min()
        };
        let running: BTreeSet<Fingerprint> = artifacts.keys().copied().collect();
        let runs = |it: &&UncountedArtifact| {
            let digest = Fingerprint::from_hex(&it.fingerprint);
            digest.is_some_and(|digest| running.contains(&digest))
        };
        // Others that run, or did lately, may have made it forgotten.
        let lately = now.checked_sub(LATELY).unwrap_or(Timestamp::MIN);
        let known = before.compliance.uncounted.iter();
        let crowds = Crowds::of(known.filter(|it| runs(it) || it.since > lately));
        let (mut found, mut until) = (vec![], None::<Timestamp>);
        for (fingerprint, (image, input)) in artifacts {
            let name = display_name(&image);
            let input = ArtifactInput {
                name: &name,
                ..input
            };
            let verdict = evaluate(Some(rules), self.environment, &input, &self.resolver, now);
            until = [until, verdict.until].into_iter().flatten().min();
            if verdict.state != ComplianceState::NonCompliant {
                continue;
            }
            let remembered = before.uncounted(fingerprint);
            let known = remembered.map(|it| it.since);
            let known = known.or_else(|| first_late(fingerprint));
            // It stays with the namespace where its grace began: in another the crowd there would make it forgotten.
            let namespace = remembered.map(|it| it.namespace.as_str());
            let namespace = namespace.filter(|it| !it.is_empty());
            let mut namespaces = input.namespaces.iter().copied();
            let roomy = namespaces.clone().find(|it| !crowds.fill(it));
            let namespace = namespace.or(roomy).or_else(|| namespaces.next());
            // Or when it counted: to be counted no longer gives no other grace.
            let counted = after.seen.get(&fingerprint).copied();
            // Nor has what is not remembered among too many others: it would begin anew each time. Nor is it remembered then: it
            // would take the place of another whose grace runs.
            let crowded = remembered.is_none() && counted.is_none() && roomy.is_none();
            let first_seen = counted.into_iter().chain(known);
            let first_seen = first_seen.chain([now]).min().unwrap_or(now);
            let listed = |digest: &Fingerprint| {
                *digest == fingerprint
                    || input
                        .containers
                        .iter()
                        .any(|it| it.digests.first == *digest)
            };
            // What was on the allow-list has no grace when that ends.
            let grace_over = crowded || after.allowed.keys().any(|(_, digest)| listed(digest));
            found.push(UncountedFinding {
                fingerprint,
                namespace: namespace.unwrap_or_default().to_owned(),
                crowded,
                verdict: with_grace(verdict, rules, first_seen, grace_over, now),
                name,
            });
        }
        JudgedUncounted {
            lacking: found,
            until,
            running,
        }
    }

    /// What does not meet the rules, and what did not when it ran last: whatever comes back gets no other grace. What runs and
    /// meets them now is forgotten. Of too many of a namespace those are kept that run, the oldest first, and then the newest of
    /// the others; and no namespace keeps more than another that would keep more, unless what it had there is old.
    fn remember_uncounted(
        &self,
        was: &Compliance,
        lacking: &[UncountedFinding],
        running: &BTreeSet<Fingerprint>,
        now: Timestamp,
    ) -> Vec<UncountedArtifact> {
        let runs = |it: &UncountedArtifact| {
            Fingerprint::from_hex(&it.fingerprint).is_none_or(|it| running.contains(&it))
        };
        if self.rules.is_none() {
            return vec![];
        }
        let lacking = lacking.iter().filter(|it| !it.crowded);
        let lacking = lacking.map(|it| UncountedArtifact {
            fingerprint: it.fingerprint.to_string(),
            since: it.verdict.first_seen,
            namespace: it.namespace.clone(),
        });
        let mut all: Vec<_> = lacking.collect();
        all.sort_by(|a, b| (a.since, &a.fingerprint).cmp(&(b.since, &b.fingerprint)));
        let run = all.len();
        let gone = was.uncounted.iter().filter(|it| !runs(it)).cloned();
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by(|a, b| (b.since, &a.fingerprint).cmp(&(a.since, &b.fingerprint)));
        all.extend(gone);
        if all.len() <= UNCOUNTED {
            return all;
        }
        let lately = now.checked_sub(LATELY).unwrap_or(Timestamp::MIN);
        let mut before: BTreeMap<&str, usize> = BTreeMap::new();
        let places = all.iter().enumerate().map(|(place, it)| {
            let before = before.entry(&it.namespace).or_default();
            *before += 1;
            (place >= run && it.since <= lately, *before, place)
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        let kept = places.iter().take(UNCOUNTED).map(|(_, _, place)| *place);
        let kept: BTreeSet<usize> = kept.collect();
        let all = all.into_iter().enumerate();
        let kept = all.filter(|(place, _)| kept.contains(place));
        kept.map(|(_, it)| it).collect()
    }

    /// Compares the allow-list with the log.
    fn read_allow_list(
        &self,
        found: &mut Assessment,
        state: &AssessmentState,
        after: &Ledger,
        scope: AssessmentScope,
        now: Timestamp,
    ) {
        let evidence: &Evidence = self.resolver.evidence;
        let wanted = state.allow_list && scope == AssessmentScope::All;
        let mut in_force_now = in_force(self.environment, after, evidence);
        if !wanted && !in_force_now.any(|entry| !entry.is_active(now)) {
            return;
        }
        let mut news = vec![];
        let mut listed = BTreeSet::new();
        for entry in evidence.allowances_in(self.environment) {
            for (fingerprint, name) in &entry.artifacts {
                let key = (entry.uid.clone(), *fingerprint);
                let known = after.allowed.get(&key).map(|known| known.active);
                listed.insert(key);
                let state = match (known, entry.is_active(now)) {
                    (None | Some(false), true) => AllowListState::Active,
                    (Some(true), false) => AllowListState::Expired,
                    (None | Some(false), false) | (Some(true), true) => continue,
                };
                let added = known.is_none().then_some((*fingerprint, name, entry));
                news.push((change(&entry.name, &entry.uid, *fingerprint, state), added));
            }
        }
        let removed = after
            .allowed
            .iter()
            .filter(|(key, _)| wanted && !listed.contains(key));
        news.extend(removed.map(|((uid, fingerprint), known)| {
            let state = AllowListState::Removed;
            (change(&known.entry, uid, *fingerprint, state), None)
        }));
        found.more = news.len() > ALLOWED;
        for (change, added) in news.into_iter().take(ALLOWED) {
            if !wanted && change.state != AllowListState::Expired {
                continue;
            }
            found.causes.insert(match change.state {
                AllowListState::Expired => Cause::AllowanceExpired,
                AllowListState::Active | AllowListState::Removed => Cause::AllowListChanged,
            });
            found.allow_list.push(change);
            found.allowed.extend(
                added.map(|(digest, name, entry)| self.addition(digest, name, entry, after, now)),
            );
        }
    }

    /// What the event about an image says that is on the allow-list now.
    fn addition(
        &self,
        digest: Fingerprint,
        name: &str,
        entry: &Allowance,
        after: &Ledger,
        now: Timestamp,
    ) -> Addition {
        let known = self.resolver.canonical(digest);
        let runs = after.total(&known) > 0;
        let fingerprint = if runs { known } else { digest };
        let artifact = ArtifactInput {
            fingerprint,
            // Whoever allows an image is trusted in its name, too.
            containers: BTreeSet::from([TrustedContainer {
                digests: TrustedDigests::only(digest),
                image: Some(name.into()),
            }]),
            name,
            namespaces: BTreeSet::new(),
        };
        let verdict = evaluate(self.rules, self.environment, &artifact, &self.resolver, now);
        Addition {
            fingerprint,
            name: cut_to_schema(name, cut_to_schema::IMAGE).into(),
            allowed: Allowed {
                entry: entry.name.to_string(),
                reason: entry.reason.trim().to_owned(),
                expires_at: entry.expires,
            }
            .cut_to_schema(),
            provenance: provenance(self.environment, &verdict).map(Provenance::cut_to_schema),
        }
    }
}

/// Why the state of an environment turned though no artifact and nothing on its allow-list did, if it turned.
fn cause_of_turn(was: &Compliance, is: &Compliance, now: Timestamp) -> Option<Cause> {
    let summary = |it: &Compliance| (it.state, it.raw, it.unidentified_since);
    if summary(was) == summary(is) {
        return (was.uncounted != is.uncounted).then_some(Cause::WorkloadsChanged);
    }
    let ended = was.pending_until.is_some_and(|end| end <= now);
    let recovered =
        was.state == ComplianceState::NonCompliant && is.state == ComplianceState::Compliant;
    Some(match () {
        () if recovered && was.raw == ComplianceState::Compliant => Cause::RecoveryElapsed,
        () if ended => Cause::GraceExpired,
        () if is.rules != was.rules => Cause::PolicyChanged,
        () => Cause::EvidenceChanged,
    })
}

fn change(
    entry: &str,
    uid: &str,
    fingerprint: Fingerprint,
    state: AllowListState,
) -> AllowListChange {
    AllowListChange {
        entry: entry.to_owned(),
        entry_uid: uid.to_owned(),
        fingerprint: fingerprint.to_string(),
        state,
    }
}

/// A verdict as it is kept, with the end of its grace: there is none if nothing may still arrive, or if it is over.
fn with_grace(
    verdict: ArtifactVerdict,
    rules: &ArtifactRules,
    first_seen: Timestamp,
    grace_over: bool,
    now: Timestamp,
) -> Verdict {
    let end = first_seen.checked_add(rules.grace()).ok();
    let grace_until = end.filter(|end| verdict.may_wait() && !grace_over && *end > now);
    let mut message = verdict.words;
    reasons::cut(&mut message);
    Verdict {
        state: verdict.state,
        reason: verdict.reason,
        message,
        first_seen,
        grace_until,
        valid_until: verdict.until,
        grace_over,
    }
}

/// The provenance that is embedded: of the record and the reviews.
fn provenance(environment: &str, verdict: &ArtifactVerdict) -> Option<Provenance> {
    if verdict.record.is_none() && verdict.reviews.is_empty() {
        return None;
    }
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    let approvals = verdict.reviews.iter().take(NOTES);
    let approvals = approvals.map(|review| review.note()).collect();
    let Some(record) = &verdict.record else {
        return Some(Provenance {
            approvals,
            ..Provenance::default()
        });
    };
    let deployments = record.deployments.iter();
    let here = deployments.filter(|found| *found.environment == *environment);
    let deployments = here.take(NOTES).map(DeploymentRecord::note);
    Some(Provenance {
        flow: record.flow.to_string(),
        name: text(&record.name),
        status: verdict.status,
        commit: text(&record.commit),
        commit_url: text(&record.commit_url),
        build_url: text(&record.build_url),
        deployments: deployments.collect(),
        approvals,
    })
}
