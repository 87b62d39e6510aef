//! What the API server refuses at `kubectl apply`, with a message that names the field.

use anyhow::{Result, bail};
use kit::{Actor, Cluster, apply, play};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use shipbell::api::EnvironmentSnapshot;

/// Checks that a spec is refused, and that the message holds all of these.
async fn refused(
    cluster: &Cluster,
    kind: &str,
    metadata: &str,
    spec: &str,
    words: &[&str],
) -> Result<()> {
    let yaml = format!(
        "apiVersion: shipbell.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
    );
    match apply(&cluster.client(), yaml.as_str()).await {
        Ok(_) => bail!("accepted: {yaml}"),
        Err(error) => {
            let message = format!("{error:#}");
            for word in words {
                if !message.contains(word) {
                    bail!("{yaml}\nthe message should hold {word:?}:\n{message}");
                }
            }
            Ok(())
        }
    }
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let namespace = cluster.namespace("bad-settings").await?;
        let metadata = format!("{{name: bad, namespace: {namespace}}}");
        let good = "webhook: {url: 'https://a.example/'}";
        let many: Vec<_> = (0..257).map(|n| format!("e{n}")).collect();
        let many = format!("{{environments: [{}], {good}}}", many.join(", "));
        let long = "x".repeat(64);
        let long = format!("{{environments: [{long}], {good}}}");
        let url = "x".repeat(2_048);
        let url = format!("{{webhook: {{url: 'https://a.example/{url}'}}}}");
        let from = "urlFrom: {secretKeyRef: {name: s}}";
        for (spec, words) in [
            (
                format!("{{{good}, slack: {{{from}}}}}"),
                ["spec", "exactly one of webhook and slack"],
            ),
            (
                "{}".to_owned(),
                ["spec", "exactly one of webhook and slack"],
            ),
            (
                format!("{{webhook: {{url: 'https://a.example/', {from}}}}}"),
                ["spec.webhook", "exactly one of url and urlFrom"],
            ),
            (
                "{webhook: {}}".to_owned(),
                ["spec.webhook", "exactly one of url and urlFrom"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack.com/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack-gov.com/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'HTTPS://HOOKS.SLACK.COM/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "url"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack.com:443/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'https://me:secret@a.example/'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: ''}}".to_owned(),
                ["spec.webhook.url", "at least 1"],
            ),
            (
                "{webhook: {url: 'ftp://a.example/'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: 'a.example/hook'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: 'https://a.example/two words'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (url, ["spec.webhook.url", "2048"]),
            (
                "{slack: {}}".to_owned(),
                ["spec.slack.urlFrom", "Required value"],
            ),
            (
                "{slack: {url: 'https://hooks.slack.com/services/T/B/x'}}".to_owned(),
                ["spec.slack.url", "not declared in schema"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "Required value"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: ''}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "at least 1"],
            ),
            // It would be another path of the API server's.
            (
                "{slack: {urlFrom: {secretKeyRef: {name: '../../other/secrets/hook'}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: Hook}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: s, key: 'a b'}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.key", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: s, namespace: other}}}}".to_owned(),
                ["secretKeyRef.namespace", "not declared in schema"],
            ),
            (
                format!("{{eventTypes: [ARTIFACT_VANISHED], {good}}}"),
                ["spec.eventTypes[0]", "ARTIFACT_STARTED"],
            ),
            (
                format!("{{eventTypes: [], {good}}}"),
                ["spec.eventTypes", "at least 1"],
            ),
            (
                format!("{{eventTypes: [ARTIFACT_STARTED, ARTIFACT_STARTED], {good}}}"),
                ["spec.eventTypes", "duplicate"],
            ),
            (
                format!("{{environments: [], {good}}}"),
                ["spec.environments", "at least 1"],
            ),
            (
                format!("{{environments: [''], {good}}}"),
                ["spec.environments[0]", "at least 1"],
            ),
            (
                format!("{{environments: ['*'], {good}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [Prod], {good}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [prod, prod], {good}}}"),
                ["spec.environments", "duplicate"],
            ),
            (
                format!("{{environments: prod, {good}}}"),
                ["spec.environments", "expected list"],
            ),
            (many, ["spec.environments", "at most 256"]),
            (long, ["spec.environments[0]", "63"]),
            (
                format!("{{startFrom: 17, {good}}}"),
                ["startFrom", "exactly one name in environments"],
            ),
            (
                format!("{{startFrom: '17', environments: [a, b], {good}}}"),
                ["startFrom", "exactly one name in environments"],
            ),
            (
                format!("{{startFrom: 0, environments: [a], {good}}}"),
                ["spec.startFrom", "greater than or equal to 1"],
            ),
            (
                format!("{{startFrom: newest, {good}}}"),
                ["spec.startFrom", "should match"],
            ),
            (
                format!("{{startFrom: 1.5, environments: [a], {good}}}"),
                ["spec.startFrom", "integer"],
            ),
            (
                format!("{{suspend: 'yes', {good}}}"),
                ["spec.suspend", "boolean"],
            ),
            (
                format!("{{retry: {{maxAge: 3d}}, {good}}}"),
                ["spec.retry.maxAge", "should match"],
            ),
            (
                format!("{{retry: {{maxAge: 72}}, {good}}}"),
                ["spec.retry.maxAge", "string"],
            ),
            (
                format!("{{retry: {{maxAge: -1h}}, {good}}}"),
                ["spec.retry.maxAge", "should match"],
            ),
            (
                format!("{{retries: 3, {good}}}"),
                ["spec.retries", "not declared in schema"],
            ),
        ] {
            refused(cluster, "NotificationSetting", &metadata, &spec, &words).await?;
        }
        Ok(())
    });
}

