//! The rows of table A, each by its number.

use kube::api::ObjectMeta;

use super::*;
use crate::{
    api::{AllowedArtifact, ArtifactApproval, ArtifactProvenance},
    compliance::{
        artifact_identity::RecordedIdentities,
        evidence::{Allowance, Evidence, EvidenceKey},
    },
    simulation::testing::digest,
};

/// What is said in a table: records (`namespace/name: spec`), reviews and entries of the allow-list, as YAML in which `$i`,
/// `$m` and `$o` stand for digests.
#[derive(Default)]
struct Said {
    evidence: Evidence,
}

fn filled(yaml: &str) -> String {
    yaml.replace("$i", &digest("i").to_string())
        .replace("$m", &digest("m").to_string())
        .replace("$o", &digest("o").to_string())
}

fn named(name: &str, number: i64) -> ObjectMeta {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let created = Timestamp::from_second(1_000_000 + number).unwrap();
    ObjectMeta {
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{number}")),
        creation_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            created,
        )),
        ..ObjectMeta::default()
    }
}

impl Said {
    fn of(said: &[&str]) -> Self {
        let mut all = Self::default();
        for (number, text) in (1..).zip(said) {
            let (what, spec) = text.split_once(": ").unwrap();
            let (kind, name) = what.split_once(' ').unwrap();
            let (metadata, spec) = (named(name, number), filled(&format!("{{{spec}}}")));
            match kind {
                "record" => {
                    let spec = serde_saphyr::from_str(&spec).unwrap();
                    let object = ArtifactProvenance {
                        metadata,
                        spec,
                        status: None,
                    };
                    let record = ProvenanceRecord::of(&object).unwrap();
                    all.evidence
                        .put_record(&EvidenceKey::of(&object), Some(record));
                }
                "review" => {
                    let spec = serde_saphyr::from_str(&spec).unwrap();
                    let object = ArtifactApproval {
                        metadata,
                        spec,
                        status: None,
                    };
                    all.evidence
                        .put_review(&EvidenceKey::of(&object), Some(&object))
                        .unwrap();
                }
                "allow" => {
                    let spec = serde_saphyr::from_str(&spec).unwrap();
                    let object = AllowedArtifact {
                        metadata,
                        spec,
                        status: None,
                    };
                    let allowance = Allowance::of(&object).unwrap();
                    all.evidence.put_allowance(name, Some(allowance));
                }
                other => panic!("{other}"),
            }
        }
        all
    }

    fn evaluate(
        &self,
        compliance: &str,
        digests: &[&str],
        namespaces: &[&str],
        now: i64,
    ) -> ArtifactVerdict {
        let spec: EnvironmentSpec = serde_saphyr::from_str(compliance).unwrap();
        let (rules, trust) = (
            ArtifactRules::of(&spec),
            ArtifactRules::trust(&spec, "shipbell"),
        );
        let recorded = RecordedIdentities::default();
        let names = IdentityResolver {
            evidence: &self.evidence,
            trust: &trust,
            recorded: &recorded,
        };
        let artifact = ArtifactInput {
            fingerprint: names.canonical(trusted(digests[0]).digests.first),
            containers: digests.iter().map(|names| trusted(names)).collect(),
            name: "ghcr.io/acme/runner:1",
            namespaces: namespaces.iter().copied().collect(),
        };
        evaluate(
            rules.as_ref(),
            "prod",
            &artifact,
            &names,
            Timestamp::from_second(now).unwrap(),
        )
    }
}

/// What counts of a container, as `first` or `first also`, and perhaps `=` and a name.
fn trusted(text: &str) -> TrustedContainer {
    let (digests, image) = text
        .split_once('=')
        .unwrap_or((text, "ghcr.io/acme/runner:1"));
    let digests = match digests.split_once(' ') {
        Some((first, also)) => TrustedDigests::both(digest(first), digest(also)),
        None => TrustedDigests::only(digest(digests)),
    };
    let image = Some(image.into()).filter(|_| !image.is_empty());
    TrustedContainer { digests, image }
}

const NOW: i64 = 2_000_000_000;
const LATER: &str = "2033-05-18T03:33:21Z"; // a second later

