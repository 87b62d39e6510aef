//! Decides whether an artifact complies with the rules of an environment: tables F and A of `docs/decision-tables.md`, as a
//! function of what runs, the evidence, the rules and the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        EnvironmentSpec,
        approval::ReviewState,
        compliance::ComplianceState,
        compliance::{self, AttestationRule, Exception, Waivable},
        provenance::RecordState,
        snapshot::VerdictReason,
        user_time,
    },
    cluster::{
        fleet::{TrustedContainer, TrustedDigests},
        image::{Fingerprint, Reference},
        scope::matches,
    },
    compliance::{
        artifact_identity::{IdentityResolver, TrustedClass, TrustedNamespaces},
        evidence::{ApprovalReview, AttestationRecord, ProvenanceRecord},
    },
};

/// At most how many names are listed in one reason.
const NAMED: usize = 5;
/// How many different containers of an artifact are looked at: those that differ in what counts of them, their digests or the
/// name of their image. Whoever may create pods chooses how many there are; an artifact with more does not comply.
pub const CONTAINERS: usize = 256;

/// The rules of an environment with their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRules {
    spec: compliance::Rules,
    /// The beginning of a hash of the rules, to notice an edit.
    pub edition: String,
}

impl ArtifactRules {
    /// The rules of a spec, if it has any.
    pub fn of(spec: &EnvironmentSpec) -> Option<Self> {
        let spec = spec.compliance.clone()?;
        let json = serde_json::to_vec(&spec).expect("plain data");
        let mut edition = Fingerprint(Sha256::digest(json).into()).to_string();
        edition.truncate(12);
        Some(Self { spec, edition })
    }

    /// The namespaces whose records count in an environment; `own_namespace` is the operator's own.
    pub fn trust(spec: &EnvironmentSpec, own_namespace: &str) -> TrustedNamespaces {
        let rules = spec.compliance.as_ref();
        let named = rules.and_then(|rules| rules.provenance.as_ref()?.trusted_namespaces.as_ref());
        match named {
            Some(named) => named.iter().map(|name| name.as_str().into()).collect(),
            None => TrustedNamespaces::from([own_namespace.into()]),
        }
    }

    /// How long missing evidence may take to arrive.
    pub fn grace(&self) -> Duration {
        self.spec
            .grace
            .map_or(Duration::from_mins(5), |span| span.0)
    }

    /// How long an environment must comply again before that is reported.
    pub fn recovery_window(&self) -> Duration {
        let window = self.spec.recovery_window;
        window.map_or(Duration::from_mins(1), |span| span.0)
    }

    fn requires_provenance(&self) -> bool {
        let rule = self.spec.provenance.as_ref();
        rule.is_some_and(|rule| rule.required == Some(true))
    }

    fn requires_evidence(&self) -> bool {
        let rule = self.spec.evidence.as_ref();
        rule.is_some_and(|rule| rule.required == Some(true))
    }

    fn expects_deployment(&self) -> bool {
        let rule = self.spec.deployment.as_ref();
        rule.is_some_and(|rule| rule.expected == Some(true))
    }

    /// How many approvals are required, if any.
    fn approvals(&self) -> Option<usize> {
        let rule = self.spec.approval.as_ref()?;
        let wanted = usize::try_from(rule.min_approvals.unwrap_or(1)).unwrap_or(1);
        (rule.required == Some(true)).then_some(wanted.max(1))
    }

    fn counts_reviews_of(&self, reviewer: &str) -> bool {
        let rule = self.spec.approval.as_ref();
        let listed = rule.and_then(|rule| rule.reviewers.as_ref());
        listed.is_none_or(|listed| listed.iter().any(|name| name == reviewer))
    }

    fn attestations(&self) -> &[AttestationRule] {
        self.spec.attestations.as_deref().unwrap_or_default()
    }
}

/// An artifact that is recorded in an environment.
#[derive(Clone, Debug)]
pub struct ArtifactInput<'a> {
    /// Its canonical digest.
    pub fingerprint: Fingerprint,
    /// Its containers, each of which must comply by what counts of it.
    pub containers: BTreeSet<TrustedContainer>,
    /// Its recorded name, which decides what is shown and nothing else: whoever may edit pods can choose it.
    pub name: &'a str,
    /// The namespaces in which it is recorded.
    pub namespaces: BTreeSet<&'a str>,
}