#[test]
fn an_environment_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let requirement =
            |rest: &str| format!("{{podSelector: {{matchExpressions: [{{{rest}}}]}}}}");
        let values: Vec<_> = (0..65).map(|n| format!("v{n}")).collect();
        let globs: Vec<_> = (0..257).map(|n| format!("n{n}")).collect();
        for (spec, words) in [
            (
                "{namespaces: {include: ['Prod_*']}}".to_owned(),
                ["spec.namespaces.include[0]", "should match"],
            ),
            (
                "{namespaces: {include: ['prod-[ab]']}}".to_owned(),
                ["spec.namespaces.include[0]", "should match"],
            ),
            (
                "{namespaces: {exclude: ['']}}".to_owned(),
                ["spec.namespaces.exclude[0]", "at least 1"],
            ),
            (
                "{namespaces: {include: []}}".to_owned(),
                ["spec.namespaces.include", "at least 1"],
            ),
            (
                format!("{{namespaces: {{include: [{}]}}}}", globs.join(", ")),
                ["spec.namespaces.include", "at most 256"],
            ),
            (
                "{namespaces: [prod]}".to_owned(),
                ["spec.namespaces", "expected map"],
            ),
            (
                "{exclude: [job]}".to_owned(),
                ["spec.exclude[0]", "should match"],
            ),
            (
                "{exclude: [batch/Job]}".to_owned(),
                ["spec.exclude[0]", "should match"],
            ),
            (
                "{exclude: [Job.batch, Job.batch]}".to_owned(),
                ["spec.exclude", "duplicate"],
            ),
            (
                "{visibleTo: ['team-*']}".to_owned(),
                ["spec.visibleTo[0]", "should match"],
            ),
            (
                format!("{{visibleTo: [{}]}}", globs.join(", ")),
                ["spec.visibleTo", "at most 256"],
            ),
            (
                "{visibleTo: all}".to_owned(),
                ["spec.visibleTo", "expected list"],
            ),
            (
                requirement("key: app, operator: Equals, values: [a]"),
                ["spec.podSelector.matchExpressions[0].operator", "NotIn"],
            ),
            (
                requirement("key: app, operator: Exists, values: [a]"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "left out with Exists",
                ],
            ),
            (
                requirement("key: app, operator: DoesNotExist, values: [a]"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "left out with Exists",
                ],
            ),
            (
                requirement("key: app, operator: In"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                requirement("key: app, operator: NotIn, values: []"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                requirement("key: '', operator: Exists"),
                ["spec.podSelector.matchExpressions[0].key", "at least 1"],
            ),
            (
                requirement("key: 'two words', operator: Exists"),
                ["spec.podSelector.matchExpressions[0].key", "should match"],
            ),
            (
                requirement("key: app, operator: In, values: ['two words']"),
                [
                    "spec.podSelector.matchExpressions[0].values[0]",
                    "should match",
                ],
            ),
            (
                requirement(&format!(
                    "key: app, operator: In, values: [{}]",
                    values.join(", ")
                )),
                ["spec.podSelector.matchExpressions[0].values", "at most 64"],
            ),
            (
                "{namespaceSelector: {matchExpressions: [{key: team, operator: In}]}}".to_owned(),
                [
                    "spec.namespaceSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                "{namespaceSelector: {team: gold}}".to_owned(),
                ["spec.namespaceSelector.team", "not declared in schema"],
            ),
            (
                "{namespaceSelector: {matchLabels: {team: 'two words'}}}".to_owned(),
                ["spec.namespaceSelector.matchLabels.team", "should match"],
            ),
            (
                "{settle: {quiet: 5}}".to_owned(),
                ["spec.settle.quiet", "string"],
            ),
            (
                "{settle: {quiet: soon}}".to_owned(),
                ["spec.settle.quiet", "should match"],
            ),
            (
                "{settle: {quiet: 31s, max: 30s}}".to_owned(),
                ["spec.settle", "quiet must not be longer than max"],
            ),
            (
                "{settle: {quiet: 1m}}".to_owned(),
                ["spec.settle", "quiet must not be longer than max"],
            ),
            (
                "{settle: {max: 1s500}}".to_owned(),
                ["spec.settle.max", "should match"],
            ),
            (
                "{settle: {rollout: 15}}".to_owned(),
                ["spec.settle.rollout", "string"],
            ),
            (
                "{settle: {scaling: -30s}}".to_owned(),
                ["spec.settle.scaling", "should match"],
            ),
            (
                "{history: {maxAge: 30d}}".to_owned(),
                ["spec.history.maxAge", "should match"],
            ),
            (
                "{history: {maxAge: 5m}}".to_owned(),
                ["spec.history", "at least 1h"],
            ),
            (
                "{compliant: true}".to_owned(),
                ["spec.compliant", "not declared in schema"],
            ),
        ] {
            refused(cluster, "Environment", "{name: bad}", &spec, &words).await?;
        }
        let long = format!("{{name: {}}}", "e".repeat(64));
        refused(
            cluster,
            "Environment",
            &long,
            "{}",
            &["metadata.name", "63"],
        )
        .await?;
        Ok(())
    });
}

