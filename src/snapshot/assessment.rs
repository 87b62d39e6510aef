//! Assesses an environment: which artifacts comply, what changed on its allow-list, and whether the environment complies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::{
        EventType,
        snapshot::{
            AllowListChange, AllowListState, Allowed, ApprovalNote, Cause, Compliance,
            ComplianceState, DeploymentNote, Provenance, Verdict, VerdictReason,
        },
    },
    cluster::image::Fingerprint,
    compliance::{
        artifact_rules::{ArtifactInput, ArtifactRules, ArtifactVerdict, judge},
        environment_state::{ComplianceInput, step},
        evidence::{Allowance, Evidence},
        identity::IdentityResolver,
    },
    snapshot::{
        census::Census,
        ledger::{ArtifactFacts, Ledger},
        reasons,
    },
};

/// At most how many deployments and reviews are embedded, the newest first.
const NOTES: usize = 10;
/// At most how many changes of the allow-list fit into one entry; the rest follows in the next.
const ALLOWED: usize = 500;

/// What an assessment needs.
#[derive(Clone, Copy, Debug)]
pub struct Assessor<'a> {
    pub environment: &'a str,
    pub rules: Option<&'a ArtifactRules>,
    /// Resolves its digests, and has the evidence.
    pub names: IdentityResolver<'a>,
    /// What runs, with the digests by which containers are known.
    pub census: &'a Census,
}

/// The facts about the artifacts of an environment: those of the log, updated by what was assessed since.
#[derive(Clone, Debug, Default)]
pub struct AssessmentState {
    facts: BTreeMap<Fingerprint, ArtifactFacts>,
    /// Artifacts that have to be assessed again.
    stale: BTreeSet<Fingerprint>,
    /// All have to be assessed again.
    all_stale: bool,
    /// The rules were edited.
    policy_edited: bool,
    /// The allow-list may have changed.
    allow_list: bool,
    /// When the environment's state may change without anything else happening.
    pending: Option<Timestamp>,
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

    /// The facts about an artifact.
    pub fn facts(&self, fingerprint: Fingerprint) -> Option<&ArtifactFacts> {
        self.facts.get(&fingerprint)
    }

    /// Whether anything has to be assessed.
    pub fn has_work(&self) -> bool {
        self.all_stale || self.allow_list || !self.stale.is_empty()
    }

    /// When the next timer runs out, or ran out without being recorded yet.
    pub fn next_timer(
        &self,
        environment: &str,
        ledger: &Ledger,
        evidence: &Evidence,
    ) -> Option<Timestamp> {
        let verdicts = self
            .facts
            .values()
            .filter_map(|facts| facts.verdict.as_ref());
        let ends = verdicts.flat_map(|verdict| [verdict.grace_until, verdict.valid_until]);
        let expiries = in_force(environment, ledger, evidence).map(|entry| entry.expires);
        ends.chain([self.pending]).chain(expiries).flatten().min()
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
    /// The facts about all artifacts that were assessed.
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
        let places = self.judged(state, before, after, scope, now);
        for (fingerprint, namespaces) in &places {
            let artifact = self.artifact(*fingerprint, after, namespaces);
            let judgement = judge(self.rules, self.environment, &artifact, &self.names, now);
            let old = before.facts.get(fingerprint);
            let facts = self.facts(*fingerprint, judgement, old, after, now);
            if after.total(fingerprint) > 0 && before.total(fingerprint) > 0 {
                Self::compare(&mut found, state, *fingerprint, old, &facts, now);
            }
            found.facts.insert(*fingerprint, facts);
        }
        for (fingerprint, facts) in &found.facts {
            // Most artifacts of environments without rules have no facts: they take no memory.
            if facts.is_nothing() {
                state.facts.remove(fingerprint);
            } else {
                state.facts.insert(*fingerprint, facts.clone());
            }
        }
        if scope == AssessmentScope::All {
            state.stale.clear();
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

    /// The artifacts to assess, each with the namespaces in which it is recorded.
    fn judged<'l>(
        &self,
        state: &AssessmentState,
        before: &Ledger,
        after: &'l Ledger,
        scope: AssessmentScope,
        now: Timestamp,
    ) -> BTreeMap<Fingerprint, BTreeSet<&'l str>> {
        let due = |fingerprint: &Fingerprint| {
            let verdict = state
                .facts
                .get(fingerprint)
                .and_then(|facts| facts.verdict.as_ref());
            let ends = verdict.map(|verdict| [verdict.grace_until, verdict.valid_until]);
            ends.into_iter().flatten().flatten().any(|end| end <= now)
        };
        // Stale artifacts may have another canonical digest by now.
        let stale: BTreeSet<_> = state
            .stale
            .iter()
            .map(|digest| self.names.canonical(*digest))
            .collect();
        let wanted = |fingerprint: &Fingerprint| {
            due(fingerprint)
                || scope == AssessmentScope::All
                    && (state.all_stale
                        || stale.contains(fingerprint)
                        || state.stale.contains(fingerprint)
                        || before.total(fingerprint) == 0)
        };
        let mut places: BTreeMap<Fingerprint, BTreeSet<&str>> = after
            .artifacts()
            .filter(|(fingerprint, _)| wanted(fingerprint))
            .map(|(fingerprint, _)| (*fingerprint, BTreeSet::new()))
            .collect();
        if !places.is_empty() {
            for cell in after.cells().keys() {
                if let Some(places) = places.get_mut(&cell.fingerprint) {
                    places.insert(&*cell.workload.namespace);
                }
            }
        }
        places
    }