fn rules(more: &str) -> String {
    format!("compliance: {{provenance: {{required: true, trustedNamespaces: [ci]}}{more}}}")
}

#[test]
fn an_artifact_is_judged_by_the_first_row_that_fits() {
    use ComplianceState::{Compliant, NonCompliant, Unknown};
    let record = "record ci/r: fingerprint: $i, flow: runner";
    let good = "record ci/r: fingerprint: $i, flow: runner, requiredAttestations: [scan], attestations: [{name: scan, type: snyk, compliant: true}], deployments: [{number: 1, environment: prod, time: '2024-01-01T00:00:00Z'}]";
    let bad = "record ci/r: fingerprint: $i, flow: runner, attestations: [{name: scan, type: snyk, compliant: false}]";
    let incomplete =
        "record ci/r: fingerprint: $i, flow: runner, requiredAttestations: [scan, tests]";
    let allow = "allow a: environments: [prod], artifacts: [{fingerprint: $i, name: runner}], reason: hotfix";
    let rejected = "review ci/no: fingerprint: $i, state: rejected, reviewer: eve";
    let approved = "review ci/yes: fingerprint: $i, state: approved, reviewer: bob";
    let evidence = ", evidence: {required: true}";
    let approval = ", approval: {required: true}";
    let deployment = ", deployment: {expected: true}";
    let scan = ", attestations: [{name: scan}]";
    let snyk = ", attestations: [{type: snyk}]";
    let exception = ", exceptions: [{images: [ghcr.io/acme/*], reason: ours}]";
    for (row, more, said, want, reason, words) in [
        (
            "A2",
            "",
            &[allow][..],
            Compliant,
            "AllowListed",
            "on the allow-list: hotfix",
        ),
        (
            "A2",
            "",
            &[allow, rejected],
            Compliant,
            "AllowListed",
            "on the allow-list: hotfix",
        ),
        (
            "A6",
            "",
            &[
                "allow a: environments: [test], artifacts: [{fingerprint: $i, name: runner}], reason: elsewhere",
            ],
            NonCompliant,
            "NoProvenance",
            "no provenance, not on the allow-list",
        ),
        (
            "A6",
            "",
            &[
                "allow a: environments: [prod], artifacts: [{fingerprint: $i, name: runner}], reason: over, expiresAt: '2033-05-18T03:33:20Z'",
            ],
            NonCompliant,
            "NoProvenance",
            "no provenance, not on the allow-list",
        ),
        (
            "A4",
            "",
            &[record, rejected],
            NonCompliant,
            "ApprovalRejected",
            "rejected by eve",
        ),
        (
            "A4",
            approval,
            &[record, approved, rejected],
            NonCompliant,
            "ApprovalRejected",
            "rejected by eve",
        ),
        (
            "A4",
            approval,
            &[
                record,
                "review ci/yes: fingerprint: $i, state: approved, reviewer: bob, number: 1000000000000000",
                rejected,
            ],
            NonCompliant,
            "ApprovalRejected",
            "rejected by eve",
        ),
        (
            "A14",
            approval,
            &[record, rejected, approved],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A14",
            "",
            &[
                record,
                "review elsewhere/no: fingerprint: $i, state: rejected, reviewer: eve",
            ],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A14",
            "",
            &[
                record,
                "review ci/no: fingerprint: $i, state: rejected, reviewer: eve, environment: test",
            ],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A14",
            "",
            &[
                record,
                "review ci/no: fingerprint: $i, state: rejected, reviewer: eve, flow: another",
            ],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A5",
            "",
            &["record tenant/r: fingerprint: $i, flow: runner"],
            NonCompliant,
            "UntrustedProvenance",
            "its record is in namespace tenant, which is not trusted here",
        ),
        (
            "A5",
            "",
            &["record ci/r: fingerprint: $i, flow: runner, repository: ghcr.io/acme/other"],
            NonCompliant,
            "UntrustedProvenance",
            "its record ci/r is for images from ghcr.io/acme/other",
        ),
        (
            "A14",
            "",
            &["record ci/r: fingerprint: $i, flow: runner, repository: ghcr.io/acme/runner"],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A14",
            exception,
            &["record tenant/r: fingerprint: $i, flow: runner"],
            Compliant,
            "ExceptionApplied",
            "exception: ours",
        ),
        (
            "A6",
            "",
            &[],
            NonCompliant,
            "NoProvenance",
            "no provenance, not on the allow-list",
        ),
        (
            "A14",
            exception,
            &[],
            Compliant,
            "ExceptionApplied",
            "exception: ours",
        ),
        (
            "A4",
            exception,
            &[rejected],
            NonCompliant,
            "ApprovalRejected",
            "rejected by eve",
        ),
        (
            "A7",
            evidence,
            &[bad],
            NonCompliant,
            "EvidenceFailed",
            "failed evidence: scan",
        ),
        ("A14", "", &[bad], Compliant, "Satisfied", ""),
        (
            "A7",
            scan,
            &[bad],
            NonCompliant,
            "EvidenceFailed",
            "failed evidence: scan",
        ),
        (
            "A8",
            evidence,
            &[incomplete],
            NonCompliant,
            "EvidenceMissing",
            "missing evidence: scan, tests",
        ),
        ("A14", "", &[incomplete], Compliant, "Satisfied", ""),
        (
            "A8",
            scan,
            &[record],
            NonCompliant,
            "EvidenceMissing",
            "missing evidence: scan",
        ),
        (
            "A8",
            snyk,
            &[record],
            NonCompliant,
            "EvidenceMissing",
            "missing evidence: snyk",
        ),
        ("A14", snyk, &[good], Compliant, "Satisfied", ""),
        ("A14", evidence, &[good], Compliant, "Satisfied", ""),
        (
            "A9",
            approval,
            &[
                record,
                "review ci/yes: fingerprint: $i, state: approved, reviewer: bob, expiresAt: '2033-05-18T03:33:20Z'",
            ],
            NonCompliant,
            "ApprovalExpired",
            "its approval has expired",
        ),
        (
            "A10",
            approval,
            &[record],
            NonCompliant,
            "ApprovalMissing",
            "no approval",
        ),
        (
            "A10",
            approval,
            &[
                record,
                approved,
                "review ci/again: fingerprint: $i, state: requested, reviewer: bob",
            ],
            NonCompliant,
            "ApprovalMissing",
            "no approval",
        ),
        (
            "A10",
            ", approval: {required: true, minApprovals: 2}",
            &[
                record,
                approved,
                "review ci/yes-2: fingerprint: $i, state: approved, reviewer: bob",
            ],
            NonCompliant,
            "ApprovalMissing",
            "1 of 2 approvals",
        ),
        (
            "A14",
            ", approval: {required: true, minApprovals: 2}",
            &[
                record,
                approved,
                "review ci/yes-2: fingerprint: $i, state: approved, reviewer: ann",
            ],
            Compliant,
            "Satisfied",
            "",
        ),
        (
            "A10",
            ", approval: {required: true, reviewers: [ann]}",
            &[record, approved],
            NonCompliant,
            "ApprovalMissing",
            "no approval",
        ),
        (
            "A11",
            deployment,
            &[record],
            NonCompliant,
            "UnexpectedDeployment",
            "its deployment to prod was not announced",
        ),
        ("A14", deployment, &[good], Compliant, "Satisfied", ""),
    ] {
        let said = Said::of(said);
        let verdict = said.evaluate(&rules(more), &["i"], &["shop"], NOW);
        let found = (verdict.state, verdict.reason.as_str(), &*verdict.words);
        assert_eq!(found, (want, reason, words), "{row} {more}");
    }
    let said = Said::of(&[record]);
    let verdict = said.evaluate("{}", &["i"], &["shop"], NOW);
    assert_eq!(
        (verdict.state, verdict.reason),
        (Unknown, VerdictReason::NoPolicy),
        "A1"
    );
}