/// A digest: 64 hex digits.
fn digest(of: &str) -> String {
    of.repeat(64)
}

#[test]
fn rules_that_make_no_sense_are_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let known = "provenance: {required: true}";
        let exception = |fields: &str| format!("{{{known}, exceptions: [{{{fields}}}]}}");
        let many = |count: usize, item: &str| vec![item; count].join(", ");
        let numbered = |count: usize| -> String {
            let names: Vec<_> = (0..count).map(|n| format!("n{n}")).collect();
            names.join(", ")
        };
        for (rules, words) in [
            // Rules that ask for nothing, in all the ways in which that can be said.
            ("{}".to_owned(), ["spec.compliance", "asks for nothing"]),
            (
                "{provenance: {trustedNamespaces: [ci]}}".to_owned(),
                ["spec.compliance", "asks for nothing"],
            ),
            (
                "{provenance: {required: false}, evidence: {}, approval: {required: false, minApprovals: 2}, deployment: {expected: false}, attestations: [], grace: 1m}"
                    .to_owned(),
                ["spec.compliance", "asks for nothing"],
            ),
            (
                "{exceptions: [{images: [a], reason: x}]}".to_owned(),
                ["spec.compliance", "asks for nothing"],
            ),
            // Who is trusted.
            (
                "{provenance: {required: true, trustedNamespaces: []}}".to_owned(),
                ["spec.compliance.provenance.trustedNamespaces", "at least 1"],
            ),
            (
                "{provenance: {required: true, trustedNamespaces: ['*']}}".to_owned(),
                [
                    "spec.compliance.provenance.trustedNamespaces[0]",
                    "should match",
                ],
            ),
            (
                "{provenance: {required: true, trustedNamespaces: ['ci-*']}}".to_owned(),
                [
                    "spec.compliance.provenance.trustedNamespaces[0]",
                    "should match",
                ],
            ),
            (
                "{provenance: {required: true, trustedNamespaces: ['']}}".to_owned(),
                ["spec.compliance.provenance.trustedNamespaces[0]", "at least 1"],
            ),
            (
                "{provenance: {required: true, trustedNamespaces: [ci, ci]}}".to_owned(),
                ["spec.compliance.provenance.trustedNamespaces", "duplicate"],
            ),
            (
                format!("{{provenance: {{required: true, trustedNamespaces: [{}]}}}}", numbered(65)),
                ["spec.compliance.provenance.trustedNamespaces", "at most 64"],
            ),
            (
                "{provenance: true}".to_owned(),
                ["spec.compliance.provenance", "expected map"],
            ),
            (
                "{provenance: {required: 'yes'}}".to_owned(),
                ["spec.compliance.provenance.required", "boolean"],
            ),
            // Approvals.
            (
                "{approval: {required: true, minApprovals: 0}}".to_owned(),
                ["spec.compliance.approval.minApprovals", "greater than or equal to 1"],
            ),
            (
                "{approval: {required: true, minApprovals: 33}}".to_owned(),
                ["spec.compliance.approval.minApprovals", "less than or equal to 32"],
            ),
            (
                "{approval: {required: true, reviewers: []}}".to_owned(),
                ["spec.compliance.approval.reviewers", "at least 1"],
            ),
            (
                "{approval: {required: true, reviewers: ['']}}".to_owned(),
                ["spec.compliance.approval.reviewers[0]", "at least 1"],
            ),
            (
                "{approval: {required: true, reviewers: [ann, ann]}}".to_owned(),
                ["spec.compliance.approval.reviewers", "duplicate"],
            ),
            (
                format!("{{approval: {{required: true, reviewers: [{}]}}}}", numbered(65)),
                ["spec.compliance.approval.reviewers", "at most 64"],
            ),
            (
                format!("{{approval: {{required: true, reviewers: [{}]}}}}", "x".repeat(254)),
                ["spec.compliance.approval.reviewers[0]", "253"],
            ),
            // Attestations.
            (
                "{attestations: [{}]}".to_owned(),
                ["spec.compliance.attestations[0]", "name, its type, or both"],
            ),
            (
                "{attestations: [{name: ''}]}".to_owned(),
                ["spec.compliance.attestations[0].name", "at least 1"],
            ),
            (
                "{attestations: [{type: ''}]}".to_owned(),
                ["spec.compliance.attestations[0].type", "at least 1"],
            ),
            (
                format!("{{attestations: [{{name: {}}}]}}", "x".repeat(129)),
                ["spec.compliance.attestations[0].name", "128"],
            ),
            (
                "{attestations: [{name: scan, compliant: true}]}".to_owned(),
                ["spec.compliance.attestations[0].compliant", "not declared in schema"],
            ),
            (
                format!("{{attestations: [{}]}}", many(33, "{name: scan}")),
                ["spec.compliance.attestations", "at most 32"],
            ),
            // Exceptions.
            (
                exception("reason: x"),
                ["spec.compliance.exceptions[0]", "images, namespaces, or both"],
            ),
            (
                exception("rules: [approval], reason: x"),
                ["spec.compliance.exceptions[0]", "images, namespaces, or both"],
            ),
            (
                exception("images: [a]"),
                ["spec.compliance.exceptions[0].reason", "Required value"],
            ),
            (
                exception("images: [a], reason: ''"),
                ["spec.compliance.exceptions[0].reason", "at least 1"],
            ),
            (
                exception("images: [a], reason: ' \t '"),
                ["spec.compliance.exceptions[0]", "reason must say why"],
            ),
            (
                exception(&format!("images: [a], reason: {}", "x".repeat(1_025))),
                ["spec.compliance.exceptions[0].reason", "1024"],
            ),
            (
                exception("images: [], reason: x"),
                ["spec.compliance.exceptions[0].images", "at least 1"],
            ),
            (
                exception("images: [''], reason: x"),
                ["spec.compliance.exceptions[0].images[0]", "at least 1"],
            ),
            (
                exception("namespaces: [], reason: x"),
                ["spec.compliance.exceptions[0].namespaces", "at least 1"],
            ),
            (
                exception("namespaces: [Prod], reason: x"),
                ["spec.compliance.exceptions[0].namespaces[0]", "should match"],
            ),
            (
                exception("images: [a], rules: [], reason: x"),
                ["spec.compliance.exceptions[0].rules", "at least 1"],
            ),
            (
                exception("images: [a], rules: [rejection], reason: x"),
                ["spec.compliance.exceptions[0].rules[0]", "attestations"],
            ),
            (
                exception("images: [a], rules: [approval, approval], reason: x"),
                ["spec.compliance.exceptions[0].rules", "duplicate"],
            ),
            (
                exception("images: [a], reason: x, expiresAt: tomorrow"),
                ["spec.compliance.exceptions[0].expiresAt", "date-time"],
            ),
            (
                format!("{{{known}, exceptions: [{}]}}", many(65, "{images: [a], reason: x}")),
                ["spec.compliance.exceptions", "at most 64"],
            ),
            // Times.
            (
                format!("{{{known}, grace: 5}}"),
                ["spec.compliance.grace", "string"],
            ),
            (
                format!("{{{known}, grace: 1d}}"),
                ["spec.compliance.grace", "should match"],
            ),
            (
                format!("{{{known}, recoveryWindow: -1m}}"),
                ["spec.compliance.recoveryWindow", "should match"],
            ),
            (
                format!("{{{known}, onUnknownEvidence: Compliant}}"),
                ["spec.compliance.onUnknownEvidence", "not declared in schema"],
            ),
        ] {
            let spec = format!("{{compliance: {rules}}}");
            refused(cluster, "Environment", "{name: bad-rules}", &spec, &words).await?;
        }
        Ok(())
    });
}