    fn artifact<'l>(
        &self,
        fingerprint: Fingerprint,
        after: &'l Ledger,
        namespaces: &BTreeSet<&'l str>,
    ) -> ArtifactInput<'l> {
        let mut digests: BTreeSet<_> = self.census.known_by(fingerprint).collect();
        if digests.is_empty() {
            digests.insert(fingerprint);
        }
        let name = after.names.get(&fingerprint).map_or("", String::as_str);
        ArtifactInput {
            fingerprint,
            digests,
            name,
            namespaces: namespaces.clone(),
        }
    }

    /// The facts that follow from a verdict for an artifact that is recorded or about to be.
    fn facts(
        &self,
        fingerprint: Fingerprint,
        judgement: ArtifactVerdict,
        old: Option<&ArtifactFacts>,
        after: &Ledger,
        now: Timestamp,
    ) -> ArtifactFacts {
        let first_seen = after.seen.get(&fingerprint).copied().unwrap_or(now);
        let was = old.and_then(|facts| facts.verdict.as_ref());
        let grace_over = judgement.reason == VerdictReason::AllowListed
            || was.is_some_and(|was| was.grace_over && was.first_seen == first_seen);
        let ends = self
            .rules
            .and_then(|rules| first_seen.checked_add(rules.grace()).ok());
        let grace_until = ends.filter(|end| judgement.may_wait() && !grace_over && *end > now);
        let provenance = provenance(self.environment, &judgement);
        let mut message = judgement.words;
        reasons::truncate(&mut message);
        let verdict = self.rules.map(|_| Verdict {
            state: judgement.state,
            reason: judgement.reason,
            message,
            first_seen,
            grace_until,
            valid_until: judgement.until,
            grace_over,
        });
        ArtifactFacts {
            verdict,
            provenance,
        }
    }

    /// Notes whether the facts about a recorded artifact differ from the log, and why.
    fn compare(
        found: &mut Assessment,
        state: &AssessmentState,
        fingerprint: Fingerprint,
        old: Option<&ArtifactFacts>,
        new: &ArtifactFacts,
        now: Timestamp,
    ) {
        let none = ArtifactFacts::default();
        let old = old.unwrap_or(&none);
        let verdict = |facts: &ArtifactFacts| {
            let verdict = facts.verdict.as_ref()?;
            Some((verdict.state, verdict.reason, verdict.grace_until.is_some()))
        };
        let status = |facts: &ArtifactFacts| facts.provenance.as_ref().map(|known| known.status);
        if verdict(old) == verdict(new) && status(old) == status(new) {
            return;
        }
        found.differs.insert(fingerprint);
        let was = old.verdict.as_ref();
        let ended = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        let listed = |facts: &ArtifactFacts| {
            let verdict = facts.verdict.as_ref();
            verdict.is_some_and(|verdict| verdict.reason == VerdictReason::AllowListed)
        };
        found.causes.insert(match was {
            Some(was) if ended(was.grace_until) => Cause::GraceExpired,
            Some(was) if ended(was.valid_until) => Cause::AllowanceExpired,
            _ if state.policy_edited || was.is_some() != new.verdict.is_some() => {
                Cause::PolicyChanged
            }
            _ if listed(old) != listed(new) && !found.allow_list.is_empty() => {
                Cause::AllowListChanged
            }
            _ => Cause::EvidenceChanged,
        });
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
        let mut input = ComplianceInput {
            ruled: self.rules.is_some(),
            ..ComplianceInput::default()
        };
        let mut grace = |end: Timestamp| {
            input.grace_ends = Some(input.grace_ends.map_or(end, |ends| ends.min(end)));
        };
        let mut violations = vec![];
        let mut unknown = false;
        for (fingerprint, facts) in &state.facts {
            let Some(verdict) = &facts.verdict else {
                continue;
            };
            match (verdict.state, verdict.grace_until) {
                (ComplianceState::NonCompliant, Some(end)) if end > now => grace(end),
                (ComplianceState::NonCompliant, _) => violations.push((*fingerprint, verdict)),
                (ComplianceState::Unknown, _) => unknown = true,
                (ComplianceState::Compliant, _) => {}
            }
        }
        // A3: containers that can't be identified.
        let since = before.compliance.unidentified_since.unwrap_or(now);
        let unidentified_since =
            Some(since).filter(|_| self.rules.is_some() && after.unidentified > 0);
        let mut unidentified_violates = false;
        if let (Some(since), Some(rules)) = (unidentified_since, self.rules) {
            match since.checked_add(rules.grace()) {
                Ok(end) if end > now => grace(end),
                _ => unidentified_violates = true,
            }
        }
        (input.violated, input.unknown) =
            (!violations.is_empty() || unidentified_violates, unknown);
        let window = self
            .rules
            .map(ArtifactRules::recovery_window)
            .unwrap_or_default();
        let (mut compliance, event) = step(&before.compliance, input, window, now);
        compliance.unidentified_since = unidentified_since;
        compliance.rules = self.rules.map(|rules| rules.edition.clone());
        compliance.reasons = reasons::reasons(
            after,
            &violations,
            unidentified_violates.then_some(after.unidentified),
        );
        let mending = compliance.raw == ComplianceState::Compliant
            && (compliance.state == ComplianceState::NonCompliant || event.is_some());
        if mending {
            compliance.resolved = if before.compliance.raw == ComplianceState::NonCompliant {
                reasons::resolved(before, after, &state.facts)
            } else {
                before.compliance.resolved.clone()
            };
        }
        let summary = |compliance: &Compliance| {
            (
                compliance.state,
                compliance.raw,
                compliance.unidentified_since,
            )
        };
        if summary(&compliance) != summary(&before.compliance) && found.causes.is_empty() {
            let was = &before.compliance;
            let ended = was.pending_until.is_some_and(|end| end <= now);
            let recovered = was.state == ComplianceState::NonCompliant
                && compliance.state == ComplianceState::Compliant;
            found.causes.insert(match () {
                () if recovered && was.raw == ComplianceState::Compliant => Cause::RecoveryElapsed,
                () if ended => Cause::GraceExpired,
                () if compliance.rules != was.rules => Cause::PolicyChanged,
                () => Cause::EvidenceChanged,
            });
        }
        state.pending = compliance.pending_until;
        (found.compliance, found.event) = (compliance, event);
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
        let evidence: &Evidence = self.names.evidence;
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
                listed.insert(key.clone());
                let known = after.allowed.get(&key);
                let active = entry.is_active(now);
                let state = match (known.map(|known| known.active), active) {
                    (None | Some(false), true) => AllowListState::Active,
                    (Some(true), false) => AllowListState::Expired,
                    (None | Some(false), false) | (Some(true), true) => continue,
                };
                let event = known
                    .is_none()
                    .then(|| (*fingerprint, name.clone(), allowed(entry)));
                news.push((change(&entry.name, &entry.uid, *fingerprint, state), event));
            }
        }
        if wanted {
            for ((uid, fingerprint), known) in &after.allowed {
                if !listed.contains(&(uid.clone(), *fingerprint)) {
                    let state = AllowListState::Removed;
                    news.push((change(&known.entry, uid, *fingerprint, state), None));
                }
            }
        }
        found.more = news.len() > ALLOWED;
        for (change, event) in news.into_iter().take(ALLOWED) {
            if !wanted && change.state != AllowListState::Expired {
                continue;
            }
            found.causes.insert(match change.state {
                AllowListState::Expired => Cause::AllowanceExpired,
                AllowListState::Active | AllowListState::Removed => Cause::AllowListChanged,
            });
            found.allow_list.push(change);
            found.allowed.extend(event.map(|(digest, name, allowed)| {
                let known = self.names.canonical(digest);
                let fingerprint = if after.total(&known) > 0 {
                    known
                } else {
                    digest
                };
                let artifact = ArtifactInput {
                    fingerprint,
                    digests: BTreeSet::from([digest]),
                    name: &name,
                    namespaces: BTreeSet::new(),
                };
                let judgement = judge(self.rules, self.environment, &artifact, &self.names, now);
                let provenance = provenance(self.environment, &judgement);
                Addition {
                    fingerprint,
                    name,
                    allowed,
                    provenance,
                }
            }));
        }
    }
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