#[test]
fn what_may_still_arrive_is_waited_for_and_nothing_else_is() {
    for (row, reason, waits) in [
        ("A3", VerdictReason::Unidentified, true),
        ("A4", VerdictReason::ApprovalRejected, false),
        ("A5", VerdictReason::UntrustedProvenance, true),
        ("A6", VerdictReason::NoProvenance, true),
        ("A7", VerdictReason::EvidenceFailed, false),
        ("A8", VerdictReason::EvidenceMissing, true),
        ("A9", VerdictReason::ApprovalExpired, false),
        ("A10", VerdictReason::ApprovalMissing, true),
        ("A11", VerdictReason::UnexpectedDeployment, true),
    ] {
        let verdict = ArtifactVerdict {
            state: ComplianceState::NonCompliant,
            reason,
            words: String::new(),
            until: None,
            record: None,
            status: None,
            reviews: vec![],
        };
        assert_eq!(verdict.may_wait(), waits, "{row}");
    }
}

#[test]
fn what_ends_by_itself_is_looked_at_again_at_that_very_instant() {
    let record = "record ci/r: fingerprint: $i, flow: runner";
    let entry = |name: &str, end: &str| {
        format!(
            "allow {name}: environments: [prod], artifacts: [{{fingerprint: $i, name: r}}], reason: why{end}"
        )
    };
    let until = |more: &str, said: &[&str]| {
        let verdict = Said::of(said).evaluate(&rules(more), &["i"], &["shop"], NOW);
        verdict.until.map(|at| at.as_second() - NOW)
    };
    let ends = format!(", expiresAt: '{LATER}'");
    assert_eq!(until("", &[&entry("a", &ends)]), Some(1));
    assert_eq!(
        until("", &[&entry("a", &ends), &entry("b", "")]),
        None,
        "another holds for ever"
    );
    let exception = format!(", exceptions: [{{images: ['*'], reason: for now{ends}}}]");
    assert_eq!(until(&exception, &[]), Some(1));
    assert_eq!(until(&exception, &[record]), None, "nothing rests on it");
    let approved = |name: &str, end: &str| {
        format!("review ci/{name}: fingerprint: $i, state: approved, reviewer: {name}{end}")
    };
    let approval = ", approval: {required: true}";
    assert_eq!(until(approval, &[record, &approved("ann", &ends)]), Some(1));
    assert_eq!(
        until(
            approval,
            &[record, &approved("ann", &ends), &approved("bob", "")]
        ),
        None
    );
    let two = ", approval: {required: true, minApprovals: 2}";
    assert_eq!(
        until(
            two,
            &[record, &approved("ann", &ends), &approved("bob", "")]
        ),
        Some(1)
    );
}