#[test]
fn a_record_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let namespace = cluster.namespace("bad-records").await?;
        let metadata = format!("{{name: bad, namespace: {namespace}}}");
        let (a, b) = (digest("a"), digest("b"));
        let with = |fields: &str| format!("{{fingerprint: {a}, flow: web, {fields}}}");
        let many: Vec<_> = (0..65).map(|n| format!("a{n:063x}")).collect();
        let steps: Vec<_> = (0..65)
            .map(|n| format!("{{name: n{n}, compliant: true}}"))
            .collect();
        let deployment = "environment: prod, time: '2026-01-02T03:04:05Z'";
        let long = format!("https://a.example/{}", "x".repeat(2_048));
        for (spec, words) in [
            (
                "{flow: web}".to_owned(),
                ["spec.fingerprint", "Required value"],
            ),
            (
                format!("{{fingerprint: {a}}}"),
                ["spec.flow", "Required value"],
            ),
            (
                format!("{{fingerprint: 'sha256:{a}', flow: web}}"),
                ["spec.fingerprint", "64"],
            ),
            (
                format!("{{fingerprint: {}, flow: web}}", digest("A")),
                ["spec.fingerprint", "should match"],
            ),
            (
                format!("{{fingerprint: {}, flow: web}}", "a".repeat(63)),
                ["spec.fingerprint", "should be at least 64"],
            ),
            (
                format!("{{fingerprint: {a}, flow: ''}}"),
                ["spec.flow", "at least 1"],
            ),
            // It is a part of URLs.
            (
                format!("{{fingerprint: {a}, flow: 'a/b'}}"),
                ["spec.flow", "should match"],
            ),
            (
                format!("{{fingerprint: {a}, flow: ..}}"),
                ["spec.flow", "should match"],
            ),
            (
                format!("{{fingerprint: {a}, flow: {}}}", "x".repeat(129)),
                ["spec.flow", "128"],
            ),
            (
                with(&format!("aliases: [{a}]")),
                ["spec", "aliases must not hold the fingerprint itself"],
            ),
            (
                with(&format!("aliases: [{b}, {b}]")),
                ["spec.aliases", "duplicate"],
            ),
            (
                with("aliases: [x]"),
                ["spec.aliases[0]", "should be at least 64"],
            ),
            (
                with(&format!("aliases: [{}]", digest("g"))),
                ["spec.aliases[0]", "should match"],
            ),
            (
                with(&format!("aliases: [{}]", many.join(", "))),
                ["spec.aliases", "at most 64"],
            ),
            (with("name: ''"), ["spec.name", "at least 1"]),
            (
                with(&format!("name: {}", "x".repeat(254))),
                ["spec.name", "253"],
            ),
            (
                with("repository: 'ghcr.io/acme/*'"),
                ["spec.repository", "should match"],
            ),
            (with("repository: ''"), ["spec.repository", "at least 1"]),
            // Neither would ever be the name of what runs.
            (
                with("repository: acme/web"),
                ["spec.repository", "with its registry and without a tag"],
            ),
            (
                with("repository: nginx"),
                ["spec.repository", "with its registry and without a tag"],
            ),
            (
                with("repository: 'registry.example.com:5000/web:v1'"),
                ["spec.repository", "with its registry and without a tag"],
            ),
            (
                with("repository: 'ghcr.io/acme/web@sha256:1'"),
                ["spec.repository", "should match"],
            ),
            (
                with("commit: {url: 'https://a.example/'}"),
                ["spec.commit.sha", "Required value"],
            ),
            (
                with("commit: {sha: main}"),
                ["spec.commit.sha", "at least 7"],
            ),
            (
                with("commit: {sha: release-1}"),
                ["spec.commit.sha", "should match"],
            ),
            (
                with("commit: {sha: abcdef0, url: 'javascript:alert(1)'}"),
                ["spec.commit.url", "should match"],
            ),
            (
                with("build: {url: 'file:///etc/passwd'}"),
                ["spec.build.url", "should match"],
            ),
            (
                with(&format!("build: {{url: '{long}'}}")),
                ["spec.build.url", "2048"],
            ),
            (
                with("build: {startedAt: '2026-01-02T03:04:05Z'}"),
                ["spec.build.url", "Required value"],
            ),
            (
                with("build: {url: 'https://a.example/', startedAt: yesterday}"),
                ["spec.build.startedAt", "date-time"],
            ),
            (
                with("requiredAttestations: ['']"),
                ["spec.requiredAttestations[0]", "at least 1"],
            ),
            (
                with("requiredAttestations: [scan, scan]"),
                ["spec.requiredAttestations", "duplicate"],
            ),
            (
                with("attestations: [{name: scan}]"),
                ["spec.attestations[0].compliant", "Required value"],
            ),
            (
                with("attestations: [{name: scan, compliant: 'yes'}]"),
                ["spec.attestations", "compliant"],
            ),
            (
                with("attestations: [{name: '', compliant: true}]"),
                ["spec.attestations[0].name", "at least 1"],
            ),
            (
                with("attestations: [{name: scan, compliant: true, url: 'ftp://a.example/'}]"),
                ["spec.attestations[0].url", "should match"],
            ),
            (
                with(&format!("attestations: [{}]", steps.join(", "))),
                ["spec.attestations", "at most 64"],
            ),
            (
                with(&format!("deployments: [{{number: 0, {deployment}}}]")),
                ["spec.deployments[0].number", "greater than or equal to 1"],
            ),
            (
                with("deployments: [{number: 1, environment: prod}]"),
                ["spec.deployments[0].time", "Required value"],
            ),
            (
                with("deployments: [{number: 1, time: '2026-01-02T03:04:05Z'}]"),
                ["spec.deployments[0].environment", "Required value"],
            ),
            (
                with(&format!(
                    "deployments: [{{number: 1, buildURL: x, {deployment}}}]"
                )),
                ["spec.deployments[0].buildURL", "should match"],
            ),
            (
                with("approved: true"),
                ["spec.approved", "not declared in schema"],
            ),
        ] {
            refused(cluster, "ArtifactProvenance", &metadata, &spec, &words).await?;
        }
        Ok(())
    });
}