fn allowed(entry: &Allowance) -> Allowed {
    Allowed {
        entry: entry.name.to_string(),
        reason: entry.reason.trim().to_owned(),
        expires_at: entry.expires,
    }
}

/// The provenance that is embedded: of the record and the reviews.
fn provenance(environment: &str, judgement: &ArtifactVerdict) -> Option<Provenance> {
    if judgement.record.is_none() && judgement.reviews.is_empty() {
        return None;
    }
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    let approvals = judgement
        .reviews
        .iter()
        .take(NOTES)
        .map(|review| ApprovalNote {
            number: review.number,
            time: review.time,
            state: review.state,
            reviewer: review.reviewer.to_string(),
            comment: text(&review.comment),
        });
    let approvals = approvals.collect();
    let Some(record) = &judgement.record else {
        return Some(Provenance {
            approvals,
            ..Provenance::default()
        });
    };
    let here = record
        .deployments
        .iter()
        .filter(|found| *found.environment == *environment);
    let deployments = here.take(NOTES).map(|found| DeploymentNote {
        number: found.number,
        time: found.time,
        build_url: text(&found.build_url),
    });
    Some(Provenance {
        flow: record.flow.to_string(),
        name: text(&record.name),
        status: judgement.status,
        commit: text(&record.commit),
        commit_url: text(&record.commit_url),
        build_url: text(&record.build_url),
        deployments: deployments.collect(),
        approvals,
    })
}