/// What is known of an artifact, and whether it complies.
#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactVerdict {
    /// Whether it complies.
    pub state: ComplianceState,
    pub reason: VerdictReason,
    /// The reason in a few words.
    pub words: String,
    /// When it has to be assessed again because something that it is based on expires.
    pub until: Option<Timestamp>,
    /// The provenance record that is shown for it.
    pub record: Option<Arc<ProvenanceRecord>>,
    /// The state of its records taken together.
    pub status: Option<RecordState>,
    /// The reviews that count, the newest first.
    pub reviews: Vec<Arc<ApprovalReview>>,
}

impl ArtifactVerdict {
    /// Whether missing evidence may still arrive (the last column of table A).
    pub fn may_wait(&self) -> bool {
        use VerdictReason::{
            ApprovalMissing, EvidenceMissing, NoProvenance, UnexpectedDeployment, Unidentified,
            UntrustedProvenance,
        };
        matches!(
            self.reason,
            Unidentified
                | UntrustedProvenance
                | NoProvenance
                | EvidenceMissing
                | ApprovalMissing
                | UnexpectedDeployment
        )
    }

    fn severity(&self) -> u8 {
        match self.state {
            ComplianceState::Compliant => 0,
            ComplianceState::Unknown => 1,
            ComplianceState::NonCompliant if self.may_wait() => 2,
            ComplianceState::NonCompliant => 3,
        }
    }
}

/// Assesses an artifact (A1-A14; A0 is the scope of the environment, A3 is about unidentified containers). If nothing proves
/// that its containers run one image, the worst of them counts. One image under several names must comply under each. If there
/// are more than can be looked at, nobody knows whether the others comply.
pub fn evaluate(
    rules: Option<&ArtifactRules>,
    environment: &str,
    artifact: &ArtifactInput,
    resolver: &IdentityResolver,
    now: Timestamp,
) -> ArtifactVerdict {
    let mut images: BTreeMap<TrustedClass, BTreeSet<String>> = BTreeMap::new();
    for container in artifact.containers.iter().take(CONTAINERS) {
        let repositories = images
            .entry(resolver.trusted(container.digests))
            .or_default();
        repositories.extend(container.repository());
    }
    let is_own = |class: &TrustedClass| class.iter().any(|digest| digest == artifact.fingerprint);
    let own = images.keys().find(|class| is_own(class));
    let own = own.or(images.keys().next()).cloned();
    let own = own.unwrap_or_else(|| resolver.trusted(TrustedDigests::only(artifact.fingerprint)));
    let evaluate = |class: &TrustedClass, repository: Option<&str>| {
        let context = RuleContext {
            rules,
            environment,
            artifact,
            resolver,
            class,
            repository,
            now,
        };
        context.evaluate()
    };
    let of_own = images.remove(&own).unwrap_or_default();
    let mut of_own = of_own.iter().map(String::as_str);
    let mut worst = evaluate(&own, of_own.next());
    let others = images.iter().flat_map(|(class, repositories)| {
        let mut named = repositories.iter().map(String::as_str);
        let first = named.next();
        let all = [first].into_iter().chain(named.map(Some));
        all.map(move |repository| (class, repository))
    });
    for (class, repository) in of_own.map(|it| (&own, Some(it))).chain(others) {
        let verdict = evaluate(class, repository);
        worst.until = [worst.until, verdict.until].into_iter().flatten().min();
        if verdict.severity() > worst.severity() {
            // The evidence that is shown stays that of the canonical digest.
            (worst.state, worst.reason) = (verdict.state, verdict.reason);
            worst.words = verdict.words;
        }
    }
    let all = artifact.containers.len() <= CONTAINERS;
    if !all && rules.is_some() && worst.state == ComplianceState::Compliant {
        (worst.state, worst.reason) = (ComplianceState::NonCompliant, VerdictReason::Unidentified);
        worst.words = format!("it runs under more than {CONTAINERS} names and digests at once");
    }
    worst
}

/// One image under one name, with the rules and the evidence about it.
struct RuleContext<'a> {
    rules: Option<&'a ArtifactRules>,
    environment: &'a str,
    artifact: &'a ArtifactInput<'a>,
    resolver: &'a IdentityResolver<'a>,
    class: &'a TrustedClass,
    /// The repository from which it was pulled, if somebody knows it who can be trusted.
    repository: Option<&'a str>,
    now: Timestamp,
}

/// A rule that is violated, unless an exception waives it.
type Violation = (Waivable, VerdictReason, String);