#[test]
fn of_several_flows_none_may_be_bad_and_one_must_be_good() {
    let good = "record ci/a: fingerprint: $i, flow: zeta";
    let bad =
        "record ci/b: fingerprint: $i, flow: alpha, attestations: [{name: scan, compliant: false}]";
    let incomplete = "record ci/c: fingerprint: $i, flow: beta, requiredAttestations: [tests]";
    let evidence = rules(", evidence: {required: true}");
    let of = |said: &[&str]| Said::of(said).evaluate(&evidence, &["i"], &["shop"], NOW);
    assert_eq!(of(&[good, incomplete]).status, Some(RecordState::Compliant));
    assert_eq!(of(&[good, incomplete]).reason, VerdictReason::Satisfied);
    assert_eq!(of(&[good, bad]).reason, VerdictReason::EvidenceFailed);
    let shown = of(&[good, bad]).record.unwrap();
    assert_eq!(&*shown.flow, "alpha", "the smallest flow is shown");
    // Of one flow the oldest counts.
    let newer =
        "record ci/d: fingerprint: $i, flow: zeta, attestations: [{name: scan, compliant: false}]";
    assert_eq!(of(&[good, newer]).reason, VerdictReason::Satisfied);
}

#[test]
fn an_exception_for_a_namespace_is_none_for_an_image_that_runs_elsewhere_too() {
    let rules = rules(", exceptions: [{namespaces: [mesh-*], reason: bought}]");
    let said = Said::of(&[]);
    let reason = |namespaces| said.evaluate(&rules, &["i"], namespaces, NOW).reason;
    assert_eq!(reason(&["mesh-system"]), VerdictReason::ExceptionApplied);
    assert_eq!(
        reason(&["mesh-system", "shop"]),
        VerdictReason::NoProvenance
    );
    let only = crate::compliance::artifact_rules::tests::rules(
        ", approval: {required: true}, exceptions: [{rules: [provenance], images: ['ghcr.io/acme/runner'], reason: ours}]",
    );
    assert_eq!(
        said.evaluate(&only, &["i"], &["shop"], NOW).reason,
        VerdictReason::ApprovalMissing
    );
}