#[test]
fn a_review_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let namespace = cluster.namespace("bad-reviews").await?;
        let metadata = format!("{{name: bad, namespace: {namespace}}}");
        let a = digest("a");
        let with = |fields: &str| {
            format!("{{fingerprint: {a}, state: approved, reviewer: ann, {fields}}}")
        };
        for (spec, words) in [
            (
                "{state: approved, reviewer: ann}".to_owned(),
                ["spec.fingerprint", "Required value"],
            ),
            (
                format!("{{fingerprint: {a}, reviewer: ann}}"),
                ["spec.state", "Required value"],
            ),
            (
                format!("{{fingerprint: {a}, state: approved}}"),
                ["spec.reviewer", "Required value"],
            ),
            (
                format!("{{fingerprint: {a}, state: approved, reviewer: ''}}"),
                ["spec.reviewer", "at least 1"],
            ),
            (
                format!("{{fingerprint: {a}, state: APPROVED, reviewer: ann}}"),
                ["spec.state", "\"approved\", \"rejected\""],
            ),
            (
                "{fingerprint: abc, state: approved, reviewer: ann}".to_owned(),
                ["spec.fingerprint", "should be at least 64"],
            ),
            (
                format!(
                    "{{fingerprint: {}, state: approved, reviewer: ann}}",
                    digest("Z")
                ),
                ["spec.fingerprint", "should match"],
            ),
            (
                format!(
                    "{{fingerprint: {a}, state: approved, reviewer: {}}}",
                    "x".repeat(254)
                ),
                ["spec.reviewer", "253"],
            ),
            (with("flow: 'a b'"), ["spec.flow", "should match"]),
            (with("environment: ''"), ["spec.environment", "at least 1"]),
            (
                with(&format!("environment: {}", "x".repeat(64))),
                ["spec.environment", "63"],
            ),
            (
                with("number: 0"),
                ["spec.number", "greater than or equal to 1"],
            ),
            (
                with(&format!("comment: {}", "x".repeat(1_025))),
                ["spec.comment", "1024"],
            ),
            (
                with("url: 'javascript:alert(1)'"),
                ["spec.url", "should match"],
            ),
            (with("time: today"), ["spec.time", "date-time"]),
            (
                with("expiresAt: '2027-01-01'"),
                ["spec.expiresAt", "date-time"],
            ),
            (
                with("approvers: [bob]"),
                ["spec.approvers", "not declared in schema"],
            ),
        ] {
            refused(cluster, "ArtifactApproval", &metadata, &spec, &words).await?;
        }
        Ok(())
    });
}