impl RuleContext<'_> {
    fn evaluate(&self) -> ArtifactVerdict {
        let evidence = self.resolver.evidence;
        let trusted = evidence.counted(self.class.iter(), |ns| self.resolver.trusts(ns));
        let from = |repository: Option<&str>| -> Vec<&Arc<ProvenanceRecord>> {
            let fits = |record: &&Arc<ProvenanceRecord>| {
                let pinned = record.repository.as_deref();
                record.whole && pinned.is_none_or(|pinned| Some(pinned) == repository)
            };
            trusted.iter().copied().filter(fits).collect()
        };
        let records = from(self.repository);
        let (state, reason, words, until) =
            self.outcome(&records, &trusted, &self.reviews(&records));
        let shown = self.artifact.name.parse::<Reference>().ok();
        let shown = from(shown.as_ref().map(|reference| &*reference.repository));
        ArtifactVerdict {
            state,
            reason,
            words,
            until,
            record: shown.first().copied().cloned(),
            status: status(&shown),
            reviews: self.reviews(&shown).into_iter().rev().cloned().collect(),
        }
    }

    /// The first rule that decides, why, and until when. `records`: those that the image fits, and that can be read as a
    /// whole. What the others say well of it counts for nothing, but whoever can make up a name must not thereby get rid of
    /// what they find bad.
    fn outcome(
        &self,
        records: &[&Arc<ProvenanceRecord>],
        trusted: &[&Arc<ProvenanceRecord>],
        reviews: &[&Arc<ApprovalReview>],
    ) -> (ComplianceState, VerdictReason, String, Option<Timestamp>) {
        use ComplianceState::{Compliant, NonCompliant, Unknown};
        let Some(rules) = self.rules else {
            return (Unknown, VerdictReason::NoPolicy, String::new(), None); // A1
        };
        if let Some((reason, until)) = self.allowed() {
            let words = format!("on the allow-list: {reason}");
            return (Compliant, VerdictReason::AllowListed, words, until); // A2
        }
        let newest = [reviews.last().copied(), self.reviews(trusted).pop()];
        let mut newest = newest.into_iter().flatten();
        if let Some(rejection) = newest.find(|it| it.state == ReviewState::Rejected) {
            let words = format!("rejected by {}", rejection.reviewer);
            return (NonCompliant, VerdictReason::ApprovalRejected, words, None); // A4
        }
        let mut ends = vec![];
        let approvals = self.approvals(rules, reviews, &mut ends);
        let rows = [self.provenance(rules, records, trusted)] // A5, A6
            .into_iter()
            .chain(Self::failed(rules, trusted)) // A7
            .chain(Self::missing(rules, records, trusted)) // A8
            .chain([approvals]) // A9, A10
            .chain([self.deployment(rules, records)]); // A11
        let mut outcome = (Compliant, VerdictReason::Satisfied, String::new()); // A14
        for (waivable, reason, words) in rows.flatten() {
            let Some((why, end)) = self.waived(rules, waivable) else {
                outcome = (NonCompliant, reason, words);
                break;
            };
            let words = format!("exception: {why}");
            outcome = (Compliant, VerdictReason::ExceptionApplied, words);
            ends.extend(end);
        }
        let (state, reason, words) = outcome;
        (state, reason, words, ends.into_iter().min())
    }

    /// Why it is on the allow-list, if it is, and until when.
    fn allowed(&self) -> Option<(Box<str>, Option<Timestamp>)> {
        let entries = self
            .class
            .iter()
            .flat_map(|digest| self.resolver.evidence.allowances_of(digest));
        let active = entries.filter(|entry| {
            entry.environments.contains(self.environment) && entry.is_active(self.now)
        });
        // The entry that is valid longest.
        let end = |end: Option<Timestamp>| end.unwrap_or(Timestamp::MAX);
        let last =
            active.max_by_key(|entry| (end(entry.expires), std::cmp::Reverse(&entry.name)))?;
        Some((last.reason.clone(), last.expires))
    }

    /// The reviews that count, the oldest first.
    fn reviews(&self, records: &[&Arc<ProvenanceRecord>]) -> Vec<&Arc<ApprovalReview>> {
        let reviews = self
            .class
            .iter()
            .flat_map(|digest| self.resolver.evidence.reviews_of(digest));
        let counts = |review: &&Arc<ApprovalReview>| {
            let flow = review.flow.as_deref();
            self.resolver.trusts(&review.key.namespace)
                && review
                    .environment
                    .as_deref()
                    .is_none_or(|name| name == self.environment)
                && (records.is_empty()
                    || flow.is_none_or(|flow| {
                        let mut flows = records.iter().map(|record| record.known_flow());
                        flows.any(|known| known.is_none_or(|known| known == flow))
                    }))
                && self
                    .rules
                    .is_none_or(|rules| rules.counts_reviews_of(&review.reviewer))
        };
        let mut reviews: Vec<_> = reviews.filter(counts).collect();
        reviews.sort_by(|a, b| a.order().cmp(&b.order()));
        reviews
    }

    fn provenance(
        &self,
        rules: &ArtifactRules,
        records: &[&Arc<ProvenanceRecord>],
        trusted: &[&Arc<ProvenanceRecord>],
    ) -> Option<Violation> {
        if !rules.requires_provenance() || !records.is_empty() {
            return None;
        }
        let anywhere = self
            .class
            .iter()
            .flat_map(|digest| self.resolver.evidence.records_of(digest));
        let (reason, words) = if let Some(record) = trusted.iter().find(|it| !it.whole) {
            let words = format!("not all of its record {} can be read", record.key);
            (VerdictReason::UntrustedProvenance, words)
        } else if let Some(record) = trusted.first() {
            let pinned = record.repository.as_deref().unwrap_or_default();
            let unknown = match self.repository {
                Some(_) => "",
                None => ", and it is not known where this image is from",
            };
            let words = format!(
                "its record {} is for images from {pinned}{unknown}",
                record.key
            );
            (VerdictReason::UntrustedProvenance, words)
        } else if let Some(record) = anywhere.min_by_key(|record| &record.key) {
            let namespace = &record.key.namespace;
            let words =
                format!("its record is in namespace {namespace}, which is not trusted here");
            (VerdictReason::UntrustedProvenance, words)
        } else {
            let words = "no provenance, not on the allow-list".to_owned();
            (VerdictReason::NoProvenance, words)
        };
        Some((Waivable::Provenance, reason, words))
    }

    /// Failed attestations: any of the records, or those that the rules require by name.
    fn failed(rules: &ArtifactRules, records: &[&Arc<ProvenanceRecord>]) -> [Option<Violation>; 2] {
        let bad = attestations(records).filter(|found| !found.compliant);
        let required = bad.clone().filter(|_| rules.requires_evidence());
        let asked = bad.filter(|found| rules.attestations().iter().any(|rule| asks(rule, found)));
        let row = |waivable, names: BTreeSet<&str>| {
            let words = format!("failed evidence: {}", listed(&names));
            (!names.is_empty()).then_some((waivable, VerdictReason::EvidenceFailed, words))
        };
        [
            row(Waivable::Evidence, required.map(|it| &*it.name).collect()),
            row(Waivable::Attestations, asked.map(|it| &*it.name).collect()),
        ]
    }

    /// Missing attestations, of those that the records or the rules require.
    fn missing(
        rules: &ArtifactRules,
        records: &[&Arc<ProvenanceRecord>],
        trusted: &[&Arc<ProvenanceRecord>],
    ) -> [Option<Violation>; 2] {
        let requiring = if records.is_empty() { trusted } else { records };
        let incomplete = status(requiring) == Some(RecordState::Incomplete);
        let required = requiring.iter().flat_map(|record| record.missing.iter());
        let required = required.filter(|_| rules.requires_evidence() && incomplete);
        let asked = rules.attestations().iter();
        let asked = asked.filter(|rule| !attestations(records).any(|found| asks(rule, found)));
        let asked = asked.filter_map(|rule| rule.name.as_deref().or(rule.type_.as_deref()));
        let row = |waivable, names: BTreeSet<&str>| {
            let words = format!("missing evidence: {}", listed(&names));
            (!names.is_empty()).then_some((waivable, VerdictReason::EvidenceMissing, words))
        };
        [
            row(Waivable::Evidence, required.map(|name| &**name).collect()),
            row(Waivable::Attestations, asked.collect()),
        ]
    }

    /// Approvals count since the newest request or rejection, one for each reviewer.
    fn approvals(
        &self,
        rules: &ArtifactRules,
        reviews: &[&Arc<ApprovalReview>],
        until: &mut Vec<Timestamp>,
    ) -> Option<Violation> {
        let wanted = rules.approvals()?;
        let since = reviews
            .iter()
            .rev()
            .take_while(|review| review.state == ReviewState::Approved);
        let mut by: BTreeMap<&str, &ApprovalReview> = BTreeMap::new();
        for review in since {
            by.entry(&review.reviewer).or_insert(review); // the newest of each
        }
        let mut ends: Vec<Timestamp> = by
            .values()
            .filter(|review| !review.is_over(self.now))
            .map(|review| review.expires.unwrap_or(Timestamp::MAX))
            .collect();
        if ends.len() >= wanted {
            ends.sort_unstable();
            let end = ends[ends.len() - wanted];
            until.extend(Some(end).filter(|end| *end != Timestamp::MAX));
            return None;
        }
        if by.len() >= wanted {
            let words = "its approval has expired".to_owned();
            return Some((Waivable::Approval, VerdictReason::ApprovalExpired, words));
        }
        let words = match (wanted, ends.len()) {
            (1, _) => "no approval".to_owned(),
            (wanted, found) => format!("{found} of {wanted} approvals"),
        };
        Some((Waivable::Approval, VerdictReason::ApprovalMissing, words))
    }

    fn deployment(
        &self,
        rules: &ArtifactRules,
        records: &[&Arc<ProvenanceRecord>],
    ) -> Option<Violation> {
        let here = |record: &&Arc<ProvenanceRecord>| {
            let mut announced = record.deployments.iter();
            announced.any(|found| *found.environment == *self.environment)
        };
        if !rules.expects_deployment() || records.iter().any(here) {
            return None;
        }
        let words = format!("its deployment to {} was not announced", self.environment);
        let reason = VerdictReason::UnexpectedDeployment;
        Some((Waivable::Deployment, reason, words))
    }

    /// Why an exception waives a rule, if one does, and until when.
    fn waived(&self, rules: &ArtifactRules, rule: Waivable) -> Option<(String, Option<Timestamp>)> {
        let exceptions = rules.spec.exceptions.iter().flatten();
        let applies = |exception: &&Exception| {
            exception
                .rules
                .as_ref()
                .is_none_or(|rules| rules.contains(&rule))
                && exception.expires_at.is_none_or(|end| end > self.now)
                && self.fits(exception)
        };
        let end = |end: Option<Timestamp>| end.unwrap_or(Timestamp::MAX);
        let longest = exceptions
            .filter(applies)
            .max_by_key(|exception| end(exception.expires_at))?;
        let end = user_time::end(longest.expires_at);
        Some((longest.reason.trim().to_owned(), end))
    }

    fn fits(&self, exception: &Exception) -> bool {
        // An image without a name that can be trusted fits only what fits every name.
        let repository = self.repository.unwrap_or_default();
        let image = exception.images.as_ref();
        let place = exception.namespaces.as_ref();
        image.is_none_or(|globs| globs.iter().any(|glob| matches(glob, repository)))
            && place.is_none_or(|globs| {
                let fits = |name: &&str| globs.iter().any(|glob| matches(glob, name));
                self.artifact.namespaces.iter().all(fits)
            })
    }
}