#[test]
fn an_image_must_comply_under_each_name_that_can_be_trusted() {
    use VerdictReason::{
        ApprovalRejected, EvidenceFailed, EvidenceMissing, ExceptionApplied, NoProvenance,
        Satisfied, UntrustedProvenance,
    };
    let exception = ", exceptions: [{images: [ghcr.io/acme/*], reason: ours}]";
    let both = ", exceptions: [{images: [ghcr.io/acme/*], reason: ours}, {images: [quay.io/a/b], reason: too}]";
    let all = ", exceptions: [{images: ['*'], reason: all}]";
    let ours = "record ci/a: fingerprint: $i, flow: a, repository: ghcr.io/acme/runner";
    let other = "record ci/b: fingerprint: $i, flow: b, repository: quay.io/a/b";
    let failed = "record ci/b: fingerprint: $i, flow: b, repository: quay.io/a/b, attestations: [{name: scan, compliant: false}]";
    let lacking = "record ci/b: fingerprint: $i, flow: b, repository: quay.io/a/b, requiredAttestations: [scan]";
    let rejected = "review ci/no: fingerprint: $i, state: rejected, reviewer: eve, flow: z";
    let anywhere = "record ci/c: fingerprint: $i, flow: c";
    let rejected_ours = "review ci/no: fingerprint: $i, state: rejected, reviewer: eve, flow: a";
    let (acme, quay, none, odd) = (
        "i=ghcr.io/acme/runner:2",
        "i=quay.io/a/b",
        "i=",
        "i=ghcr.io/acme/A",
    );
    for (more, said, containers, want) in [
        (exception, &[][..], &[acme][..], ExceptionApplied),
        (exception, &[], &[quay], NoProvenance),
        (exception, &[], &[acme, quay], NoProvenance),
        (both, &[], &[acme, quay], ExceptionApplied),
        (exception, &[], &[none], NoProvenance),
        (exception, &[], &[odd], NoProvenance),
        (all, &[], &[none], ExceptionApplied),
        // A name is that of an image, not of a container.
        (exception, &[], &[acme, none], ExceptionApplied),
        (exception, &[], &[acme, "m="], NoProvenance),
        ("", &[ours], &[acme], Satisfied),
        ("", &[ours], &[acme, quay], UntrustedProvenance),
        ("", &[ours, other], &[acme, quay], Satisfied),
        ("", &[ours], &[none], UntrustedProvenance),
        // What is bad counts under every name.
        (
            ", evidence: {required: true}",
            &[ours, failed],
            &[acme],
            EvidenceFailed,
        ),
        (
            ", attestations: [{name: scan}]",
            &[ours, failed],
            &[acme],
            EvidenceFailed,
        ),
        ("", &[ours, rejected], &[none], ApprovalRejected),
        (
            "",
            &[ours, anywhere, rejected_ours],
            &[quay],
            ApprovalRejected,
        ),
        (
            "",
            &[ours, anywhere, rejected_ours],
            &[none],
            ApprovalRejected,
        ),
        ("", &[ours, anywhere], &[none], Satisfied),
    ] {
        let verdict = Said::of(said).evaluate(&rules(more), containers, &["shop"], NOW);
        assert_eq!(verdict.reason, want, "{more} {containers:?}");
    }
    // So it does where no provenance is required.
    let evidence =
        "compliance: {provenance: {trustedNamespaces: [ci]}, evidence: {required: true}}";
    for name in [quay, acme, none] {
        for (said, want) in [(failed, EvidenceFailed), (lacking, EvidenceMissing)] {
            let verdict = Said::of(&[said]).evaluate(evidence, &[name], &["shop"], NOW);
            assert_eq!(verdict.reason, want, "{name}");
        }
    }
    // What is shown does not depend on it.
    let shown = |container| {
        Said::of(&[ours])
            .evaluate(&rules(""), &[container], &["shop"], NOW)
            .record
    };
    assert!(shown(none).is_some() && shown(none) == shown(acme));
}