#[test]
fn an_entry_of_the_allow_list_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let a = digest("a");
        let (there, image) = (
            "environments: [prod]",
            format!("artifacts: [{{fingerprint: {a}, name: nginx}}]"),
        );
        let reason = "reason: hotfix INC-42";
        let many: Vec<_> = (0..65)
            .map(|n| format!("{{fingerprint: a{n:063x}, name: nginx}}"))
            .collect();
        let names: Vec<_> = (0..65).map(|n| format!("n{n}")).collect();
        for (spec, words) in [
            (
                format!("{{{there}, {image}}}"),
                ["spec.reason", "Required value"],
            ),
            (
                format!("{{{there}, {image}, reason: ''}}"),
                ["spec.reason", "at least 1"],
            ),
            (
                format!("{{{there}, {image}, reason: '  \t'}}"),
                ["spec", "reason must say why"],
            ),
            (
                format!("{{{there}, {image}, reason: {}}}", "x".repeat(1_025)),
                ["spec.reason", "1024"],
            ),
            (
                format!("{{{there}, {image}, {reason}, expiresAt: '2019-06-01T00:00:00Z'}}"),
                ["spec", "expiresAt lies long ago"],
            ),
            (
                format!("{{{there}, {image}, {reason}, expiresAt: never}}"),
                ["spec.expiresAt", "date-time"],
            ),
            (
                format!("{{{image}, {reason}}}"),
                ["spec.environments", "Required value"],
            ),
            (
                format!("{{environments: [], {image}, {reason}}}"),
                ["spec.environments", "at least 1"],
            ),
            (
                format!("{{environments: ['*'], {image}, {reason}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [Prod], {image}, {reason}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [prod, prod], {image}, {reason}}}"),
                ["spec.environments", "duplicate"],
            ),
            (
                format!("{{environments: [{}], {image}, {reason}}}", "x".repeat(64)),
                ["spec.environments[0]", "63"],
            ),
            (
                format!(
                    "{{environments: [{}], {image}, {reason}}}",
                    names.join(", ")
                ),
                ["spec.environments", "at most 64"],
            ),
            (
                format!("{{{there}, {reason}}}"),
                ["spec.artifacts", "Required value"],
            ),
            (
                format!("{{{there}, {reason}, artifacts: []}}"),
                ["spec.artifacts", "at least 1"],
            ),
            (
                format!("{{{there}, {reason}, artifacts: [{{fingerprint: {a}}}]}}"),
                ["spec.artifacts[0].name", "Required value"],
            ),
            (
                format!("{{{there}, {reason}, artifacts: [{{fingerprint: {a}, name: ''}}]}}"),
                ["spec.artifacts[0].name", "at least 1"],
            ),
            (
                format!("{{{there}, {reason}, artifacts: [{{fingerprint: abc, name: nginx}}]}}"),
                ["spec.artifacts[0].fingerprint", "should be at least 64"],
            ),
            (
                format!(
                    "{{{there}, {reason}, artifacts: [{{fingerprint: {}, name: nginx}}]}}",
                    digest("F")
                ),
                ["spec.artifacts[0].fingerprint", "should match"],
            ),
            (
                format!("{{{there}, {reason}, artifacts: [{}]}}", many.join(", ")),
                ["spec.artifacts", "at most 64"],
            ),
        ] {
            refused(
                cluster,
                "AllowedArtifact",
                "{name: bad-entry}",
                &spec,
                &words,
            )
            .await?;
        }
        Ok(())
    });
}