/// The state of several records: the worst, but an incomplete one does not count beside a compliant one.
fn status(records: &[&Arc<ProvenanceRecord>]) -> Option<RecordState> {
    let states = || records.iter().map(|record| record.state);
    if states().any(|state| state == RecordState::NonCompliant) {
        return Some(RecordState::NonCompliant);
    }
    states().min() // Compliant comes before Incomplete
}

/// Whether a rule asks for an attestation. A failed one whose name or type can't be read may be the one that is asked for.
fn asks(rule: &AttestationRule, found: &AttestationRecord) -> bool {
    let fits =
        |asked: &Option<String>, found: Option<&str>| asked.is_none() || asked.as_deref() == found;
    let unread = |text: Option<&str>| !found.compliant && text == Some("");
    let (name, type_) = (Some(&*found.name), found.type_.as_deref());
    (fits(&rule.name, name) || unread(name)) && (fits(&rule.type_, type_) || unread(type_))
}

/// The attestations of all records.
fn attestations<'r>(
    records: &'r [&Arc<ProvenanceRecord>],
) -> impl Iterator<Item = &'r AttestationRecord> + Clone {
    records.iter().flat_map(|record| record.attestations.iter())
}

fn listed(names: &BTreeSet<&str>) -> String {
    let named: Vec<&str> = names.iter().copied().take(NAMED).collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests;