#[test]
fn only_a_record_or_the_container_itself_makes_another_digest_compliant() {
    let record = "record ci/r: fingerprint: $i, aliases: [$m], flow: runner";
    let lone = "record ci/r: fingerprint: $i, flow: runner";
    let reason = |said: &Said, digests| said.evaluate(&rules(""), digests, &["shop"], NOW).reason;
    // S5, S6: a platform's manifest.
    assert_eq!(
        reason(&Said::of(&[record]), &["m"]),
        VerdictReason::Satisfied
    );
    assert_eq!(
        reason(&Said::of(&[lone]), &["m"]),
        VerdictReason::NoProvenance
    );
    // S2: what a node that calls one container by both says of that is said of no other container.
    let said = Said::of(&[lone]);
    assert_eq!(reason(&said, &["m"]), VerdictReason::NoProvenance);
    assert_eq!(
        reason(&said, &["i", "m"]),
        VerdictReason::NoProvenance,
        "the worst counts"
    );
    assert_eq!(
        reason(&said, &["i m", "m"]),
        VerdictReason::NoProvenance,
        "one container vouches for no other"
    );
    assert_eq!(reason(&said, &["i"]), VerdictReason::Satisfied);
    // Of the container itself both count, whichever was first.
    assert_eq!(reason(&said, &["i m"]), VerdictReason::Satisfied);
    assert_eq!(reason(&said, &["m i"]), VerdictReason::Satisfied);
    // A record for one platform never vouches for the index.
    assert_eq!(
        reason(
            &Said::of(&["record ci/r: fingerprint: $m, flow: runner"]),
            &["i"]
        ),
        VerdictReason::NoProvenance
    );
    // The allow-list, too, by an alias that a record vouches for.
    let allow = "allow a: environments: [prod], artifacts: [{fingerprint: $m, name: runner}], reason: hotfix";
    assert_eq!(
        reason(&Said::of(&[record, allow]), &["i"]),
        VerdictReason::AllowListed
    );
    assert_eq!(
        reason(&Said::of(&[lone, allow]), &["i"]),
        VerdictReason::Satisfied
    );
}

#[test]
fn an_image_under_more_names_than_are_looked_at_never_complies() {
    use ComplianceState::{Compliant, NonCompliant, Unknown};
    let excepted = rules(", exceptions: [{images: ['r.example/*'], reason: bought}]");
    let allowed = "allow a: environments: [prod], artifacts: [{fingerprint: $i, name: runner}], reason: hotfix";
    for (names, policy, said, want) in [
        (CONTAINERS, &excepted, vec![], Compliant),
        (CONTAINERS + 1, &excepted, vec![], NonCompliant),
        (5_000, &excepted, vec![], NonCompliant),
        (CONTAINERS, &rules(""), vec![allowed], Compliant),
        (CONTAINERS + 1, &rules(""), vec![allowed], NonCompliant),
        (5_000, &"{}".to_owned(), vec![], Unknown),
    ] {
        let names: Vec<_> = (0..names)
            .map(|it| format!("i=r.example/{it:04}:1"))
            .collect();
        let digests: Vec<_> = names.iter().map(String::as_str).collect();
        let verdict = Said::of(&said).evaluate(policy, &digests, &["shop"], NOW);
        assert_eq!(verdict.state, want, "{} {policy}", names.len());
        let unidentified = verdict.reason == VerdictReason::Unidentified;
        assert_eq!(unidentified, want == NonCompliant, "{}", names.len());
    }
    // What is bad without grace stays so.
    let rejected = "review ci/a: fingerprint: $i, state: rejected, reviewer: ann";
    let names: Vec<_> = (0..5_000)
        .map(|it| format!("i=r.example/{it:04}:1"))
        .collect();
    let digests: Vec<_> = names.iter().map(String::as_str).collect();
    let verdict = Said::of(&[rejected]).evaluate(&rules(""), &digests, &["shop"], NOW);
    assert_eq!(verdict.reason, VerdictReason::ApprovalRejected);
}

#[test]
fn a_record_that_is_not_trusted_gives_an_image_no_other_name() {
    let said = Said::of(&["record tenant/evil: fingerprint: $o, aliases: [$i], flow: evil"]);
    let verdict = said.evaluate(&rules(""), &["i"], &["shop"], NOW);
    assert_eq!(verdict.reason, VerdictReason::UntrustedProvenance);
    assert_eq!(verdict.record, None, "nor is it shown");
}