#[test]
fn what_was_said_of_an_image_can_be_added_to_but_not_turned_into_something_else() {
    play(async |cluster| {
        let namespace = cluster.namespace("edits").await?;
        let (a, b, c) = (digest("a"), digest("b"), digest("c"));
        let made = async |kind: &str, metadata: &str, spec: &str| {
            let yaml = format!(
                "apiVersion: shipbell.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
            );
            apply(&cluster.client(), yaml.as_str()).await.map(drop)
        };

        let kind = "ArtifactProvenance";
        let metadata = format!("{{name: web, namespace: {namespace}}}");
        let pinned = format!("{{fingerprint: {a}, flow: web, repository: ghcr.io/acme/web}}");
        for host in [
            "localhost",
            "localhost:5000",
            "registry:5000",
            "Registry",
            "docker.io",
        ] {
            let name = host.replace(':', "-").to_lowercase();
            let metadata = format!("{{name: {name}, namespace: {namespace}}}");
            let spec =
                format!("{{fingerprint: {a}, flow: hosts, repository: '{host}/library/web'}}");
            made(kind, &metadata, &spec).await?;
        }
        // The pin can be set later, but only once.
        made(kind, &metadata, &format!("{{fingerprint: {a}, flow: web}}")).await?;
        made(kind, &metadata, &pinned).await?;
        let pin = "repository can't be changed once it is set: make a new record";
        for (spec, words) in [
            (
                format!("{{fingerprint: {b}, flow: web, repository: ghcr.io/acme/web}}"),
                ["spec.fingerprint", "fingerprint can't be changed"],
            ),
            (
                format!("{{fingerprint: {a}, flow: shop, repository: ghcr.io/acme/web}}"),
                ["spec.flow", "flow can't be changed"],
            ),
            (
                format!("{{fingerprint: {a}, flow: web, repository: ghcr.io/acme/other}}"),
                ["spec", pin],
            ),
            (format!("{{fingerprint: {a}, flow: web}}"), ["spec", pin]),
        ] {
            refused(cluster, kind, &metadata, &spec, &words).await?;
        }
        let more = format!(
            "{{fingerprint: {a}, flow: web, repository: ghcr.io/acme/web, aliases: [{b}], attestations: [{{name: scan, compliant: false}}]}}"
        );
        made(kind, &metadata, &more).await?;
        made(kind, &metadata, &more.replace("false", "true")).await?;

        let kind = "ArtifactApproval";
        let review = format!("{{fingerprint: {a}, state: approved, reviewer: ann, comment: lgtm}}");
        made(kind, &metadata, &review).await?;
        made(kind, &metadata, &review).await?;
        let never = [
            "spec",
            "a review is never edited: make a new one, the newest counts",
        ];
        for (from, to) in [
            ("approved", "rejected"),
            ("ann", "bob"),
            (", comment: lgtm", ""),
            ("lgtm", "LGTM"),
            ("lgtm}", "lgtm, expiresAt: '2099-01-01T00:00:00Z'}"),
            (&*a, &*b),
        ] {
            let spec = review.replace(from, to);
            refused(cluster, kind, &metadata, &spec, &never).await?;
        }

        let kind = "AllowedArtifact";
        let metadata = "{name: edited-entry}";
        let entry = |environments: &str, rest: &str| {
            format!("{{environments: [{environments}], reason: hotfix, {rest}}}")
        };
        let image = format!("artifacts: [{{fingerprint: {a}, name: nginx}}]");
        made(kind, metadata, &entry("edits-a, edits-b", &image)).await?;
        let words = [
            "spec.environments",
            "environments can't be changed: make a new entry",
        ];
        for environments in ["edits-a", "edits-a, edits-b, edits-c", "edits-a, edits-c"] {
            refused(
                cluster,
                kind,
                metadata,
                &entry(environments, &image),
                &words,
            )
            .await?;
        }
        // Their order is nothing. Images come and go, and an entry can be ended.
        let other = format!(
            "artifacts: [{{fingerprint: {c}, name: nginx}}], expiresAt: '2099-01-01T00:00:00Z'"
        );
        made(kind, metadata, &entry("edits-b, edits-a", &other)).await?;
        Ok(())
    });
}

#[test]
fn a_snapshot_is_never_edited() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "edited").await?;
        let api: Api<EnvironmentSnapshot> = Api::all(cluster.client());
        let name = format!("{}-0000000001", actor.name);
        for spec in [
            json!({"totals": {"instances": 9}}),
            json!({"causes": ["Restored"]}),
            json!({"checkpoint": null}),
        ] {
            let patch = Patch::Merge(json!({"spec": spec}));
            let edited = api.patch(&name, &PatchParams::default(), &patch).await;
            let message = edited.map_or_else(|error| error.to_string(), |_| "edited".to_owned());
            assert!(message.contains("a snapshot is never edited"), "{message}");
        }
        // Labels and annotations are no part of what was recorded.
        let patch = Patch::Merge(json!({"metadata": {"labels": {"example.com/kept": "yes"}}}));
        api.patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    });
}
